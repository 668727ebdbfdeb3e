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

from .errors import NodeError

#: uint8 [H, W, 3], 0..255, sRGB.
Pixels = npt.NDArray[np.uint8]


def png_of(image: torch.Tensor) -> bytes:
    """The one picture of an IMAGE as PNG.

    Args:
        image: float [1, H, W, C], 0..1; of four channels the fourth, transparency, is left out.

    Raises:
        NodeError: it is no picture, or more than one.
    """
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
    values = image[0, :, :, :3].detach().cpu().to(torch.float32).numpy()
    if not np.isfinite(values).all():
        raise NodeError("control_image has values that are no numbers; give it another picture.")
    pixels = np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    # Quick rather than small: it goes no further than this machine, as a rule.
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


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
