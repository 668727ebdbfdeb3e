"""`depthflux bench speed`: systems side by side on the same canvases, and the document of it.

All systems are loaded in one process and take turns: for every size first the warm-up, then a look
at what really runs and at what the device can reach, then the timed rounds. A prompt and a control
image that no run had before come with every run, so that nothing kept helps; depthflux then does
the same task again, for which it keeps things, and that is told apart.

Knows nothing of command lines or files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from depthflux.bench.checking import linear_weights
from depthflux.bench.flux_fast import COMPILE_OPTIONS, flux_fast, flux_fast_problem
from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.machine import describe_run
from depthflux.bench.memory import held_bytes
from depthflux.bench.models import Outline, Source, source_of
from depthflux.bench.operations import step_flops
from depthflux.bench.plan import BASELINES, MODELS, SpeedPlan
from depthflux.bench.sizes import Contest, Loaded
from depthflux.bench.systems import FAILURES, Pipeline, System, Tier, failure
from depthflux.engine.failures import translated_load_failures
from depthflux.errors import DeviceError, SettingsError
from depthflux.model.loading import Model
from depthflux.model.placement import Placement, place
from depthflux.settings import resolve_settings

#: Raised when the document's form changes.
DOCUMENT_VERSION = 2
NOTES = {
    "full": "Random weights: times and memory are the real ones', the pictures mean nothing.",
    "small": "Random weights at a small width: ratios between systems only, no benchmark of FLUX.",
    "demo": "The packaged miniature: ratios between systems only, no benchmark of FLUX.",
}
#: Kept in memory only: what a run before this one left on the disk must not help.
REMEMBER = "memory"

Say = Callable[[str], None]


def run_speed(
    plan: SpeedPlan,
    *,
    say: Say,
    announce: Callable[[dict[str, Any]], None],
    keep: Callable[[dict[str, Any]], None] = lambda _document: None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Time a plan's systems.

    Args:
        plan: what to time.
        say: told what is being done, line by line.
        announce: given the card, before anything is measured.
        keep: given the document as far as it has come after every round, not `finished`, so that
            a run that is ended from outside leaves its rounds.
        deadline: in seconds since 1970; after each size's first round none is begun that would
            end after it.

    Returns:
        The document: a JSON object whose numbers have their units in their names.

    Raises:
        DeviceError: the asked device cannot be had.
        GenerationError: none of the systems could run.
    """
    placement = placement_of(plan)
    if threads := plan.settings.get("threads"):
        torch.set_num_threads(int(threads))
    source = source_of(plan.model)
    outline = source.outline()
    card = describe_card(plan, outline, placement)
    announce(card)
    with GpuSamples(str(placement.device)) as samples:
        described = describe_run(placement.device, samples)
        loaded, missing = load_systems(plan, source, placement, say)
        document = {
            "benchmark": "speed",
            "version": DOCUMENT_VERSION,
            "finished": False,
            "note": NOTES[plan.model],
            **described,
            "plan": describe_plan(plan, placement),
            "card": card,
            "systems": {
                name: describe_system(loaded[name]) if name in loaded else missing[name]
                for name in plan.systems
            },
            "sizes": {},
        }
        contest = Contest(plan, outline, placement, loaded, samples, say, deadline)
        return document | {"sizes": _measured(plan, contest, document, keep), "finished": True}


