"""Outputs → the bytes of pictures, as they came, and what they are whatever was claimed.

Knows nothing of predictions, nor of where pictures are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from depthflux.bench.hosted.connections import status_words
from depthflux.bench.hosted.elsewhere import Elsewhere
from depthflux.bench.hosted.errors import UnusableOutputError
from depthflux.bench.hosted.exchanges import Answer
from depthflux.bench.hosted.retrying import FREELY, with_retries
from depthflux.errors import RequestError, show
from depthflux.images.container import MEDIA_TYPES
from depthflux.images.isolated import IsolatedDecoder
from depthflux.images.limits import ReadLimits
from depthflux.images.source import inline_picture, inspect_picture, read_image
from depthflux.images.text import is_url
from depthflux.images.url import shown_url

#: A side names no file of this machine. Of pictures 1536x1536 is the API's largest.
LIMITS = ReadLimits(allow_files=False, max_pixels=2**24)


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """An output's file.

    Attributes:
        data: its bytes as they came.
        media_type: what they are, such as `image/jpeg`.
        headers: of the answer, names in lower case; empty for a picture inside the answer itself.
        seconds: of the fetch that gave it, redirects included; 0 for one that needed none.
    """

    data: bytes = field(repr=False)
    media_type: str
    headers: dict[str, str] = field(repr=False)
    seconds: float


@dataclass(frozen=True, kw_only=True)
class JudgedPicture:
    """What a picture is once it was decoded.

    Attributes:
        media_type: such as `image/jpeg`.
        width: pixels, upright.
        height: pixels, upright.
    """

    media_type: str
    width: int
    height: int


def judge_picture(data: bytes, decoder: IsolatedDecoder) -> JudgedPicture:
    """Decode a picture of a side in a process of its own, and say what it is.

    Args:
        data: as downloaded.
        decoder: starts that process; good for many pictures.

    Raises:
        UnusableOutputError: it is none, or damaged.
        NoDecoderError: no such process starts.
    """
    try:
        source = read_image(data, limits=LIMITS, field="output", decoder=decoder.decode)
    except RequestError as error:
        raise UnusableOutputError(str(error)) from error
    width, height = source.size
    return JudgedPicture(media_type=source.media_type, width=width, height=height)


class Downloads:
    """Fetches the outputs of one side."""

    def __init__(
        self,
        elsewhere: Elsewhere,
        *,
        timeout_s: float,
        sleep: Callable[[float], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Fetch nothing yet.

        Args:
            elsewhere: asks addresses, without the key.
            timeout_s: longest time of one attempt.
            sleep: waits before something is asked anew.
            wall: seconds since 1970.
        """
        self._elsewhere, self._timeout_s = elsewhere, timeout_s
        self._sleep, self._wall = sleep, wall

    def get(self, output: str) -> Downloaded:
        """The file of an output: an address, base64 or a data URI.

        Raises:
            UnusableOutputError: it is no picture, or not to be fetched.
            UnreachableError, NoAnswerError: it cannot be had after all retries.
        """
        try:
            inside = (
                None if is_url(output) else inline_picture(output, limits=LIMITS, field="output")
            )
            if inside is not None:
                media_type = _media_type(inside)
                return Downloaded(data=inside, media_type=media_type, headers={}, seconds=0.0)
        except RequestError as error:
            raise UnusableOutputError(str(error)) from error
        answer = self._fetched(output.strip())
        try:
            media_type = _media_type(answer.body)
        except RequestError as error:
            raise UnusableOutputError(
                f"{show(shown_url(output))} gave no picture: {error}", status=200
            ) from error
        return Downloaded(
            data=answer.body,
            media_type=media_type,
            headers=answer.headers,
            seconds=answer.seconds,
        )

    def _fetched(self, address: str) -> Answer:
        def ask(attempt: int) -> Answer:
            return self._elsewhere.get(
                address, most_bytes=LIMITS.max_bytes, timeout_s=self._timeout_s, attempt=attempt
            )

        answer = with_retries(ask, FREELY, sleep=self._sleep, wall=self._wall)
        if answer.status != 200:
            raise UnusableOutputError(
                f"{show(shown_url(address))} answered {status_words(answer.status)} instead of a "
                "picture; it may have expired.",
                status=answer.status,
            )
        return answer


def _media_type(data: bytes) -> str:
    return MEDIA_TYPES[inspect_picture(data, limits=LIMITS, field="output")]
