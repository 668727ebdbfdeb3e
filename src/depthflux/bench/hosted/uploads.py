"""Uploads of control images: by a form, or by a ticket as the current official clients do.

Knows nothing of versions, nor of what the pictures show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from depthflux.bench.hosted.connections import status_words
from depthflux.bench.hosted.elsewhere import Elsewhere
from depthflux.bench.hosted.errors import HostedError, UnreadableAnswerError
from depthflux.bench.hosted.exchanges import Answer
from depthflux.bench.hosted.keyed import Call, KeyedApi
from depthflux.bench.hosted.replies import read_data, read_ticket, read_uploaded
from depthflux.bench.hosted.retrying import FREELY, Retries
from depthflux.images.container import MEDIA_TYPES
from depthflux.images.source import inspect_picture

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture that was uploaded.

    Attributes:
        url: its address, good as `control_image`.
        seconds: of the one request that was answered with success, or by a ticket of the two;
            pauses and failed attempts are not in it.
    """

    url: str
    seconds: float


class Uploads:
    """Uploads pictures to one side."""

    def __init__(
        self,
        api: KeyedApi,
        elsewhere: Elsewhere,
        retries: Retries,
        *,
        timeout_s: float,
    ) -> None:
        """Send nothing yet.

        Args:
            api: asked with the key.
            elsewhere: asked without it, for a ticket's address.
            retries: sends anew.
            timeout_s: longest time of one request.
        """
        self._api, self._elsewhere = api, elsewhere
        self._retries, self._timeout_s = retries, timeout_s

    def by_form(self, path: str, data: bytes, filename: str) -> Upload:
        """Upload by one multipart request; its field is `file`.

        Raises:
            UnreadableImageError: the bytes are no picture.
            HostedError, KeyRefusedError: it was refused, or there was no usable answer.
        """
        media_type = MEDIA_TYPES[inspect_picture(data)]
        # Only its encoding of a form is used; nothing is sent to this address.
        form = httpx.Request(
            "POST", "http://form.invalid/", files={"file": (filename, data, media_type)}
        )
        content = form.read()
        call = Call(
            method="POST",
            path=path,
            timeout_s=self._timeout_s,
            content=content,
            media_type=form.headers["Content-Type"],
            sent={"file": filename, "bytes": len(data), "media_type": media_type},
        )
        answer = self._asked(call, "to an upload")
        url = self._read(answer, read_uploaded)
        return Upload(url=url, seconds=answer.seconds)

    def by_ticket(self, path: str, data: bytes, filename: str) -> Upload:
        """Ask for a ticket, and put the bytes to its address with its headers alone.

        Raises:
            UnreadableImageError: the bytes are no picture.
            HostedError, KeyRefusedError: it was refused, or there was no usable answer.
        """
        media_type = MEDIA_TYPES[inspect_picture(data)]
        wanted = {"filename": filename, "size": len(data), "content_type": media_type}

        call = Call.of_json(path, wanted, timeout_s=self._timeout_s)
        first = self._asked(call, "to an upload's announcement")
        ticket = self._read(first, read_ticket)

        def put(attempt: int) -> Answer:
            return self._elsewhere.put(
                ticket.url, data, ticket.headers, timeout_s=self._timeout_s, attempt=attempt
            )

        second = self._retries.answer(put, FREELY)
        if not 200 <= second.status < 300:
            raise HostedError(
                f"An upload to its ticket's address was answered {status_words(second.status)}; "
                "try again.",
                status=second.status,
            )
        return Upload(url=ticket.download_url, seconds=first.seconds + second.seconds)

    def _asked(self, call: Call, what: str) -> Answer:
        answer = self._retries.answer(lambda attempt: self._api.ask(call, attempt), FREELY)
        if answer.status != 200:
            raise self._api.refusal(answer, what)
        return answer

    def _read(self, answer: Answer, read: Callable[[dict[str, Any]], _Value]) -> _Value:
        try:
            return read(read_data(answer.body))
        except UnreadableAnswerError as error:
            raise self._api.unreadable(error) from None