def _measured(
    plan: SpeedPlan,
    contest: Contest,
    document: dict[str, Any],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Every size's figures; all that there is goes to `keep` whenever there is more."""
    sizes: dict[str, Any] = {}

    def keep_round(size: str, measured: dict[str, Any]) -> None:
        keep(document | {"sizes": sizes | {size: measured}})

    for size in plan.sizes:
        sizes[size] = contest.measure(size, partial(keep_round, size))
    return sizes


def placement_of(plan: SpeedPlan) -> Placement:
    """Where all systems run: bfloat16 on CUDA, float32 on the CPU, unless the settings say else.

    Raises:
        DeviceError: the asked device cannot be had.
    """
    asked = {name: plan.settings[name] for name in ("device",) if name in plan.settings}
    values = resolve_settings(None, arguments={"device": "auto", **asked}).values
    device = place(values).device
    dtype = plan.settings.get("dtype") or ("bfloat16" if device.type == "cuda" else "float32")
    return place(values.model_copy(update={"dtype": dtype}))


def describe_card(plan: SpeedPlan, outline: Outline, placement: Placement) -> dict[str, Any]:
    """What the architecture implies: bytes of weights, and tokens and operations of a step."""
    config = outline.transformer
    sizes = {}
    for size in plan.sizes:
        tokens = image_tokens(size, outline)
        flops = step_flops(config, image_tokens=tokens, text_tokens=outline.text_tokens)
        sizes[size] = {
            "asked": plan.asked.get(size, size),
            "image_tokens": tokens,
            "step_teraflops": {name: round(count / 1e12, 6) for name, count in flops.items()},
        }
    return {
        "model": MODELS[plan.model].summary,
        "blocks": {"double": config["num_layers"], "single": config["num_single_layers"]},
        "width": config["num_attention_heads"] * config["attention_head_dim"],
        "text_tokens": outline.text_tokens,
        "weights_bytes": {
            name: number * placement.dtype.itemsize for name, number in outline.parameters.items()
        },
        "sizes": sizes,
    }


def image_tokens(size: str, outline: Outline) -> int:
    """Packed tokens of a painted size."""
    width, height = map(int, size.split("*"))
    return (width // outline.pixels_a_token) * (height // outline.pixels_a_token)


def describe_plan(plan: SpeedPlan, placement: Placement) -> dict[str, Any]:
    """What was asked for, and in what all systems compute."""
    return {
        "model": plan.model,
        "systems": list(plan.systems),
        "steps": plan.steps,
        "repeat": plan.repeat,
        "warmup": plan.warmup,
        "num_images": plan.num_images,
        "seed": plan.seed,
        "dtype": str(placement.dtype).removeprefix("torch."),
        "static_shapes": plan.static_shapes,
        "settings": {name: str(value) for name, value in plan.settings.items()},
    }


def describe_system(loaded: Loaded) -> dict[str, Any]:
    """A system's settings and the weights that its linears have."""
    name = loaded.system.name
    return {
        "available": True,
        "what": BASELINES.get(name, f"depthflux, profile {name}"),
        "settings": dict(loaded.system.settings()),
        "linear_weights_number": linear_weights(loaded.system.modules()),
        "resident_device_bytes": loaded.resident_bytes,
    }


def load_systems(
    plan: SpeedPlan, source: Source, placement: Placement, say: Say
) -> tuple[dict[str, Loaded], dict[str, dict[str, Any]]]:
    """Load every system that can run here; of the others, what the document says instead."""
    loaded: dict[str, Loaded] = {}
    missing: dict[str, dict[str, Any]] = {}
    shared = _SharedModel(source, placement)
    for name in plan.systems:
        say(f"loading {name}")
        before = held_bytes(placement.device)
        try:
            with translated_load_failures(placement.device):
                system = _load(name, plan, source, placement, shared)
        except (DeviceError, SettingsError) as error:
            missing[name] = {"available": False, "reason": str(error)}
        except FAILURES as error:
            missing[name] = {"available": False, "reason": failure(error)}
        else:
            after = held_bytes(placement.device)
            resident = None if before is None or after is None else after - before
            loaded[name] = Loaded(system, shared.bytes if name in ("E", "C") else resident)
            continue
        say(f"{name} is not available here: {missing[name]['reason']}")
    return loaded, missing


class _SharedModel:
    """The model that E and C have in common: compiling wraps its transformer and changes nothing.

    Attributes:
        bytes: that it holds on the device, once it is loaded; None without CUDA.
    """

    def __init__(self, source: Source, placement: Placement) -> None:
        self._source = source
        self._placement = placement
        self._model: Model | None = None
        self.bytes: int | None = None

    def model(self) -> Model:
        if self._model is None:
            before = held_bytes(self._placement.device)
            self._model = self._source.model(self._placement)
            after = held_bytes(self._placement.device)
            self.bytes = None if before is None or after is None else after - before
        return self._model


def _load(
    name: str, plan: SpeedPlan, source: Source, placement: Placement, shared: _SharedModel
) -> System:
    with torch.no_grad():
        if name == "E":
            return Pipeline("E", shared.model())
        if name == "C":
            return Pipeline("C", shared.model(), compile_options=COMPILE_OPTIONS)
        if name == "F":
            if problem := flux_fast_problem(placement.device):
                raise DeviceError(problem)
            return flux_fast(source.model(placement))
        dtype = str(placement.dtype).removeprefix("torch.")
        settings = {"remember": REMEMBER, **plan.settings, "dtype": dtype}
        settings["device"] = str(placement.device)
        tier = Tier(name, source.engine(name, settings, placement))
        if plan.static_shapes:
            tier.compile_statically()
        return tier
