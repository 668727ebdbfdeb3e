"""Stripped bytes and their header → pixels: the one place where a picture's bytes meet a decoder.

Everything that Pillow does to bytes from outside is done here, in a function that needs nothing
else, so that it can run in this process or in one of its own (`isolated`). Does not know where the
bytes came from, what may be accepted, or which process it runs in.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import NamedTuple

from PIL import Image

from depthflux.images.container import Header, PictureProblemError
from depthflux.images.pixels import RGB, Grey16, split_pixels, turn_upright

#: What Pillow's three decoders raise on broken bytes. In 36 000 damaged files only OSError (with
#: its subclass for unknown files) was seen; the others stand in Pillow's source.
DECODER_ERRORS = (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    AssertionError,
    struct.error,
    zlib.error,
)


class Pixels(NamedTuple):
    """A decoded picture, upright.

    Attributes:
        rgb: uint8 [H, W, 3], 0..255, sRGB, transparent parts over white.
        grey16: uint16 [H, W], 0..65535, where the file was grey of more than 8 bits; else None.
    """

    rgb: RGB
    grey16: Grey16 | None


class MemoryProblemError(PictureProblemError):
    """There was not enough memory to decode it."""

    def __init__(self) -> None:
        super().__init__("takes more memory to decode than there is", "make it smaller")


def decode(data: bytes, header: Header) -> Pixels:
    """Decode a picture.

    Args:
        data: a file without metadata, as `strip` of its format's room gives it.
        header: what it says of itself, its size judged.

    Raises:
        PictureProblemError: it is damaged, or of a kind that has no way to RGB.
        MemoryProblemError: there was not enough memory.
    """
    try:
        image = _open(data, header)
        try:
            return Pixels(*split_pixels(turn_upright(image, header.orientation)))
        except DECODER_ERRORS as error:  # such as a palette's picture without its palette
            raise unreadable(error) from error
    except MemoryError as error:
        raise MemoryProblemError from error


def unreadable(error: BaseException) -> PictureProblemError:
    """An error of Pillow's, in words of ours."""
    return PictureProblemError(f"cannot be read by Pillow ({_one_line(error)})")


def upright_size(header: Header) -> tuple[int, int]:
    """Width and height of the picture once it is upright."""
    # From 5 on the orientations of EXIF exchange rows and columns.
    size = (header.width, header.height)
    return size[::-1] if header.orientation >= 5 else size


def _open(data: bytes, header: Header) -> Image.Image:
    try:
        # `formats` keeps every other decoder that Pillow or a plugin offers out of it.
        image = Image.open(io.BytesIO(data), formats=[header.format.upper()])
        if image.size != (header.width, header.height):
            raise PictureProblemError("is damaged (its headers name two sizes)")
        image.load()
    except DECODER_ERRORS as error:
        raise PictureProblemError(
            f"does not decode ({_one_line(error)})",
            "download or export it again; damaged pictures are not read",
        ) from error
    return image


def _one_line(error: BaseException) -> str:
    # Without a buffer's address in memory, which Pillow names where it knows no file's name.
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>", "", str(error))
    return " ".join(text.split()) or type(error).__name__
