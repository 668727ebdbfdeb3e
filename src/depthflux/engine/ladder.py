"""What is done when the device's memory runs out: one retry a request, one step lower.

The steps that lose nothing come first. A step stays for later requests, and each of their records
says so. A meter stands between the ladder and the memory: on a GPU the device itself says when it
is full, and a simulated limit says it anywhere from the estimate.

Knows nothing of what a run computes.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch

from depthflux.canvas import Canvas
from depthflux.engine.preflight import estimator_parameters, reserve_on
from depthflux.errors import OutOfMemoryError, first_line
from depthflux.model.components import MODULES
from depthflux.model.footprint import Footprint, ModelSize, Phase, Plan, estimate, size_of
from depthflux.model.loading import Model
from depthflux.model.offload import place_modulations, place_text_encoders
from depthflux.model.placement import GIGABYTE, available_bytes, in_gigabytes
from depthflux.settings import EngineSettings

logger = logging.getLogger("depthflux")

T = TypeVar("T")
#: What a phase needs is a bound, so a request is refused beforehand only where this share of it
#: does not fit.
SURE_SHARE = 0.5


class MemoryMeter(Protocol):
    """The memory of a device, as a run meets it."""

    def available(self) -> int | None:
        """Bytes that this process may have; None where nothing limits them."""

    def enter(self, phase: Phase, needed: int) -> None:
        """Begin a phase that needs so many bytes in all.

        Raises:
            torch.OutOfMemoryError: a simulated device does not have them.
        """


@dataclass(frozen=True)
class DeviceMeter:
    """The device as it is: what a phase needs is found out by running it."""

    device: torch.device
    limit_gb: float | None = None

    def available(self) -> int | None:
        """As MemoryMeter's."""
        return available_bytes(self.device, self.limit_gb)

    def enter(self, phase: Phase, needed: int) -> None:
        """As MemoryMeter's; never raises."""


@dataclass(frozen=True)
class SimulatedMeter:
    """A device of a given size that runs out of memory where the estimate says so."""

    limit_bytes: int

    def available(self) -> int | None:
        """As MemoryMeter's."""
        return self.limit_bytes

    def enter(self, phase: Phase, needed: int) -> None:
        """As MemoryMeter's."""
        if needed > self.limit_bytes:
            raise torch.OutOfMemoryError(
                f"{phase} needs {needed / GIGABYTE:.3f} GB of a simulated device of "
                f"{self.limit_bytes / GIGABYTE:.3f} GB"
            )


def meter_for(device: torch.device, limit_gb: float | None) -> MemoryMeter:
    """The meter of a device; a limit in 1e9 bytes is simulated on the CPU."""
    if device.type == "cpu" and limit_gb is not None:
        return SimulatedMeter(round(limit_gb * GIGABYTE))
    return DeviceMeter(device, limit_gb)


@dataclass(frozen=True)
class Step:
    """One step down.

    Attributes:
        words: what was done, for the record and the log.
        changes: what it changes in the plan.
        can: whether there is anything to be done.
        apply: does it to the model; None where the plan alone is asked.
        phase: the only phase that it helps; None for all.
    """

    words: str
    changes: Mapping[str, Any]
    can: Callable[[Plan], bool]
    apply: Callable[[Model], None] | None = None
    phase: Phase | None = None


def _text_encoders_to_host(model: Model) -> None:
    encoders = (model.text_encoder, model.text_encoder_2)
    place_text_encoders(encoders, "host", model.placement.device)


STEPS = (
    Step(
        "pictures are denoised one at a time",
        {"batch": 1},
        lambda plan: plan.batch > 1,
        phase="denoise",
    ),
    Step(
        "the text encoders were moved to host memory",
        {"text_encoders": "host"},
        lambda plan: plan.text_encoders == "device",
        _text_encoders_to_host,
    ),
    Step(
        "the modulation linears were moved to host memory",
        {"modulation": "host"},
        # In diffusers' order they are needed in every step.
        lambda plan: plan.modulation == "device" and plan.order == "hoisted",
        lambda model: place_modulations(model.transformer, "host", model.placement.device),
    ),
    Step(
        "pictures are decoded in tiles, which changes pixels a little",
        {"vae_tiling": True},
        lambda plan: not plan.vae_tiling,
        phase="decode",
    ),
)


