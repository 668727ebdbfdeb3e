"""The systems that are held against each other, each run as its user would run it.

diffusers' pipelines are watched from outside: the methods that its `__call__` uses once a picture
are timed, and its steps by its own callback; the transformer itself is left alone. depthflux tells
its phases in the prediction. In both, denoising begins before the first step and ends before
decoding, and what is outside of it is the rest of the whole call.

Knows nothing of rounds or results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import FluxControlPipeline
from PIL import Image
from torch import nn

from depthflux.bench.clocks import StepMarks, now
from depthflux.contract import GenerationRequest, Size
from depthflux.engine.compilation import MODES
from depthflux.engine.engine import Engine
from depthflux.errors import GenerationError, first_line
from depthflux.model.loading import Model

GUIDANCE_SCALE = 3.5
#: What a system may fail with while it is loaded or first runs: a compiler, a quantizer or a
#: kernel of somebody else's may not work on this machine, and the others are timed all the same.
FAILURES = (
    GenerationError,
    torch._dynamo.exc.FailOnRecompileLimitHit,
    RuntimeError,
    AssertionError,
    AttributeError,
    ImportError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Task:
    """One run's work.

    Attributes:
        prompt: what to paint.
        control: a depth map, near = white, mode L, of the painted size.
        width: painted, in pixels, a multiple of the model's grid.
        height: likewise.
        steps: denoising steps.
        num_images: pictures.
        seed: of the first.
    """

    prompt: str
    control: Image.Image
    width: int
    height: int
    steps: int
    num_images: int
    seed: int


def failure(error: BaseException) -> str:
    """A failure in a line."""
    kind = "" if isinstance(error, GenerationError) else f"{type(error).__name__}: "
    return f"failed: {kind}{first_line(error)}"


@dataclass(frozen=True)
class Run:
    """What was measured of one run.

    Attributes:
        wall_seconds: of the whole call.
        denoise_seconds: of all its pictures' denoising, by the wall's clock.
        step_milliseconds: each step but every picture's first, by the device's clock.
        phases_milliseconds: by the system's own names.
        pictures: uint8 [H, W, 3] each.
    """

    wall_seconds: float
    denoise_seconds: float
    step_milliseconds: list[float]
    phases_milliseconds: dict[str, float]
    pictures: list[np.ndarray] = field(repr=False)

    @property
    def outside_seconds(self) -> float:
        """The whole call less its denoising."""
        return self.wall_seconds - self.denoise_seconds


class System(Protocol):
    """One of the systems.

    Attributes:
        name: as in the plan.
        keeps: whether a second run with the same prompt and control image has less to do.
    """

    name: str
    keeps: bool

    def run(self, task: Task) -> Run:
        """Do a task and measure it."""

    def modules(self) -> list[nn.Module]:
        """The modules whose linears denoise, as they run."""

    def settings(self) -> Mapping[str, Any]:
        """What decides how it runs."""


class Pipeline:
    """diffusers' FluxControlPipeline around a model's modules: E, C or F."""

    keeps = False

    def __init__(
        self,
        name: str,
        model: Model,
        *,
        compile_options: Mapping[str, Any] | None = None,
        during: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Build the pipeline.

        Args:
            name: as in the plan.
            model: whose modules it takes; the LoRA is fused.
            compile_options: of torch.compile of the transformer; None leaves it eager.
            during: entered around every run, for options that are the whole process's.
        """
        self.name = name
        self._compile_options = compile_options
        self._during = during
        self._device = model.placement.device
        self._transformer = model.transformer
        self._text_tokens = model.max_prompt_tokens
        transformer = model.transformer
        if compile_options is not None:
            transformer = torch.compile(transformer, **compile_options)
        self.pipeline = FluxControlPipeline(
            scheduler=model.scheduler,
            vae=model.vae,
            text_encoder=model.text_encoder,
            tokenizer=model.tokenizer,
            text_encoder_2=model.text_encoder_2,
            tokenizer_2=model.tokenizer_2,
            transformer=transformer,
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def run(self, task: Task) -> Run:
        """Call the pipeline."""
        marks = StepMarks(self._device, task.steps)

        def on_step(_: Any, __: int, ___: Any, given: dict[str, Any]) -> dict[str, Any]:
            marks.mark()
            return given

        control = task.control.convert("RGB")
        with self._during(), _watched(self.pipeline, self._device) as watch:
            start = now(self._device)
            pictures = self.pipeline(
                prompt=task.prompt,
                control_image=control,
                width=task.width,
                height=task.height,
                num_inference_steps=task.steps,
                guidance_scale=GUIDANCE_SCALE,
                num_images_per_prompt=task.num_images,
                # One for each picture, as depthflux has: all systems then paint the same.
                generator=[
                    torch.Generator("cpu").manual_seed(task.seed + index)
                    for index in range(task.num_images)
                ],
                max_sequence_length=self._text_tokens,
                callback_on_step_end=on_step,
            ).images
            wall = now(self._device) - start
        return Run(
            wall_seconds=wall,
            denoise_seconds=watch.decode_began - watch.loop_began,
            step_milliseconds=marks.milliseconds(),
            phases_milliseconds=watch.milliseconds(),
            pictures=[np.asarray(picture) for picture in pictures],
        )

    def modules(self) -> list[nn.Module]:
        """The transformer."""
        return [self._transformer]

    def settings(self) -> Mapping[str, Any]:
        """How the transformer is compiled."""
        return {"compile": None if self._compile_options is None else dict(self._compile_options)}


@dataclass
class _Watch:
    """When a pipeline's parts began and ended, in seconds of one clock."""

    loop_began: float = 0.0
    decode_began: float = 0.0
    spans: dict[str, float] = field(default_factory=dict)

    def milliseconds(self) -> dict[str, float]:
        spans = {**self.spans, "denoise": self.decode_began - self.loop_began}
        return {name: round(1000 * seconds, 3) for name, seconds in spans.items()}


@contextmanager
def _watched(pipeline: Any, device: torch.device) -> Iterator[_Watch]:
    """Time a pipeline's methods, by instance attributes that stand before the class's own."""
    watch = _Watch()

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = now(device)
            result = work(*args, **options)
            end = now(device)
            watch.spans[name] = watch.spans.get(name, 0.0) + end - start
            if name == "decode":
                watch.decode_began = start
            return result

        return call

    def loop_begins(*args: Any, **options: Any) -> Any:
        watch.loop_began = now(device)
        return progress_bar(*args, **options)

    progress_bar = pipeline.progress_bar
    owners = {"prompt": (pipeline, "encode_prompt"), "control": (pipeline.vae, "encode")}
    owners["decode"] = (pipeline.vae, "decode")
    before = {name: owner.__dict__.get(method) for name, (owner, method) in owners.items()}
    for name, (owner, method) in owners.items():
        owner.__dict__[method] = timed(name, getattr(owner, method))
    pipeline.__dict__["progress_bar"] = loop_begins
    try:
        yield watch
    finally:
        del pipeline.__dict__["progress_bar"]
        for name, (owner, method) in owners.items():
            owner.__dict__.pop(method)
            if before[name] is not None:
                owner.__dict__[method] = before[name]


class CanvasRequest(GenerationRequest):
    """A request for a canvas as diffusers rounds it, beyond what a caller may ask for."""

    @property
    def dimensions(self) -> Size:
        """The canvas, which is painted as it is."""
        width, height = self.size.split("*")
        return Size(int(width), int(height))


def canvas_request(task: Task) -> GenerationRequest:
    """A task as a request: its depth map is taken as it is, and nothing is withheld."""
    fields: dict[str, Any] = {
        "prompt": task.prompt,
        "control_image": task.control,
        "preprocess_depth": False,
        "num_inference_steps": task.steps,
        "guidance_scale": GUIDANCE_SCALE,
        "num_images": task.num_images,
        "seed": task.seed,
        "enable_safety_checker": False,
    }
    # Copied, since a copy's size is not held against what a caller may ask for.
    return CanvasRequest(**fields).model_copy(update={"size": f"{task.width}*{task.height}"})


class Tier:
    """depthflux's engine in one profile."""

    keeps = True

    def __init__(self, name: str, engine: Engine) -> None:
        """Take an engine over."""
        self.name = name
        self.engine = engine
        self._device = engine.model.placement.device

    def run(self, task: Task) -> Run:
        """Call `generate`."""
        marks = StepMarks(self._device, task.steps)
        request = canvas_request(task)
        plan = self.engine.ladder.plan
        start = now(self._device)
        prediction = self.engine.generate(request, on_step=lambda _done, _total: marks.mark())
        wall = now(self._device) - start
        if self.engine.ladder.plan != plan:
            raise GenerationError(
                "memory ran out and the engine stepped down; these are other settings' figures."
            )
        return Run(
            wall_seconds=wall,
            denoise_seconds=prediction.timings["denoise"] / 1000,
            step_milliseconds=marks.milliseconds(),
            phases_milliseconds={name: float(ms) for name, ms in prediction.timings.items()},
            pictures=[np.asarray(picture) for picture in prediction.images],
        )

    def compile_statically(self) -> None:
        """Let compiled blocks be compiled for each size alone, to see what one graph for all costs.

        In a process in which no block has run yet: torch keeps graphs by code, not by module.
        """
        if self.engine.compilation.applied and self.engine.transformer is not None:
            mode = MODES[self._device.type]
            for block in self.modules():
                block.compile(fullgraph=True, dynamic=False, mode=mode)

    def modules(self) -> list[nn.Module]:
        """The blocks where they are depthflux's own, else diffusers' transformer."""
        hoisted = self.engine.transformer
        if hoisted is None:
            return [self.engine.model.transformer]
        return [*hoisted.double, *hoisted.single]

    def settings(self) -> Mapping[str, Any]:
        """The engine's settings that matter here, and what they came to."""
        values = self.engine.settings.values.model_dump(mode="json")
        names = (
            "dtype",
            "compile",
            "order",
            "attention",
            "quantize",
            "skip_steps",
            "max_batch",
            "modulation",
            "text_encoders",
            "vae_tiling",
            "remember",
        )
        compilation = self.engine.compilation
        return {
            **{name: values[name] for name in names},
            "compiled": compilation.applied,
            "compiled_reason": compilation.reason,
            "attention_kernel": self.engine.attention.kernel,
            "attention_reason": self.engine.attention.reason,
        }
