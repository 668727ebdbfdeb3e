"""Pixels of any kind → uint8 sRGB, and 16-bit grey where there is more than 8 bits of it.

Knows Pillow's modes and numpy's dtypes. Does not know where pixels came from, nor whether they are
a photograph or a depth map.

Decisions, the same for every way in:

- Alpha is composited over white, as a browser shows it; dropping it would bring hidden colours to
  light. Colour profiles are ignored (as diffusers does) and samples taken as sRGB: depth does not
  depend on them, and a profile applied to a supplied depth map would falsify it.
- 16-bit grey becomes uint8 by `(v + 128) // 257`, the nearest of 256 levels, exact for pictures
  that were widened by 257. 16-bit colour loses its low byte in Pillow.
- Floats are 0..1 and nothing else. A guess between 0..1 and 0..255 would be wrong silently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthflux.images.container import PictureProblemError

Grey16 = NDArray[np.uint16]
RGB = NDArray[np.uint8]

_BACKGROUND = (255, 255, 255, 255)
_MAX_16_BIT = 65535
_WIDE_GREY_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}

#: EXIF orientation → the move that brings stored pixels upright; 1 needs none.
#: Source: Exif 2.32, tag 0x0112, read as in Pillow's `ImageOps.exif_transpose`.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as its EXIF orientation (1 to 8) wants it seen; other numbers mean as stored."""
    move = _UPRIGHT.get(orientation)
    return image if move is None else image.transpose(move)


def split_pixels(image: Image.Image) -> tuple[RGB, Grey16 | None]:
    """The pixels of a Pillow picture of any mode.

    Returns:
        uint8 [H, W, 3], 0..255, sRGB, and uint16 [H, W], 0..65535, or None where the picture is
        not grey of more than 8 bits.

    Raises:
        PictureProblemError: the mode has no way to RGB, or its numbers are out of range.
    """
    if image.mode in _WIDE_GREY_MODES:
        grey = _wide_grey(image)
        return rgb_of_grey(grey), grey
    if image.mode == "LAB":
        raise PictureProblemError(
            "is a picture of mode LAB, which has no one way to RGB",
            "convert it with PIL.ImageCms.profileToProfile first",
        )
    if image.mode == "La":
        # Pillow's only way from premultiplied grey.
        image = image.convert("LA")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, _BACKGROUND)
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    # `convert` copies even from RGB to RGB. `array`, not `asarray`: Pillow's view may not be
    # written to, and torch warns of such arrays.
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), None


def rgb_of_grey(grey: Grey16) -> RGB:
    """16-bit grey as uint8 [H, W, 3] of three equal channels."""
    narrow = ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(narrow[:, :, None], 3, axis=2)


def image_of_array(array: NDArray[Any]) -> Image.Image:
    """A numpy picture as a Pillow one.

    Args:
        array: uint8 or float (0..1) of [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha last), or
            uint16 of [H, W] or [H, W, 1].

    Raises:
        PictureProblemError: another shape or dtype, NaN, or floats outside 0..1.
    """
    _check_shape(array)
    # Pillow wants the machine's own byte order, and rows without gaps at the end.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    flat = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype.kind == "f":
        flat = _integers(flat)
    elif array.dtype not in (np.uint8, np.uint16):
        raise PictureProblemError(
            f"is an array of {array.dtype}",
            "give uint8 of 0..255, uint16 grey of 0..65535, or floats of 0..1",
        )
    if flat.dtype == np.uint16 and flat.ndim == 3:
        raise PictureProblemError(
            f"is a uint16 array of shape {array.shape}",
            "16 bits are read as grey [H, W] only; divide colours by 257 and give them as uint8",
        )
    return Image.fromarray(np.ascontiguousarray(flat))


def _check_shape(array: NDArray[Any]) -> None:
    shape = array.shape
    if 0 in shape:
        raise PictureProblemError(f"is an array of shape {shape} without pixels")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return
    advice = "give [H, W], [H, W, 3] or [H, W, 4]"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        advice += "; channels come last, so transpose(1, 2, 0) helps"
    if len(shape) == 4:
        advice += "; one picture at a time, so array[0] helps"
    raise PictureProblemError(f"is an array of shape {shape}", advice)


def _integers(array: NDArray[Any]) -> NDArray[Any]:
    """Floats of 0..1 as uint8, or as uint16 where they are grey, so that no depth level is lost."""
    if not np.isfinite(array).all():
        raise PictureProblemError(
            "is an array with NaN or infinity", "replace them, e.g. with numpy.nan_to_num"
        )
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise PictureProblemError(
            f"has floats from {low:g} to {high:g}",
            "floats must lie in 0..1; divide by their maximum, or give uint8 or uint16",
        )
    # float64, since 65535 levels do not all survive float16.
    wide = array.astype(np.float64)
    if array.ndim == 2:
        return np.rint(wide * _MAX_16_BIT).astype(np.uint16)
    return np.rint(wide * 255).astype(np.uint8)


def _wide_grey(image: Image.Image) -> Grey16:
    values = np.asarray(image)
    if image.mode == "F":
        return _integers(values).astype(np.uint16)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_16_BIT:
        raise PictureProblemError(
            f"is 32-bit grey from {low} to {high}", f"give 16-bit grey, 0..{_MAX_16_BIT}"
        )
    grey = values.astype(np.uint16)
    # PNG names one grey level as transparent; Pillow converts it for 8 bits only.
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[grey == transparent] = _MAX_16_BIT
    return grey
