"""Everything the transformer computes that does not depend on the latents, before the loop.

The prompt as the blocks' tokens, the tokens' rotary embedding, the modulations of all steps, the
schedule. What passed through fused weights is kept for the next request under those weights'
identity (LoRA hashes and scales), so a change of the control scale never meets what another left.

Knows nothing of seeds, pictures or the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from depthflux.engine.conditioning import Conditioning
from depthflux.engine.kept import Kept
from depthflux.engine.latents import image_ids
from depthflux.engine.modulation import StepModulation, compute_modulations
from depthflux.engine.stepcache import Step, plan_steps
from depthflux.model.loading import Model

#: Requests whose constants stay on the device: at FLUX's size 3 MB of text tokens and 118 MB of
#: modulations for 28 steps each.
MOST_KEPT = 2
#: Sizes whose rotary embedding stays on the device: 3 MB for FLUX's default size.
MOST_ROPES = 4


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run.

    Attributes:
        timesteps: 1000 times the noise level of each computed step, float32.
        steps: all of them.
    """

    timesteps: torch.Tensor
    steps: list[Step]


@dataclass(frozen=True)
class Constants:
    """What the loop reads and never writes.

    Attributes:
        text: the prompt as the blocks' tokens, [1, T, d].
        rope: cosines and sines, float32 [T + S, 1, head width / 2, 2], text tokens first.
        modulations: one entry a computed step.
        schedule: the run's noise levels.
    """

    text: torch.Tensor
    rope: torch.Tensor
    modulations: list[StepModulation]
    schedule: Schedule


class ConstantsMaker:
    """Makes constants, and keeps those of the last requests."""

    def __init__(self, model: Model, *, skip_steps: float = 0.0, keeps: bool = True) -> None:
        """Make none yet.

        Args:
            model: whose transformer makes them.
            skip_steps: share of the steps that are extrapolated, 0 to 0.6.
            keeps: False keeps nothing for the next request.
        """
        self._model = model
        self._skip_steps = skip_steps
        self._texts: Kept[torch.Tensor] = Kept(MOST_KEPT if keeps else 0)
        self._modulations: Kept[list[StepModulation]] = Kept(MOST_KEPT if keeps else 0)
        self._ropes: Kept[torch.Tensor] = Kept(MOST_ROPES if keeps else 0)

    def forget(self) -> None:
        """Let go of everything that is kept."""
        self._texts.clear()
        self._modulations.clear()
        self._ropes.clear()

    def make(self, conditioning: Conditioning) -> Constants:
        """The constants of a request, with the weights that the transformer has now."""
        prompt, guidance_scale = conditioning.prompt, conditioning.guidance_scale
        transformer = self._model.transformer
        weights = self._model.control_lora.identity
        schedule = make_schedule(self._model, conditioning, self._skip_steps)
        levels = tuple(schedule.timesteps.tolist())
        length = prompt.tokens.shape[1]
        return Constants(
            text=self._texts.get(
                (weights, prompt.text), lambda: embed_text(transformer, prompt.tokens)
            ),
            rope=self._ropes.get(
                (length, conditioning.height, conditioning.width),
                lambda: make_rope(transformer, length, conditioning.height, conditioning.width),
            ),
            modulations=self._modulations.get(
                (weights, prompt.text, guidance_scale, levels),
                lambda: compute_modulations(
                    transformer,
                    prompt.pooled,
                    guidance_scale,
                    schedule.timesteps.to(prompt.pooled.device),
                    self._model.control_lora.linear,
                ),
            ),
            schedule=schedule,
        )


def make_schedule(model: Model, conditioning: Conditioning, skip_steps: float = 0.0) -> Schedule:
    """The request's noise levels, from the model's scheduler, on the CPU."""
    scheduler = model.scheduler
    scheduler.set_timesteps(sigmas=conditioning.sigmas, device="cpu", mu=conditioning.shift)
    changes = scheduler.sigmas.diff().tolist()
    steps = plan_steps(scheduler.sigmas.tolist(), changes, skip_steps)
    computed = [step.weight is None for step in steps]
    return Schedule(scheduler.timesteps[computed], steps)


def embed_text(transformer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """T5's hidden states [1, T, joint width] as the blocks' tokens, [1, T, d]."""
    embedded: torch.Tensor = functional.linear(
        tokens, transformer.context_embedder.weight, transformer.context_embedder.bias
    )
    return embedded


def make_rope(transformer: Any, length: int, height: int, width: int) -> torch.Tensor:
    """Cosines and sines of each token's angles, float32 [T + S, 1, head width / 2, 2].

    Args:
        transformer: whose rotary embedding it is, computed in float64 as in diffusers.
        length: text tokens T, all at place 0.
        height: latent rows h.
        width: latent columns w.
    """
    places = torch.cat([torch.zeros(length, 3), image_ids(height, width)])
    # diffusers has each angle twice, side by side, for the pair of numbers that it turns.
    rope = torch.stack([twice[:, ::2] for twice in transformer.pos_embed(places)], dim=-1)
    return rope[:, None].contiguous().to(transformer.x_embedder.weight.device)
