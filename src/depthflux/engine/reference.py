"""The loop in diffusers' order, operation for operation: the oracle of every other way.

Every step computes everything, what is constant over the steps included, with diffusers' own
forward and scheduler; so on the CPU in float32 the latents equal FluxControlPipeline's bit for bit.
The loop that pictures are usually made with is depthflux.engine.denoiser's.

Knows nothing of prompts, pictures or files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from depthflux.engine.conditioning import Conditioning
from depthflux.engine.drawing import draw
from depthflux.engine.finite import check_finite
from depthflux.engine.latents import image_ids
from depthflux.model.loading import Model


def denoise_in_diffusers_order(
    model: Model, conditioning: Conditioning, seed: int, on_step: Callable[[int], None]
) -> torch.Tensor:
    """Denoise one picture.

    Args:
        model: whose transformer and scheduler do it.
        conditioning: everything constant over the steps.
        seed: 0 to 9999999999; draws the control latents and the noise.
        on_step: called after each step with 1, the number of pictures; may raise to stop.

    Returns:
        Packed latents, [1, S, 4·C].

    Raises:
        NonFiniteError: the transformer produced NaN or infinity; the message names the step.
    """
    latents, control = draw(model, conditioning, seed)
    device, dtype = latents.device, latents.dtype
    timesteps = _start_schedule(model, conditioning)
    places = image_ids(conditioning.height, conditioning.width).to(device, dtype)
    text_places = torch.zeros(conditioning.prompt.tokens.shape[1], 3, device=device, dtype=dtype)
    guidance = None
    if model.transformer.config.guidance_embeds:
        guidance = torch.full([1], conditioning.guidance_scale, device=device)
    finite: list[torch.Tensor] = []
    for t in timesteps:
        timestep = t.expand(1).to(latents.dtype)
        velocity = model.transformer(
            hidden_states=torch.cat([latents, control], dim=2),
            timestep=timestep / 1000,
            guidance=guidance,
            pooled_projections=conditioning.prompt.pooled,
            encoder_hidden_states=conditioning.prompt.tokens,
            txt_ids=text_places,
            img_ids=places,
            return_dict=False,
        )[0]
        latents = model.scheduler.step(velocity, t, latents, return_dict=False)[0]
        finite.append(torch.isfinite(latents).all())
        on_step(1)
    check_finite(torch.stack(finite))
    return latents


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
