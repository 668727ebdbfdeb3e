"""The source image: whatever a caller gives → RGB pixels, and the bytes that are them.

The doors of this package: `read_image`, and for a server that takes pictures in now and reads them
later `inspect_picture` and `inline_picture`. It decides what kind of thing it was given, has the
header judged before anything is decoded, and turns every trouble into one clear line. It does not
know what the picture is for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthflux.errors import UnreadableImageError, show
from depthflux.images.container import (
    MEDIA_TYPES,
    Header,
    PictureFormat,
    PictureProblemError,
)
from depthflux.images.decoding import (
    DECODER_ERRORS,
    MemoryProblemError,
    Pixels,
    decode,
    unreadable,
)
from depthflux.images.encode import encode_pixels
from depthflux.images.formats import ROOMS, require_format
from depthflux.images.limits import DEFAULT_LIMITS, ReadLimits, megabytes
from depthflux.images.pixels import (
    RGB,
    Grey16,
    image_of_array,
    split_pixels,
    turn_upright,
)
from depthflux.images.text import Given, bytes_of_path, bytes_of_text, is_url

ALLOWED = (
    "a PNG, JPEG or WebP picture as path, http(s) URL, data URI, base64 or bytes, a PIL image, "
    "or a numpy array"
)

#: Two channels this far apart (of 255) are colour; JPEG's rounding of grey stays below 8.
_COLOUR_DISTANCE = 16
#: Share of such pixels from which a picture counts as coloured: more than a small watermark.
_COLOUR_SHARE = 0.01


#: Stripped bytes, their header and the limits they were judged by → pixels.
Decoder = Callable[[bytes, Header, ReadLimits], Pixels]


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceImage:
    """A picture as the rest of depthflux takes it.

    Attributes:
        rgb: uint8 [H, W, 3], 0..255, sRGB, upright, transparent parts over white.
        grey16: uint16 [H, W], 0..65535, where the source was grey of more than 8 bits (16-bit PNG,
            integers or floats in memory); else None. For supplied depth maps.
        data: bytes which `read_image` turns into exactly these pixels again, without place, time,
            camera, texts, previews or whatever else the file carried. Pictures from memory: PNG.
        media_type: of `data`.
        sha256: of `data`, 64 hexadecimal digits.
        origin: where it came from in one short word: the path, the URL without its query, "bytes".
    """

    # Not in repr: a log line must not print a picture.
    rgb: RGB = dataclass_field(repr=False)
    grey16: Grey16 | None = dataclass_field(repr=False)
    data: bytes = dataclass_field(repr=False)
    media_type: str
    sha256: str
    origin: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        height, width = self.rgb.shape[:2]
        return width, height

    @cached_property
    def is_coloured(self) -> bool:
        """Whether channels differ noticeably: 16 of 255 or more in over 1 % of the pixels.

        Large pictures are judged by a regular sample of about a million pixels.
        """
        stride = max(1, int((self.rgb.shape[0] * self.rgb.shape[1] / 2**20) ** 0.5))
        sample = self.rgb[::stride, ::stride]
        # By channels, ten times faster than over the last axis.
        red, green, blue = sample[:, :, 0], sample[:, :, 1], sample[:, :, 2]
        highest = np.maximum(np.maximum(red, green), blue)
        distance = highest - np.minimum(np.minimum(red, green), blue)
        return bool((distance >= _COLOUR_DISTANCE).mean() > _COLOUR_SHARE)


def _decode_here(data: bytes, header: Header, limits: ReadLimits) -> Pixels:
    """Decode in this process, whose memory and time are the only bounds beyond the header's."""
    del limits
    return decode(data, header)


def read_image(
    source: object,
    *,
    limits: ReadLimits = DEFAULT_LIMITS,
    field: str = "control_image",
    decoder: Decoder = _decode_here,
) -> SourceImage:
    """Read a picture from wherever it is.

    Args:
        source: a path (`~` allowed, `file:` URIs of this machine too), an http or https URL, a data
            URI, bare base64 (standard or URL-safe), bytes, a PIL image of any mode, or a numpy
            array: uint8 or float 0..1 of [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or uint16 of
            [H, W]. A `SourceImage` is returned as it is.
        limits: how large it may be and where it may come from.
        field: the request field it was given for, named in errors.
        decoder: what turns a file's bytes into pixels; `decode` of an `IsolatedDecoder` does it in
            a process of its own, for pictures from people one does not know.

    Raises:
        UnreadableImageError: it is not there, is no PNG, JPEG or WebP, is damaged or too large.
        ImageFetchError: its URL is refused or gives nothing.
    """
    if isinstance(source, SourceImage):
        return source
    shown = show(source)
    try:
        if isinstance(source, Image.Image):
            return _from_image(source, limits, "PIL image")
        if isinstance(source, np.ndarray):
            shown = "a numpy array"
            return _from_array(source, limits)
        given = _given(source, limits, field)
        shown = given.shown
        return _from_data(given.load(), limits, given.origin, decoder)
    except PictureProblemError as problem:
        raise _unreadable(field, shown, problem) from problem


