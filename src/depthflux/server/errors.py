"""The server's own refusals, each with its HTTP status; they join the tree of depthflux.errors.

    RequestError
    ├─ UnauthorizedError       no API key, or a wrong one             HTTP 401
    ├─ ForeignPageError        a web page of others asks              HTTP 403
    ├─ NotFoundError           no such prediction, upload or picture  HTTP 404
    ├─ TooLargeError           the body is larger than accepted       HTTP 413
    ├─ UnsupportedBodyError    the body is of another kind            HTTP 415
    ├─ MisdirectedError        asked under a name that is not ours    HTTP 421
    ├─ IdempotencyError        the key came with another request      HTTP 422
    └─ ModeratedError          every picture was flagged              a task's code 1200
    BusyError                                                         HTTP 429
    ├─ CrowdedError            too many bytes of bodies are here      HTTP 503
    └─ DrainingError           the server is about to end             HTTP 503
    SetupError
    ├─ StoreError              the store cannot be read or written    HTTP 503
    └─ RefusedError            the engine cannot be loaded            exit code 3

Knows nothing of HTTP beyond these numbers.
"""

from __future__ import annotations

from depthflux.errors import BusyError, RequestError, SetupError

#: Task codes of the hosted endpoint that no error outside of the server has.
CODE_MODERATED, CODE_FAILED, CODE_INTERNAL = 1200, 1405, 5000

_NO_KEY = (
    "Authorization: the API key is missing or wrong; send the header Authorization: Bearer KEY "
    "with a key of this server."
)
_ALL_FLAGGED = "The safety checker flagged every picture; another prompt or seed may help."


class UnauthorizedError(RequestError):
    """The request has no API key, or a wrong one."""

    http_status = 401

    def __init__(self, message: str = _NO_KEY) -> None:
        super().__init__(message, field="Authorization", allowed="Bearer KEY")


class ForeignPageError(RequestError):
    """A browser says that a web page of somebody else asks."""

    http_status = 403


class NotFoundError(RequestError):
    """There is nothing under this id, name or path, or it is another key's."""

    http_status = 404


class TooLargeError(RequestError):
    """The body has more bytes than are accepted."""

    http_status = 413


class UnsupportedBodyError(RequestError):
    """The body is of another kind than the route takes, such as a form instead of JSON."""

    http_status = 415


class MisdirectedError(RequestError):
    """The Host header names no host of ours, as after a name was rebound to this machine."""

    http_status = 421


class IdempotencyError(RequestError):
    """An Idempotency-Key has come with another request before."""

    http_status = 422


class ModeratedError(RequestError):
    """Every picture of a prediction was flagged, and the server is set to fail it then."""

    hosted_code = CODE_MODERATED

    def __init__(self, message: str = _ALL_FLAGGED) -> None:
        super().__init__(message)


class CrowdedError(BusyError):
    """The bodies of other requests take all the memory that there is for bodies."""

    http_status = 503
    hosted_code = 5003


class DrainingError(BusyError):
    """The server finishes what runs and takes nothing new."""

    http_status = 503
    hosted_code = 5003


class StoreError(SetupError):
    """The store cannot be read or written just now, such as on a full disk."""


class RefusedError(SetupError):
    """The engine cannot be loaded; the message is the worker's own."""
