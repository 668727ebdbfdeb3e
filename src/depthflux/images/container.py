"""The words that the three picture formats share: their names, their header, their troubles.

Knows no format from inside (each has its own room: `png`, `jpeg`, `webp`), and nothing of pixels,
files or requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

PictureFormat = Literal["png", "jpeg", "webp"]

#: Format → media type, as data URIs and HTTP name it.
MEDIA_TYPES: dict[PictureFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}

#: Format → file name extension without the dot; the hosted endpoint writes "jpeg", not "jpg".
EXTENSIONS: dict[PictureFormat, str] = {"png": "png", "jpeg": "jpeg", "webp": "webp"}


class PictureProblemError(Exception):
    """What is wrong with a picture or a URL, not yet knowing whose; no caller of ours ever sees it.

    Attributes:
        advice: what to do about it, in words.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem)
        self.advice = advice


class DamagedError(PictureProblemError):
    """The bytes break the rules of their own format."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"is damaged ({detail})", "download or export it again; damaged pictures are not read"
        )


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture says of itself before it is decoded.

    Attributes:
        format: which of the three it is.
        width: pixels as stored, before the orientation is applied.
        height: pixels as stored, before the orientation is applied.
        frames: 1, or how many an animation has.
        orientation: 1 to 8 as EXIF numbers them, 1 = as stored.
    """

    format: PictureFormat
    width: int
    height: int
    frames: int
    orientation: int


class Room(Protocol):
    """What each format's module offers."""

    def read_header(self, data: bytes) -> Header:
        """The header; the whole container is walked, so a cut-off file is found here."""

    def strip(self, data: bytes, orientation: int) -> bytes:
        """The same pixels without metadata, trailing bytes and previews."""

    def embed(self, data: bytes, record: bytes) -> bytes:
        """The same picture with a record (ASCII) inside."""

    def extract(self, data: bytes) -> bytes | None:
        """The record's ASCII bytes, None where there is none."""
