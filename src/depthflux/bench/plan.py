"""What `depthflux bench speed` times: model, sizes, systems, repetitions, each with its range.

Knows nothing of torch, so that a plan is refused before anything heavy is imported.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from depthflux.contract import DEFAULT_SIZE, MAX_SEED, GenerationRequest
from depthflux.errors import InvalidParameterError, show, unknown_name_problem
from depthflux.settings import profile_names, resolve_settings

#: The three systems that depthflux is held against, in the order they run.
BASELINES = {
    "E": "diffusers FluxControlPipeline, LoRA fused, eager",
    "C": "E with torch.compile(transformer, max-autotune, fullgraph, static)",
    "F": "the flux-fast recipe without its fp8 FlashAttention 3: fp8 per tensor, max-autotune",
}


@dataclass(frozen=True)
class ModelKind:
    """A model that can be timed.

    Attributes:
        summary: what it is.
        grid: pixels a side that one token spans; a picture's sides are multiples of it.
        size: what is painted unless sizes are given.
        steps: denoising steps unless given.
    """

    summary: str
    grid: int
    size: str
    steps: int


MODELS = {
    "full": ModelKind("FLUX.1-dev's shapes with random weights", 16, "1024*1024", 28),
    "small": ModelKind("FLUX's proportions at a width of 256, random weights", 16, "512*512", 8),
    "demo": ModelKind("the packaged miniature", 32, "512*512", 28),
}
#: What both sides paint where the hosted endpoint's default is asked for: diffusers rounds down.
FLOORED_DEFAULT = "864*1632"
#: Most repetitions of anything; more is a typing error.
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class SpeedPlan:
    """A comparison, checked.

    Attributes:
        model: a key of `MODELS`.
        sizes: what is painted, width*height, multiples of the model's grid.
        systems: keys of `BASELINES` and profiles' names, in the order they run.
        steps: denoising steps of a picture, 1 to 50.
        repeat: timed rounds, 1 to 1000.
        warmup: untimed runs of each system before them, 1 to 1000.
        num_images: pictures of a run, 1 to 4.
        seed: of the first picture, 0 to 9999999999.
        settings: engine settings that win over every profile's.
        static_shapes: whether depthflux's blocks are compiled anew for every size.
        asked: by painted size what was asked for, where it was another.
    """

    model: str
    sizes: tuple[str, ...]
    systems: tuple[str, ...]
    steps: int
    repeat: int
    warmup: int
    num_images: int
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    static_shapes: bool = False
    asked: dict[str, str] = field(default_factory=dict)

    @property
    def tiers(self) -> tuple[str, ...]:
        """The systems that are depthflux's."""
        return tuple(name for name in self.systems if name not in BASELINES)


def make_plan(
    *,
    model: str,
    sizes: Sequence[str],
    systems: str,
    steps: int | None,
    repeat: int,
    warmup: int,
    num_images: int,
    seed: int,
    settings: dict[str, Any] | None = None,
    static_shapes: bool = False,
) -> SpeedPlan:
    """Check what was asked for; each argument is the plan's attribute of its name.

    No sizes and no steps are the model's usual ones; systems have commas between them.

    Raises:
        InvalidParameterError: a value is unknown or out of range.
        SettingsError: a setting is unknown or cannot work with one of the profiles.
    """
    kind = MODELS[_known(model, list(MODELS), "model")]
    for name, value in (("repeat", repeat), ("warmup", warmup)):
        _check_number(name, value, 1, MOST_ROUNDS)
    _check_number("seed", seed, 0, MAX_SEED)
    steps = kind.steps if steps is None else steps
    # The request's own ranges, in its own words.
    GenerationRequest(prompt="-", num_inference_steps=steps, num_images=num_images)
    chosen = _systems(systems, settings or {})
    asked = dict.fromkeys(sizes or (kind.size,))
    painted = {_painted(size, kind.grid): size for size in asked}
    return SpeedPlan(
        model=model,
        sizes=tuple(painted),
        systems=chosen,
        steps=steps,
        repeat=repeat,
        warmup=warmup,
        num_images=num_images,
        seed=seed,
        settings=dict(settings or {}),
        static_shapes=static_shapes,
        asked={size: given for size, given in painted.items() if size != given},
    )


def _systems(text: str, settings: dict[str, Any]) -> tuple[str, ...]:
    """The systems that a text names; a profile among them must go with the settings."""
    known = [*BASELINES, *profile_names()]
    names = [name.strip() for name in text.split(",")]
    chosen = tuple(dict.fromkeys(_known(name, known, "system") for name in names if name))
    if not chosen:
        raise InvalidParameterError(
            f"systems={show(text)} names none; allowed: {', '.join(known)}, with commas between.",
            field="systems",
            value=text,
            allowed=", ".join(known),
        )
    for name in chosen:
        if name not in BASELINES:
            resolve_settings(name, environment=os.environ, arguments=settings)
    return chosen


def _known(name: str, known: list[str], kind: str) -> str:
    if name in known:
        return name
    raise InvalidParameterError(
        unknown_name_problem(name, known, kind=kind),
        field=kind,
        value=name,
        allowed=", ".join(known),
    )


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        allowed = f"a whole number from {low} to {high}"
        raise InvalidParameterError(
            f"{name}={show(value)} is out of range; allowed: {allowed}.",
            field=name,
            value=value,
            allowed=allowed,
        )


def _painted(size: str, grid: int) -> str:
    """What both sides paint for a size: itself, or the hosted default rounded down.

    depthflux paints a size off the grid larger and crops it, diffusers paints it smaller, so the
    two would not do the same work.
    """
    if size in (DEFAULT_SIZE, FLOORED_DEFAULT):
        return FLOORED_DEFAULT
    width, height = GenerationRequest(prompt="-", size=size).dimensions
    if width % grid or height % grid:
        floored = f"{width // grid * grid}*{height // grid * grid}"
        raise InvalidParameterError(
            f"size={show(size)}: timed are multiples of {grid} only, which both sides paint as "
            f"they are; the next below is {floored}.",
            field="size",
            value=size,
            allowed=f"width*height, multiples of {grid}",
        )
    return size