def inspect_picture(
    data: bytes, *, limits: ReadLimits = DEFAULT_LIMITS, field: str = "control_image"
) -> PictureFormat:
    """Judge a picture by its container, without decoding it.

    Args:
        data: the file's bytes.
        limits: how large it may be.
        field: what it was given for, named in errors.

    Returns:
        Its format, whatever its name says.

    Raises:
        UnreadableImageError: it is no PNG, JPEG or WebP, is cut off or too large.
    """
    try:
        return _read_header(data, limits).format
    except PictureProblemError as problem:
        raise _unreadable(field, f"{len(data)} bytes", problem) from problem


def inline_picture(
    text: str, *, limits: ReadLimits = DEFAULT_LIMITS, field: str = "control_image"
) -> bytes | None:
    """The picture that a text holds itself, judged as by `inspect_picture`.

    Args:
        text: a data URI, base64, or an http or https URL; `limits` says whether a path may be, too.
        limits: how large it may be.
        field: what it was given for, named in errors.

    Returns:
        The bytes; None for a URL, which is well formed but not yet fetched.

    Raises:
        UnreadableImageError: it is neither, or no usable picture.
        ImageFetchError: the URL is one that is never fetched.
    """
    if is_url(text):
        # httpx costs 0.2 s to import, which a picture inside the text must not pay.
        from depthflux.images.fetch import check_url

        check_url(text, field=field)
        return None
    origin = show(text)
    try:
        given = bytes_of_text(text, limits=limits, field=field)
        origin = given.shown
        data = given.load()
        _read_header(data, limits)
    except PictureProblemError as problem:
        raise _unreadable(field, origin, problem) from problem
    return data


def _read_header(data: bytes, limits: ReadLimits) -> Header:
    if len(data) > limits.max_bytes:
        raise PictureProblemError(
            f"has {megabytes(len(data))}",
            f"at most {megabytes(limits.max_bytes)} are read; make it smaller",
        )
    header = ROOMS[require_format(data)].read_header(data)
    _check_header(header, limits)
    return header


def _given(source: object, limits: ReadLimits, field: str) -> Given:
    """Where a file's bytes come from; nothing is read yet."""
    if isinstance(source, bytes | bytearray | memoryview):
        size = memoryview(source).nbytes
        return Given(origin="bytes", shown=f"{size} bytes", load=lambda: bytes(source))
    if isinstance(source, os.PathLike):
        path = os.fsdecode(source)
        return Given(origin=path, shown=repr(path), load=lambda: bytes_of_path(path, limits))
    if isinstance(source, str):
        return bytes_of_text(source, limits=limits, field=field)
    raise PictureProblemError("is no picture", f"give {ALLOWED}")


def _from_data(data: bytes, limits: ReadLimits, origin: str, decoder: Decoder) -> SourceImage:
    header = _read_header(data, limits)
    # Only what is kept is ever decoded: no parser of EXIF, XMP, texts or profiles sees the file.
    stripped = ROOMS[header.format].strip(data, header.orientation)
    pixels = decoder(stripped, header, limits)
    return SourceImage(
        rgb=pixels.rgb,
        grey16=pixels.grey16,
        data=stripped,
        media_type=MEDIA_TYPES[header.format],
        sha256=hashlib.sha256(stripped).hexdigest(),
        origin=origin,
    )


def _from_image(image: Image.Image, limits: ReadLimits, origin: str) -> SourceImage:
    """A picture in memory; of an animation, the frame it stands at."""
    _check_size(image.width, image.height, limits)
    try:
        # Pillow opens files lazily, so a broken one may show only here.
        image.load()
        orientation = image.getexif().get(0x0112, 1)
        rgb, grey16 = split_pixels(turn_upright(image, orientation))
    except DECODER_ERRORS as error:
        raise unreadable(error) from error
    except MemoryError as error:
        raise MemoryProblemError from error
    data = encode_pixels(rgb if grey16 is None else grey16)
    return SourceImage(
        rgb=rgb,
        grey16=grey16,
        data=data,
        media_type=MEDIA_TYPES["png"],
        sha256=hashlib.sha256(data).hexdigest(),
        origin=origin,
    )


def _from_array(array: NDArray[Any], limits: ReadLimits) -> SourceImage:
    if array.ndim in (2, 3):
        _check_size(array.shape[1], array.shape[0], limits)
    return _from_image(image_of_array(array), limits, "numpy array")


def _check_header(header: Header, limits: ReadLimits) -> None:
    _check_size(header.width, header.height, limits)
    if header.frames > limits.max_frames:
        raise PictureProblemError(
            f"is an animation of {header.frames} frames", "give one frame of it as a picture"
        )


def _check_size(width: int, height: int, limits: ReadLimits) -> None:
    if width < 1 or height < 1:
        raise PictureProblemError(f"has no pixels ({width}x{height})")
    if max(width, height) > limits.max_side:
        raise PictureProblemError(
            f"has {width}x{height} pixels",
            f"at most {limits.max_side} are read in one direction; make it smaller",
        )
    if width * height > limits.max_pixels:
        raise PictureProblemError(
            f"has {width}x{height} pixels",
            f"at most {limits.max_pixels} are read, such as {int(limits.max_pixels**0.5)} squared; "
            "make it smaller",
        )


def _unreadable(field: str, origin: str, problem: PictureProblemError) -> UnreadableImageError:
    advice = f"; {problem.advice}" if problem.advice else ""
    return UnreadableImageError(
        f"{field}={origin}: {problem}{advice}.", field=field, value=origin, allowed=ALLOWED
    )
