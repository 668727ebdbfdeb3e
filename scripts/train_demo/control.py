"""Trains the control LoRA with the base frozen. It knows latents and prompts, not pixels.

control_scale s means "base plus s times the LoRA": at 0 the picture is the base model's own, so
there is no dropout of the control; the LoRA is trained at all scales from .5 to 1.5 instead.
"""

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from train_demo.architecture import PACKED_CHANNELS, lora_targets
from train_demo.base import Captions, Phase
from train_demo.flow import Batch, flow_loss
from train_demo.latents import LatentShelf
from train_demo.optimisation import Trainer

_LOWEST_SCALE, _HIGHEST_SCALE = 0.5, 1.5


class LowRank(nn.Module):
    """A weight plus scale * up @ down, merged anew at every step: cheaper than a second path.

    Attributes:
        scale: control_scale, set by `set_scale`.
    """

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        """The merged weight [outputs, inputs]."""
        return weight + self.scale * self.up @ self.down


def with_control(base: FluxTransformer2DModel, rank: int) -> FluxTransformer2DModel:
    """A frozen copy of the base that reads 128 channels, with a low-rank delta on every linear."""
    model = deepcopy(base).requires_grad_(False)
    narrow = model.x_embedder
    wide = nn.Linear(2 * PACKED_CHANNELS, narrow.out_features).requires_grad_(False)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, :PACKED_CHANNELS] = narrow.weight
        wide.bias.copy_(narrow.bias)
    model.x_embedder = wide
    for _, linear in list(lora_targets(model)):
        delta = LowRank(linear.out_features, linear.in_features, rank)
        parametrize.register_parametrization(linear, "weight", delta)
    return model


def set_scale(model: FluxTransformer2DModel, scale: float) -> None:
    """Sets control_scale for the next forward passes."""
    for module in model.modules():
        if isinstance(module, LowRank):
            module.scale = scale


def lora_state(model: FluxTransformer2DModel) -> dict[str, Tensor]:
    """The LoRA in diffusers' layout."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            target = name.removesuffix(".parametrizations.weight.0")
            state[f"transformer.{target}.lora_A.weight"] = module.down.detach().clone()
            state[f"transformer.{target}.lora_B.weight"] = module.up.detach().clone()
    return state


@torch.no_grad()
def load_lora(model: FluxTransformer2DModel, state: dict[str, Tensor]) -> None:
    """Sets the deltas of `with_control` to a LoRA in diffusers' layout, the inverse of lora_state.

    Raises:
        KeyError: the LoRA lacks a linear of the model.
    """
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            target = name.removesuffix(".parametrizations.weight.0")
            module.down.copy_(state[f"transformer.{target}.lora_A.weight"])
            module.up.copy_(state[f"transformer.{target}.lora_B.weight"])


def midway(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of two LoRAs with the same names, factor by factor.

    A polished LoRA gains on large canvases and loses a little on square ones; halfway from where it
    started it keeps nearly all of the gain and none of the loss.
    """
    return {name: (first[name].float() + second[name].float()) / 2 for name in first}


def control_batch(captions: Captions, shelf: LatentShelf, count: int, emphasis: float) -> Batch:
    """Random pictures of one shelf with their prompts and depth latents.

    An object's tokens count `emphasis` times as much as others; the mean weight is one.
    """
    picks = shelf.pick(count, captions.random)
    states, pooled = captions.encode(shelf, picks)
    weights = None
    if emphasis != 1:
        weights = 1 + (emphasis - 1) * shelf.objects(picks).float()
        weights = weights / weights.mean()
    return Batch(shelf.pictures(picks), states, pooled, shelf.controls(picks), weights)


# A quarter of the tokens first, as for the base. The last part also sees large canvases: with more
# tokens a side than any seen in training, rotary positions make a picture repeat itself, and the
# hosted endpoint's default size has 27 by 52.
CONTROL_PHASES = (
    Phase(0.18, {"small-a": 1.0}, 48),
    Phase(0.50, {"square-a": 0.42, "square-b": 0.42, "tall": 0.1, "wide": 0.06}, 16),
    Phase(
        1.01,
        {
            "square-a": 0.22,
            "square-b": 0.16,
            "tall": 0.05,
            "wide": 0.03,
            "portrait": 0.12,
            "large": 0.14,
            "poster": 0.28,
        },
        16,
    ),
)
# Goes on from trained deltas: most of the time on large canvases, with enough square ones that they
# are not forgotten.
POLISH_PHASES = (Phase(1.01, {"square-a": 0.25, "large": 0.2, "poster": 0.55}, 16),)


@dataclass(frozen=True)
class Course:
    """How the deltas are trained.

    Attributes:
        phases: what is seen when.
        rate: AdamW's, at its peak.
        warm_steps: steps until the peak.
        flat: share of the time until the rate falls.
        decay: of the averaged weights, a step.
        emphasis: how much more the tokens of objects count than those of floor and sky.
    """

    phases: tuple[Phase, ...]
    rate: float
    warm_steps: int
    flat: float
    decay: float
    emphasis: float


FIRST_COURSE = Course(
    CONTROL_PHASES, rate=1.2e-3, warm_steps=100, flat=0.35, decay=0.995, emphasis=1.0
)
# Objects are a tenth of a tall picture, and it is they that had holes.
POLISH_COURSE = Course(POLISH_PHASES, rate=5e-4, warm_steps=20, flat=0.2, decay=0.97, emphasis=4.0)

# Pictures a step where a picture is dear, so that all steps take about as long.
_FEWER = {"portrait": 5, "large": 3, "poster": 2}


def train_control(
    model: FluxTransformer2DModel,
    captions: Captions,
    shelf_of: Callable[[str], LatentShelf],
    checkpoint: Path,
    budget_s: float,
    course: Course = FIRST_COURSE,
) -> FluxTransformer2DModel:
    """Trains the deltas of `with_control` until the time is used; returns the averaged model."""
    trainer = Trainer(model, [], muon=0.0, adamw=course.rate, decay=course.decay, budget_s=budget_s)
    trainer.resume(checkpoint)
    rng, seen = random.Random(trainer.steps), []
    while (share := trainer.share) < 1:
        phase = next(phase for phase in course.phases if share < phase.until)
        name = rng.choices(list(phase.shelves), weights=list(phase.shelves.values()))[0]
        set_scale(model, rng.uniform(_LOWEST_SCALE, _HIGHEST_SCALE))
        count = _FEWER.get(name, phase.count)
        batch = control_batch(captions, shelf_of(name), count, course.emphasis)
        loss = flow_loss(model, batch).mean()
        trainer.step(loss, warm_steps=course.warm_steps, flat=course.flat)
        seen.append(loss.item())
        if trainer.steps % 25 == 0:
            print(f"{trainer.steps} share {share:.3f} loss {sum(seen) / len(seen):.4f}")
            seen.clear()
        if trainer.steps % 100 == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    return trainer.average
