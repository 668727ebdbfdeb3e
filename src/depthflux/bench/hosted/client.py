"""A client of the hosted API: upload, submit, poll, download, each bounded, measured and recorded.

It behaves as the official clients do, with two differences that a comparison needs: nothing that
may cost is ever sent twice, and the API key goes to the base address alone. Every side is asked by
this one client. Knows nothing of cases, sides or folders.

    with HostedClient("https://api.wavespeed.ai", read_key(os.environ)) as client:
        picture = client.upload(data, "room.png")
        submission = client.submit({"prompt": "…", "control_image": picture.url})
        prediction = client.poll(submission.id)       # until prediction.has_ended
        pictures = [client.download(output) for output in prediction.outputs]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from depthflux.bench.hosted.accounts import KEY_VARIABLE, check_key
from depthflux.bench.hosted.base_url import (
    Version,
    check_private,
    parse_base_url,
    result_path,
    submission_path,
    upload_path,
)
from depthflux.bench.hosted.downloads import Downloads
from depthflux.bench.hosted.elsewhere import Elsewhere
from depthflux.bench.hosted.errors import (
    HostedError,
    NoAnswerError,
    SubmissionLostError,
    UnreadableAnswerError,
)
from depthflux.bench.hosted.exchanges import Answer, Exchange, Recorder
from depthflux.bench.hosted.keyed import Call, KeyedApi
from depthflux.bench.hosted.replies import (
    SYNC_EXPIRED,
    HostedPrediction,
    read_data,
    read_prediction,
    told_id,
)
from depthflux.bench.hosted.retrying import FREELY, SUBMISSIONS, Retries
from depthflux.bench.hosted.states import StateReader
from depthflux.bench.hosted.surroundings import Surroundings
from depthflux.bench.hosted.uploads import Upload, Uploads

#: `code` of answers that came before the pictures in sync mode; the task goes on.
_SYNC_CODES = frozenset({SYNC_EXPIRED})

__all__ = ["Exchange", "HostedClient", "HostedPrediction", "Submission", "Upload"]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Longest waits in seconds, those of the official Python client 2.0.5 where it has them.

    Attributes:
        connect_s: for a connection.
        submit_s: for the answer to a submission.
        sync_s: likewise in sync mode, where the hosted side itself waits up to 90 s.
        poll_s: for a state.
        upload_s: for an upload.
        download_s: for a whole picture, redirects included.
    """

    connect_s: float = 10.0
    submit_s: float = 60.0
    sync_s: float = 150.0
    poll_s: float = 30.0
    upload_s: float = 120.0
    download_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission that was taken.

    Attributes:
        id: of the prediction.
        prediction: its state in the answer; in sync mode mostly its last one.
        seconds: from sending it until the answer was here, of the attempt that was taken; pauses
            after 429 are not in it.
    """

    id: str
    prediction: HostedPrediction
    seconds: float


class HostedClient:
    """Asks one side; several threads may do so at a time.

    A request that fails raises `HostedError`, `KeyRefusedError` where the key is at fault.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        version: Version = "v2",
        allow_private: bool = False,
        key_name: str = KEY_VARIABLE,
        timeouts: Timeouts | None = None,
        on_exchange: Callable[[Exchange], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        surroundings: Surroundings | None = None,
    ) -> None:
        """Ask nobody yet, but for the name of an http address.

        Args:
            base_url: such as `https://api.wavespeed.ai`, without `/api/v2`; http only where it
                leads to this machine or a private network.
            key: sent as a bearer's, to the base address alone.
            version: of the API.
            allow_private: let outputs and upload tickets lie at private addresses beside the base
                address itself, such as another port of this machine.
            key_name: how messages call the key.
            timeouts: longest waits.
            on_exchange: told of each request and its answer, in the thread that asked.
            sleep: waits so many seconds before something is sent anew; may raise to give up.
            surroundings: clocks, names and certificates; None = the usual ones.

        Raises:
            SettingsError: the base address or the key is refused.
        """
        check_key(key, key_name)
        self._base = parse_base_url(base_url)
        around = surroundings or Surroundings()
        check_private(self._base, around.resolver)
        self._version = version
        times = self._timeouts = timeouts or Timeouts()
        recorder = Recorder(key, on_exchange, clock=around.clock, wall=around.wall)
        self._api = KeyedApi(
            self._base, key, recorder, key_name=key_name, connect_s=times.connect_s, tls=around.tls
        )
        elsewhere = Elsewhere(
            self._base,
            key,
            recorder,
            allow_private=allow_private,
            connect_s=times.connect_s,
            resolver=around.resolver,
            tls=around.tls,
        )
        retries = self._retries = Retries(sleep=sleep, wall=around.wall)
        self._uploads = Uploads(self._api, elsewhere, retries, timeout_s=times.upload_s)
        self._downloads = Downloads(elsewhere, retries, key=key, timeout_s=times.download_s)

    def __repr__(self) -> str:
        return f"HostedClient({self._base.text!r}, key=…, version={self._version!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._api.close()

    @property
    def base_url(self) -> str:
        """The base address, as documents name it."""
        return self._base.text

    @property
    def authority(self) -> str:
        """Host and port, as a person calls the side."""
        return self._base.authority

    def upload(self, data: bytes, filename: str) -> Upload:
        """Upload a picture, by which it gets an address that is good as `control_image`.

        v2: one multipart request. v3: a ticket, and the bytes to its address, without the key.

        Args:
            data: a PNG, JPEG or WebP file.
            filename: its name, with an ending that fits.

        Raises:
            HostedError: it was refused, or there was no usable answer.
            KeyRefusedError: the key was refused.
        """
        path = upload_path(self._version)
        by = self._uploads.by_form if self._version == "v2" else self._uploads.by_ticket
        return by(path, data, filename)

    def submit(self, fields: Mapping[str, Any], *, sync_mode: bool = False) -> Submission:
        """Ask for a prediction; this is what costs.

        It is sent again only where it surely was not taken: after 429, and where there was no
        connection.

        Args:
            fields: of the request, as the API calls them.
            sync_mode: have the answer wait for the pictures; where it does not come in time it
                is one of a prediction that goes on, to be polled like others.

        Raises:
            SubmissionLostError: it may have been taken.
            HostedError: it surely was not taken, such as for bad parameters.
            KeyRefusedError: the key was refused.
        """
        call = Call.of_json(
            submission_path(self._version),
            dict(fields) | ({"enable_sync_mode": True} if sync_mode else {}),
            timeout_s=self._timeouts.sync_s if sync_mode else self._timeouts.submit_s,
        )
        try:
            answer = self._retries.answer(lambda attempt: self._api.ask(call, attempt), SUBMISSIONS)
        except (NoAnswerError, UnreadableAnswerError) as error:
            raise _lost(str(error), status=error.status) from None
        except HostedError as error:
            if error.may_be_taken:
                raise _lost(str(error), status=error.status) from None
            raise
        prediction = self._submitted(answer, sync_mode)
        return Submission(id=prediction.id, prediction=prediction, seconds=answer.seconds)

    def poll(self, prediction_id: str) -> HostedPrediction:
        """The state of a prediction, asked for where it always is, whatever `urls.get` says.

        Raises:
            HostedError: no answer of use after five retries, such as that there is no such
                prediction.
            KeyRefusedError: the key was refused.
        """
        path = result_path(self._version, prediction_id)
        call = Call(method="GET", path=path, timeout_s=self._timeouts.poll_s)
        reader = StateReader(self._api, prediction_id, _SYNC_CODES)
        answer = self._retries.answer(
            lambda attempt: self._api.ask(call, attempt), FREELY, is_of_use=reader.says_something
        )
        return reader.result(answer)

    def download(self, address: str) -> bytes:
        """The file of an output: an address, which is asked without the key, base64 or a data URI.

        Raises:
            UnusableOutputError: it is no picture, is gone, or is not to be fetched.
            HostedError: it cannot be had after five retries.
        """
        return self._downloads.get(address)

    def _submitted(self, answer: Answer, sync_mode: bool) -> HostedPrediction:
        """The prediction of a submission's answer."""
        if 400 <= answer.status < 500:
            raise self._api.refusal(answer, "to a submission, which was not taken")
        if answer.status != 200:
            refusal = self._api.refusal(answer, "to a submission")
            raise _lost(
                str(refusal),
                status=answer.status,
                code=refusal.code,
                prediction_id=told_id(answer.body),
            )
        codes = _SYNC_CODES if sync_mode else frozenset()
        try:
            return read_prediction(read_data(answer.body, codes))
        except UnreadableAnswerError as error:
            unreadable = self._api.unreadable(error, error.prediction_id)
            if error.code is not None and 400 <= error.code < 500:
                unreadable.status = answer.status
                raise unreadable from None
            raise _lost(
                str(unreadable),
                status=answer.status,
                code=error.code,
                prediction_id=error.prediction_id or told_id(answer.body),
            ) from None


def _lost(
    why: str, *, status: int | None, code: int | None = None, prediction_id: str = ""
) -> SubmissionLostError:
    return SubmissionLostError(
        f"A submission may have been taken and may cost, so it is not sent again: {why}",
        status=status,
        code=code,
        prediction_id=prediction_id,
    )
