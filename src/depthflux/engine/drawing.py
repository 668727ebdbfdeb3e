"""What a seed draws: the control latents, then the noise, from one generator of the CPU.

That is FluxControlPipeline's order, so that a seed gives the picture that it gives there; and on
the CPU, so that every device starts from the same noise.

Knows nothing of steps or schedules.
"""

from __future__ import annotations

import torch

from depthflux.engine.conditioning import Conditioning
from depthflux.engine.latents import pack
from depthflux.model.loading import Model


def draw(model: Model, conditioning: Conditioning, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one picture's beginning.

    Args:
        model: whose VAE's scale and device count.
        conditioning: with the control image's distribution.
        seed: 0 to 9999999999.

    Returns:
        Packed standard normal noise and packed control latents, each [1, S, 4·C], on the device in
        the model's dtype.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    control = _draw_control(model, conditioning, generator)
    return _draw_noise(model, conditioning, generator), control


def _draw_control(
    model: Model, conditioning: Conditioning, generator: torch.Generator
) -> torch.Tensor:
    """Packed control latents, [1, S, 4·C], drawn from the control image's distribution."""
    config = model.vae.config
    sample = conditioning.control.sample(generator=generator)
    return pack((sample - config.shift_factor) * config.scaling_factor)


def _draw_noise(
    model: Model, conditioning: Conditioning, generator: torch.Generator
) -> torch.Tensor:
    """Packed standard normal noise, [1, S, 4·C]."""
    channels = model.transformer.config.in_channels // 8
    shape = (1, channels, conditioning.height, conditioning.width)
    dtype = conditioning.prompt.tokens.dtype
    noise = torch.randn(shape, generator=generator, dtype=dtype)
    return pack(noise.to(model.placement.device))
