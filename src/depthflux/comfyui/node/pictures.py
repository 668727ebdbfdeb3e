"""ComfyUI's IMAGE and files: float32 [B, H, W, 3], 0..1, sRGB ↔ PNG of 8 bits, without loss.

Knows nothing of where files come from or go to.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from .errors import NodeError, show

#: Files and pixels of a larger control image are refused by engines, unless their settings say
#: otherwise; no picture comes out larger than 1636 a side, so little is lost by making it smaller.
MOST_BYTES = 32 * 2**20
MOST_PIXELS = 2**26
#: Where a PNG's header says how its pixels are coded, and what of it is taken: 8 bits, grey or RGB.
_CODING = slice(24, 26)
_CODINGS = (b"\x08\x00", b"\x08\x02")
#: uint8 [H, W, 3], 0..255, sRGB.
Pixels = npt.NDArray[np.uint8]


def png_of(image: torch.Tensor) -> bytes:
    """The one picture of an IMAGE as PNG.

    Args:
        image: float [1, H, W, C], 0..1; of four channels the fourth, transparency, is left out.

    Raises:
        NodeError: it is no picture, or more than one.
    """
    if not isinstance(image, torch.Tensor):
        # What a socket of any type can give.
        raise NodeError(
            f"control_image is {show(image)}; allowed: an IMAGE, [1, height, width, 3]."
        )
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise NodeError(
            f"control_image has the shape {list(image.shape)}; allowed: an IMAGE, "
            "[1, height, width, 3]."
        )
    if image.shape[0] != 1:
        raise NodeError(
            f"control_image has {image.shape[0]} pictures; allowed: one. Take one of the batch "
            "with ImageFromBatch, and give the others to nodes of their own."
        )
    height, width = image.shape[1:3]
    if height * width > MOST_PIXELS:
        raise _too_large(image, f"{MOST_PIXELS / 1e6:.0f} million pixels")
    values = image[0, :, :, :3].detach().cpu().to(torch.float32).numpy()
    if not np.isfinite(values).all():
        raise NodeError("control_image has values that are no numbers; give it another picture.")
    pixels = np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    # Quick rather than small: it goes no further than this machine, as a rule.
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    png = buffer.getvalue()
    if len(png) > MOST_BYTES:
        size = f"{len(png) / 2**20:.0f} MiB as PNG"
        raise _too_large(image, f"{MOST_BYTES // 2**20} MiB as PNG; it has {size}")
    return png


def _too_large(image: torch.Tensor, allowed: str) -> NodeError:
    return NodeError(
        f"control_image of {image.shape[2]}*{image.shape[1]} pixels is too large; allowed: "
        f"{allowed}. Make it smaller with ImageScale: pictures come out at 1636 a side at most."
    )


def pixels_of(png: bytes, size: tuple[int, int]) -> Pixels:
    """The pixels of a PNG that must be of one size.

    Args:
        png: the file's bytes, a server's.
        size: width and height in pixels.

    Raises:
        NodeError: it is no such picture.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            # Before its pixels are unpacked, which for another size could be any number.
            if picture.size != size:
                raise NodeError(
                    f"the server answered with a picture of {picture.width}*{picture.height} "
                    f"instead of {size[0]}*{size[1]}; see that it is a depthflux of this version."
                )
            if png[_CODING] not in _CODINGS or getattr(picture, "is_animated", False):
                raise NodeError(
                    "the server answered with a PNG that is animated, or not of 8 bits in grey or "
                    "RGB; see that it is a depthflux of this version."
                )
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NodeError(
            "the server answered with something that is no PNG; see that it is a depthflux of "
            "this version."
        ) from error


def pixels_of_picture(picture: Any) -> Pixels:
    """The pixels of a PIL picture, a grey one as RGB."""
    return np.asarray(picture.convert("RGB"))


def batch_of(pictures: Sequence[Pixels]) -> torch.Tensor:
    """Pictures of one size as an IMAGE: float32 [B, H, W, 3], 0..1."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255.0)


def is_grey(pixels: Pixels) -> bool:
    """Whether a picture has no colour anywhere, as a depth map has none."""
    return bool((pixels[..., :1] == pixels).all())
