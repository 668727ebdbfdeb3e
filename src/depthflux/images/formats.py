"""Which format some bytes are, and the room that knows it.

Decides by the first bytes, whatever a name or a media type says. Knows what the usual wrong files
look like, so that a refusal can say what was given. Decodes nothing.
"""

from __future__ import annotations

from depthflux.images import jpeg, png, webp
from depthflux.images.container import PictureFormat, PictureProblemError, Room

ROOMS: dict[PictureFormat, Room] = {"png": png, "jpeg": jpeg, "webp": webp}

# What people hand in by mistake, told apart so that the message can help.
_OTHER_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "a GIF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\x00", "a TIFF picture"),
    (0, b"MM\x00*", "a TIFF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftyphei", "a HEIC picture, as iPhones take them"),
    (4, b"ftypmif1", "a HEIC picture, as iPhones take them"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL ", "a JPEG XL picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x93NUMPY", "a numpy file; load it and pass the array"),
)


def format_of(data: bytes) -> PictureFormat | None:
    """The format by the first bytes, whatever a name or a media type says."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def require_format(data: bytes) -> PictureFormat:
    """The format, or what the bytes are instead.

    Raises:
        PictureProblemError: the bytes are no PNG, JPEG or WebP.
    """
    found = format_of(data)
    if found is None:
        raise PictureProblemError(
            f"is {_describe(data)}, no PNG, JPEG or WebP picture",
            "give one of these three, or convert it to one",
        )
    return found


def _describe(data: bytes) -> str:
    if not data:
        return "empty"
    for offset, signature, name in _OTHER_SIGNATURES:
        if data.startswith(signature, offset):
            return name
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if b"<svg" in start:
        return "an SVG drawing"
    # A multi-byte character may be cut at the end of the sample.
    text = data[:512].decode("utf-8", errors="ignore")
    controls = sum(not character.isprintable() and character not in "\t\r\n" for character in text)
    if text and controls == 0 and len(text.encode()) >= len(data[:512]) - 3:
        return "text"
    return f"{len(data)} bytes of something else"
