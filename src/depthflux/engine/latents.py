"""Latents packed into the transformer's tokens, unpacked again, and decoded into pixels.

A token holds 2 x 2 latent cells: packed latents are [B, S, 4·C] with S = (h/2)·(w/2), channels
outermost within a token, tokens row by row. FLUX: C = 16, so 64 numbers a token of 16 x 16 pixels.

Knows nothing of noise, schedules or prompts.
"""

from __future__ import annotations

import numpy as np
import torch

from depthflux.errors import NonFiniteError
from depthflux.model.loading import Model
from depthflux.model.offload import decode_in_tiles


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, C, h, w], h and w even, as tokens [B, (h/2)·(w/2), 4·C]."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens [B, (h/2)·(w/2), 4·C] as latents [B, C, h, w]; the inverse of `pack`."""
    batch, _, channels = tokens.shape
    cells = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def image_ids(height: int, width: int) -> torch.Tensor:
    """Each token's place for the rotary embedding, float32 [(h/2)·(w/2), 3]: (0, row, column)."""
    rows, columns = torch.meshgrid(
        torch.arange(height // 2), torch.arange(width // 2), indexing="ij"
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def decode(
    model: Model, tokens: torch.Tensor, height: int, width: int, *, tiled: bool = False
) -> np.ndarray:
    """Decode packed latents [1, S, 4·C] of an h x w grid to uint8 [H, W, 3], 0..255, sRGB.

    Args:
        model: whose autoencoder decodes.
        tokens: packed latents.
        height: latent rows h.
        width: latent columns w.
        tiled: decode in tiles, in less memory; see depthflux.model.offload.

    Raises:
        NonFiniteError: the decoder produced NaN or infinity.
    """
    config = model.vae.config
    latents = unpack(tokens, height, width) / config.scaling_factor + config.shift_factor
    # float32 before the range is moved: in bfloat16 the grey values would be 3 bits too coarse.
    latents = latents.to(model.vae.dtype)
    if tiled:
        painted = decode_in_tiles(model.vae, latents)
    else:
        painted = model.vae.decode(latents, return_dict=False)[0]
    pixels = painted[0].float()
    finite = torch.isfinite(pixels).all()
    picture = _to_host(to_bytes(pixels))
    # Asked after the copy, so that the host waits for the device once.
    if not finite:
        raise NonFiniteError("the picture decoder produced NaN or infinity; try another seed.")
    return picture


def to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels float32 [3, H, W] as uint8 [H, W, 3], on their device: -1 becomes 0, 1 becomes 255.

    What lies beyond is clipped; rounds to the nearest, halves to even.
    """
    unit = (pixels * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0)
    return (unit * 255).round().to(torch.uint8).contiguous()


def _to_host(picture: torch.Tensor) -> np.ndarray:
    """The same numbers in host memory; waits for what is queued on the device's stream."""
    if picture.device.type != "cuda":
        return picture.cpu().numpy()
    # Into pinned memory the device copies by itself, without a second copy by the host.
    pinned = torch.empty(picture.shape, dtype=picture.dtype, pin_memory=True)
    pinned.copy_(picture, non_blocking=True)
    torch.cuda.current_stream(picture.device).synchronize()
    return pinned.numpy()
