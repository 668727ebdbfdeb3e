"""The loop: from a seed's noise to a picture's latents, one step after another.

The order of operations and of random draws is FluxControlPipeline's: first the control latents
are drawn from their distribution, then the noise, from one CPU generator; so on the CPU in float32
the latents equal diffusers' bit for bit, and every device starts from the same noise.

Knows nothing of prompts, pictures or files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from depthflux.engine.conditioning import Conditioning
from depthflux.engine.latents import pack
from depthflux.errors import NonFiniteError
from depthflux.model.loading import Model

#: Called after each step with the steps done and their total; may raise to stop the run.
OnStep = Callable[[int, int], None]


def denoise(
    model: Model, conditioning: Conditioning, seed: int, on_step: Callable[[], None]
) -> torch.Tensor:
    """Denoise one picture.

    Args:
        model: whose transformer and scheduler do it.
        conditioning: everything constant over the steps.
        seed: 0 to 9999999999; draws the control latents and the noise.
        on_step: called after each step; may raise to stop.

    Returns:
        Packed latents, [1, S, 4·C].

    Raises:
        NonFiniteError: the transformer produced NaN or infinity; the message names the step.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    control = _draw_control(model, conditioning, generator)
    latents = _draw_noise(model, conditioning, generator)
    timesteps = _start_schedule(model, conditioning)
    finite: list[torch.Tensor] = []
    for t in timesteps:
        timestep = t.expand(1).to(latents.dtype)
        velocity = model.transformer(
            hidden_states=torch.cat([latents, control], dim=2),
            timestep=timestep / 1000,
            guidance=conditioning.guidance,
            pooled_projections=conditioning.prompt.pooled,
            encoder_hidden_states=conditioning.prompt.tokens,
            txt_ids=conditioning.text_ids,
            img_ids=conditioning.image_ids,
            return_dict=False,
        )[0]
        latents = model.scheduler.step(velocity, t, latents, return_dict=False)[0]
        finite.append(torch.isfinite(latents).all())
        on_step()
    _check_finite(finite)
    return latents


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


def _start_schedule(model: Model, conditioning: Conditioning) -> torch.Tensor:
    """Set the scheduler to the request's schedule and return its timesteps, [steps]."""
    scheduler = model.scheduler
    scheduler.set_timesteps(
        sigmas=conditioning.sigmas, device=model.placement.device, mu=conditioning.shift
    )
    # Without it, the scheduler looks the first timestep up, which waits for the device.
    scheduler.set_begin_index(0)
    timesteps: torch.Tensor = scheduler.timesteps
    return timesteps


def _check_finite(finite: list[torch.Tensor]) -> None:
    """One look at the whole run's flags; looking at each step would wait for the device."""
    flags = torch.stack(finite).tolist()
    if not all(flags):
        step = flags.index(False) + 1
        raise NonFiniteError(
            f"denoising step {step} of {len(flags)} produced NaN or infinity; "
            "check the weights (depthflux doctor) or use a float32 profile.",
            step=step,
        )