class Ladder:
    """Runs requests, and steps down when memory runs out.

    Attributes:
        plan: what of the model is where now.
        meter: of the device that the model is on.
    """

    def __init__(self, model: Model, size: ModelSize, plan: Plan, meter: MemoryMeter) -> None:
        """Take over a model that is placed as the plan says."""
        self.plan = plan
        self.meter = meter
        self._model = model
        self._size = size
        self._notes: list[str] = []
        self._footprint: Footprint | None = None
        self._phase: Phase | None = None

    @classmethod
    def of(cls, model: Model, settings: EngineSettings) -> Ladder:
        """The ladder of a model that is placed as its settings say."""
        size = size_of(
            {name: getattr(model, name) for name in MODULES},
            estimator=estimator_parameters(model.files),
            text_tokens=model.max_prompt_tokens,
        )
        meter = meter_for(model.placement.device, settings.memory_limit_gb)
        return cls(model, size, Plan.from_settings(settings), meter)

    def run(
        self,
        attempt: Callable[[list[str]], T],
        canvas: Canvas,
        *,
        steps: int,
        pictures: int,
        let_go: Callable[[], None] = lambda: None,
    ) -> T:
        """Run a request's work and, where memory runs out, once more a step lower.

        Args:
            attempt: does the work, from the start; calls `enter` at each phase. It is given what
                the ladder did, in words, which belongs into the record.
            canvas: the request's.
            steps: the request's.
            pictures: the request's.
            let_go: drops what is kept for later requests; called before the second attempt.

        Returns:
            What the attempt returned.

        Raises:
            OutOfMemoryError: the request cannot fit, or the memory ran out a second time.
        """
        wanted = (canvas, steps, pictures)
        self._refuse_hopeless(*wanted)
        self._footprint = self._estimate(self.plan, *wanted)
        try:
            return attempt(list(self._notes))
        except torch.OutOfMemoryError as error:
            reason = first_line(error)
        # Outside of the except block, whose traceback holds what the failed run had computed.
        let_go()
        before = self.plan
        done = self.lower()
        if done is None:
            raise self._ran_out(reason, canvas)
        logger.warning("Memory ran out (%s): %s; running the request again.", reason, done)
        self._footprint = self._estimate(self.plan, *wanted)
        try:
            return attempt(list(self._notes))
        except torch.OutOfMemoryError as error:
            refusal = self._ran_out(f"{first_line(error)}, after {done}", canvas)
            self._take_back(before)
            raise refusal from error

    def enter(self, phase: Phase) -> None:
        """Begin a phase of the run.

        Raises:
            torch.OutOfMemoryError: a simulated device's memory ran out.
        """
        self._phase = phase
        if self._footprint is not None:
            self.meter.enter(phase, self._footprint.during(phase))

    def lower(self) -> str | None:
        """Take the next step down that helps where memory ran out.

        Returns:
            What was done, in words; None where nothing is left to do.
        """
        helping = (step for step in STEPS if step.phase in (None, self._phase))
        step = next((step for step in helping if step.can(self.plan)), None)
        if step is None:
            return None
        # What the failed run left in cycles would still be on the device.
        gc.collect()
        if step.apply is not None:
            step.apply(self._model)
        if self._model.placement.device.type == "cuda":
            torch.cuda.empty_cache()
        self.plan = replace(self.plan, **step.changes)
        self._notes.append(f"memory ran out, so {step.words}")
        return step.words

    def _take_back(self, plan: Plan) -> None:
        """Undo a step that did not help and is in the plan alone.

        One request too large would else change the pictures of all that come after it.
        """
        changed = {**vars(self.plan), "vae_tiling": plan.vae_tiling, "batch": plan.batch}
        if Plan(**changed) != self.plan:
            self.plan = Plan(**changed)
            self._notes.pop()

    def _refuse_hopeless(self, canvas: Canvas, steps: int, pictures: int) -> None:
        """Refuse a request that would not fit with every step taken."""
        available = self.meter.available()
        if available is None:
            return
        plan = self.plan
        for step in STEPS:
            if step.can(plan):
                plan = replace(plan, **step.changes)
        least = self._estimate(plan, canvas, steps, pictures)
        sure = least.resident_bytes - least.resident["reserve"]
        needed = sure + round(SURE_SHARE * least.phases[least.peak_phase])
        if needed > available:
            raise OutOfMemoryError(
                f"size={canvas.width}*{canvas.height} needs at least {in_gigabytes(needed)} of "
                f"{self._model.placement.device}'s memory, of which {in_gigabytes(available)} can "
                f"be had; lower size{self._profiles('gpu12')}."
            )

    def _estimate(self, plan: Plan, canvas: Canvas, steps: int, pictures: int) -> Footprint:
        plan = replace(plan, batch=min(plan.batch, pictures))
        reserve = reserve_on(self._model.placement.device)
        return estimate(self._size, plan, canvas, steps=steps, reserve=reserve)

    def _ran_out(self, reason: str, canvas: Canvas) -> OutOfMemoryError:
        available = self.meter.available()
        there = "" if available is None else f", {in_gigabytes(available)} can be had"
        needed = self._footprint.peak_bytes if self._footprint else 0
        return OutOfMemoryError(
            f"memory ran out: {reason}; size={canvas.width}*{canvas.height} is estimated at "
            f"{in_gigabytes(needed)}{there}; lower size, or close other programs"
            f"{self._profiles('gpu16 or gpu12')}."
        )

    def _profiles(self, names: str) -> str:
        """Advice that only a GPU's owner can follow."""
        on_gpu = self._model.placement.device.type == "cuda"
        return f", or use the profile {names}" if on_gpu else ""
