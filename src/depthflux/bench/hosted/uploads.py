"""Uploads of control images: by a form, or by a ticket as the current official clients do.

Knows nothing of versions, nor of what the pictures show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from depthflux.bench.hosted.connections import status_words
from depthflux.bench.hosted.elsewhere import Elsewhere
from depthflux.bench.hosted.errors import HostedError, UnreadableAnswerError
from depthflux.bench.hosted.exchanges import Answer
from depthflux.bench.hosted.keyed import KeyedApi
from depthflux.bench.hosted.replies import read_data, read_ticket, read_uploaded
from depthflux.bench.hosted.retrying import FREELY, with_retries
from depthflux.images.container import MEDIA_TYPES
from depthflux.images.source import inspect_picture

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture that was uploaded.

    Attributes:
        url: its address, good as `control_image`.
        exchanges: how many requests it took that were answered with success: 1, or 2 by a ticket.
        seconds: of these together, pauses and failed attempts left out.
    """

    url: str
    exchanges: int
    seconds: float


class Uploads:
    """Uploads pictures to one side."""

    def __init__(
        self,
        api: KeyedApi,
        elsewhere: Elsewhere,
        *,
        timeout_s: float,
        sleep: Callable[[float], None],
        wall: Callable[[], float],
    ) -> None:
        """Send nothing yet.

        Args:
            api: asked with the key.
            elsewhere: asked without it, for a ticket's address.
            timeout_s: longest time of one request.
            sleep: waits before something is sent anew.
            wall: seconds since 1970.
        """
        self._api, self._elsewhere = api, elsewhere
        self._timeout_s, self._sleep, self._wall = timeout_s, sleep, wall

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
        sent = {"file": filename, "bytes": len(data), "media_type": media_type}

        def ask(attempt: int) -> Answer:
            return self._api.ask(
                "POST",
                path,
                timeout_s=self._timeout_s,
                attempt=attempt,
                content=content,
                media_type=form.headers["Content-Type"],
                sent=sent,
            )

        answer = self._asked(ask, "to an upload")
        url = self._read(answer, read_uploaded)
        return Upload(url=url, exchanges=1, seconds=answer.seconds)

    def by_ticket(self, path: str, data: bytes, filename: str) -> Upload:
        """Ask for a ticket, and put the bytes to its address with its headers alone.

        Raises:
            UnreadableImageError: the bytes are no picture.
            HostedError, KeyRefusedError: it was refused, or there was no usable answer.
        """
        media_type = MEDIA_TYPES[inspect_picture(data)]
        wanted = {"filename": filename, "size": len(data), "content_type": media_type}

        def ask(attempt: int) -> Answer:
            return self._api.ask(
                "POST",
                path,
                timeout_s=self._timeout_s,
                attempt=attempt,
                content=json.dumps(wanted).encode(),
                sent=wanted,
            )

        first = self._asked(ask, "to an upload's announcement")
        ticket = self._read(first, read_ticket)

        def put(attempt: int) -> Answer:
            return self._elsewhere.put(
                ticket.url, data, ticket.headers, timeout_s=self._timeout_s, attempt=attempt
            )

        second = with_retries(put, FREELY, sleep=self._sleep, wall=self._wall)
        if not 200 <= second.status < 300:
            raise HostedError(
                f"An upload to its ticket's address was answered {status_words(second.status)}; "
                "try again.",
                status=second.status,
            )
        return Upload(url=ticket.download_url, exchanges=2, seconds=first.seconds + second.seconds)

    def _asked(self, ask: Callable[[int], Answer], what: str) -> Answer:
        answer = with_retries(ask, FREELY, sleep=self._sleep, wall=self._wall)
        if answer.status != 200:
            raise self._api.refusal(answer, what)
        return answer

    def _read(self, answer: Answer, read: Callable[[dict[str, Any]], _Value]) -> _Value:
        try:
            return read(read_data(answer.body))
        except UnreadableAnswerError as error:
            raise self._api.unreadable(error) from None
