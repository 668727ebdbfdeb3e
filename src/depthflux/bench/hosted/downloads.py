"""Outputs → the bytes of pictures, as they came, and what they are whatever was claimed.

Knows nothing of predictions, nor of where pictures are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthflux.bench.hosted.connections import status_words
from depthflux.bench.hosted.elsewhere import Elsewhere
from depthflux.bench.hosted.errors import HostedError, UnusableOutputError
from depthflux.bench.hosted.exchanges import Answer
from depthflux.bench.hosted.key_cover import HIDDEN, bytes_without_key
from depthflux.bench.hosted.retrying import FREELY, Retries
from depthflux.errors import RequestError, show, without_secrets
from depthflux.images.container import MEDIA_TYPES
from depthflux.images.isolated import IsolatedDecoder
from depthflux.images.limits import ReadLimits
from depthflux.images.source import inline_picture, inspect_picture, read_image
from depthflux.images.text import is_url
from depthflux.images.url import shown_url

#: A side names no file of this machine. Of pictures 1536x1536 is the API's largest.
LIMITS = ReadLimits(allow_files=False, max_pixels=2**24)
#: Answers that say that an output is not to be had any more, expired, deleted or never there, where
#: they come again and again: until a picture has reached all of a CDN, they come, too. Others, 429
#: and 5xx among them, say nothing of the output itself.
GONE = frozenset({403, 404, 410})


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
        raise UnusableOutputError(str(error), data=data) from error
    width, height = source.size
    return JudgedPicture(media_type=source.media_type, width=width, height=height)


def media_type_of(data: bytes) -> str:
    """What a picture is by its begin, such as `image/jpeg`.

    Raises:
        UnusableOutputError: it is none.
    """
    try:
        return MEDIA_TYPES[inspect_picture(data, limits=LIMITS, field="output")]
    except RequestError as error:
        raise UnusableOutputError(str(error), data=data) from error


class Downloads:
    """Fetches the outputs of one side."""

    def __init__(
        self,
        elsewhere: Elsewhere,
        retries: Retries,
        *,
        key: str,
        timeout_s: float,
    ) -> None:
        """Fetch nothing yet.

        Args:
            elsewhere: asks addresses, without the key.
            retries: asks anew.
            key: never part of what is kept in a picture's place.
            timeout_s: longest time of one attempt.
        """
        self._elsewhere, self._retries = elsewhere, retries
        self._key, self._timeout_s = key, timeout_s

    def get(self, output: str) -> bytes:
        """The file of an output, as it came: an address, base64 or a data URI.

        Raises:
            UnusableOutputError: it is no picture, is gone, or is not to be fetched.
            HostedError: it cannot be had after all retries, and perhaps later.
        """
        try:
            inside = (
                None if is_url(output) else inline_picture(output, limits=LIMITS, field="output")
            )
            if inside is not None:
                _require_picture(inside)
                return inside
        except RequestError as error:
            kept = _kept(output.encode("utf-8", "replace"), self._key)
            raise UnusableOutputError(str(error), data=kept) from error
        data = self._fetched(output.strip()).body
        try:
            _require_picture(data)
        except RequestError as error:
            raise UnusableOutputError(
                f"{show(shown_url(output))} gave no picture: {error}",
                status=200,
                data=_kept(data, self._key),
            ) from error
        return data

    def _fetched(self, address: str) -> Answer:
        def ask(attempt: int) -> Answer:
            return self._elsewhere.get(
                address, most_bytes=LIMITS.max_bytes, timeout_s=self._timeout_s, attempt=attempt
            )

        answer = self._retries.answer(ask, FREELY, is_of_use=_is_picture)
        if answer.status == 200:
            return answer
        said = f"{show(shown_url(address))} answered {status_words(answer.status)} instead of a "
        if answer.status in GONE:
            raise UnusableOutputError(f"{said}picture; it may have expired.", status=answer.status)
        raise HostedError(f"{said}picture; try again later.", status=answer.status)


def _is_picture(answer: Answer) -> bool:
    """Whether an answer is a picture by its begin."""
    try:
        _require_picture(answer.body)
    except RequestError:
        return False
    return answer.status == 200


def _kept(data: bytes, key: str) -> bytes:
    """What came in a picture's place, as it may be kept: a page may hold addresses' secrets."""
    covered = bytes_without_key(data, key)
    try:
        return without_secrets(covered.decode()).encode()
    except UnicodeDecodeError:
        # What is no text stays as it came, unless the key was in it.
        return covered if HIDDEN.encode() in covered else data


def _require_picture(data: bytes) -> None:
    inspect_picture(data, limits=LIMITS, field="output")
