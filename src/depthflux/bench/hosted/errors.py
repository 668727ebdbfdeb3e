"""What can go wrong with a side that is asked over the hosted API; part of depthflux.errors' tree.

    GenerationError
    └─ HostedError                the side refused, failed or answered what is of no use
       ├─ UnreachableError           no connection: surely nothing was sent
       ├─ NoAnswerError              sent, and no whole answer came
       ├─ UnreadableAnswerError      an answer came that the API does not have
       ├─ SubmissionLostError        a submission that may have been taken, and so may cost
       └─ UnusableOutputError        an output that is no picture, or is gone
          └─ NotAskedError           an address that our own rules refuse
    SettingsError
    └─ KeyRefusedError            the API key was refused: the whole run ends

Knows nothing of how a side is asked.
"""

from __future__ import annotations

from depthflux.errors import GenerationError, SettingsError


class HostedError(GenerationError):
    """The side refused, failed or answered what is of no use; the same may work later.

    Attributes:
        status: of HTTP; None where there was no answer.
        code: the side's own number of the error, of its envelope; None where it gave none.
        may_be_taken: whether it is about a submission that may have been taken, and so may cost:
            it must not be sent again.
        prediction_id: of the prediction that it is about, as far as the side has told; else empty.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        may_be_taken: bool = False,
        prediction_id: str = "",
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.may_be_taken, self.prediction_id = may_be_taken, prediction_id


class UnreachableError(HostedError):
    """There is no connection to the side, so surely nothing was sent."""


class NoAnswerError(HostedError):
    """Something was sent, and no whole answer came."""


class UnreadableAnswerError(HostedError):
    """An answer came that the API does not have, such as one that is no JSON."""


class SubmissionLostError(HostedError):
    """A submission may have been taken, and so may cost; nobody may send it again by himself."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        prediction_id: str = "",
    ) -> None:
        super().__init__(
            message, status=status, code=code, may_be_taken=True, prediction_id=prediction_id
        )


class UnusableOutputError(HostedError):
    """An output that is no picture, or is gone, however often it was asked for just now.

    Attributes:
        data: what came in its place, less the secrets of a text; empty where nothing is to be kept.
    """

    def __init__(self, message: str, *, status: int | None = None, data: bytes = b"") -> None:
        super().__init__(message, status=status)
        self.data = data


class NotAskedError(UnusableOutputError):
    """An address that is not asked, by our own rules and not the side's fault alone."""


class KeyRefusedError(SettingsError):
    """The side refused the API key, so every further request would be refused, too.

    Attributes:
        status: 401 or 403.
    """

    def __init__(self, message: str, *, fix: str = "", status: int = 401) -> None:
        super().__init__(message, fix=fix)
        self.status = status
