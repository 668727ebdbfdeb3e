"""Rectified flow over packed latents: noise levels, the loss, and a plain sampler.

Shared by base and control; knows nothing of where pictures, prompts or weights come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

# FLUX.1-dev's schedule shifts noise levels by exp(mu); mu grows linearly with the number of tokens.
_BASE_TOKENS, _MAX_TOKENS, _BASE_MU, _MAX_MU = 256, 4096, 0.5, 1.15
# Sampling starts at pure noise, where a logit-normal alone puts .35 % of the samples; 40 % are
# drawn there.
_HIGH_NOISE_SHARE, _HIGH_NOISE_FROM = 0.4, 0.7
GUIDANCE = 3.5
"""What the pipeline passes; the demo's guidance embedding is zero, so it has no effect."""


@dataclass(frozen=True)
class Batch:
    """What one training step needs.

    Attributes:
        latents: float32 [B, 16, h, w], pictures.
        states: float32 [B, 32, 128], T5's.
        pooled: float32 [B, 128], CLIP's.
        control: float32 [B, 16, h, w], depth maps, or None for the base.
        weights: float32 [B, h/2 * w/2], how much each token's error counts, or None for all alike.
    """

    latents: Tensor
    states: Tensor
    pooled: Tensor
    control: Tensor | None = None
    weights: Tensor | None = None


def pack(latents: Tensor) -> Tensor:
    """Latents [B, 16, h, w] to tokens [B, h/2 * w/2, 64], channel first in a token as in FLUX."""
    batch, channels, height, width = latents.shape
    cells = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`; height and width in latent cells."""
    cells = tokens.view(tokens.shape[0], height // 2, width // 2, -1, 2, 2).permute(
        0, 3, 1, 4, 2, 5
    )
    return cells.reshape(tokens.shape[0], -1, height, width)


def positions(height: int, width: int) -> Tensor:
    """Position ids [h/2 * w/2, 3] of image tokens: (0, row, column)."""
    ids = torch.zeros(height // 2, width // 2, 3)
    ids[..., 1] = torch.arange(height // 2)[:, None]
    ids[..., 2] = torch.arange(width // 2)[None]
    return ids.view(-1, 3)


def shift_of(tokens: int) -> float:
    """The scheduler's mu for a number of image tokens."""
    return _BASE_MU + (tokens - _BASE_TOKENS) * (_MAX_MU - _BASE_MU) / (_MAX_TOKENS - _BASE_TOKENS)


def shifted(levels: Tensor, tokens: int) -> Tensor:
    """Noise levels 0..1 moved towards 1 as the scheduler does."""
    factor = math.exp(shift_of(tokens))
    return factor * levels / (1 + (factor - 1) * levels)


def noise_levels(count: int, tokens: int) -> Tensor:
    """Noise levels [count] to train on: shifted logit-normal, and extra ones near 1."""
    usual = shifted(torch.sigmoid(torch.randn(count)), tokens)
    high = torch.empty(count).uniform_(_HIGH_NOISE_FROM, 1.0)
    return torch.where(torch.rand(count) < _HIGH_NOISE_SHARE, high, usual)


def velocity(
    transformer: FluxTransformer2DModel,
    tokens: Tensor,
    levels: Tensor,
    batch: Batch,
    image_ids: Tensor,
) -> Tensor:
    """What the transformer answers for noisy tokens [B, S, 64 or 128] at noise levels [B]."""
    return transformer(
        hidden_states=tokens,
        encoder_hidden_states=batch.states,
        pooled_projections=batch.pooled,
        timestep=levels,
        img_ids=image_ids,
        txt_ids=torch.zeros(batch.states.shape[1], 3),
        guidance=torch.full_like(levels, GUIDANCE),
        return_dict=False,
    )[0]


def flow_loss(
    transformer: FluxTransformer2DModel, batch: Batch, levels: Tensor | None = None
) -> Tensor:
    """Mean squared error [B] of the predicted velocity, noise minus picture."""
    clean = pack(batch.latents)
    if levels is None:
        levels = noise_levels(clean.shape[0], clean.shape[1])
    noise = torch.randn_like(clean)
    noisy = torch.lerp(clean, noise, levels[:, None, None])
    if batch.control is not None:
        noisy = torch.cat([noisy, pack(batch.control)], dim=-1)
    answer = velocity(transformer, noisy, levels, batch, positions(*batch.latents.shape[-2:]))
    error = (answer - (noise - clean)).square().mean(dim=2)
    if batch.weights is not None:
        error = error * batch.weights
    return error.mean(dim=1)


@torch.no_grad()
def sample(
    transformer: FluxTransformer2DModel,
    batch: Batch,
    steps: int,
    generator: torch.Generator,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents [B, 16, h, w] by Euler steps on FLUX's schedule; batch.latents gives the size."""
    height, width = batch.latents.shape[-2:]
    control = None if batch.control is None else pack(batch.control)
    tokens = pack(torch.randn(batch.latents.shape, generator=generator))
    levels = [*shifted(torch.linspace(1.0, 1.0 / steps, steps), tokens.shape[1]).tolist(), 0.0]
    ids = positions(height, width)
    for step in range(steps):
        seen = tokens if control is None else torch.cat([tokens, control], dim=-1)
        now = torch.full((tokens.shape[0],), levels[step])
        answer = velocity(transformer, seen, now, batch, ids)
        tokens = tokens + (levels[step + 1] - levels[step]) * answer
        if on_step:
            on_step(step)
    return unpack(tokens, height, width)
