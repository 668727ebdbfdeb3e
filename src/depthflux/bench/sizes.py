"""The contest at one size: warm-up, checks, roofline, timed rounds, and the figures of it.

Knows nothing of how systems are loaded or work.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
from PIL import Image

from depthflux.bench.checking import compile_counters, compiled_since, profile_kernels
from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.memory import NOT_ON_CPU, RunPeak, held_bytes
from depthflux.bench.models import Outline
from depthflux.bench.operations import step_flops
from depthflux.bench.plan import BASELINES, SpeedPlan
from depthflux.bench.roofline import Roofline
from depthflux.bench.rounds import in_order, paired_ratios, spread
from depthflux.bench.systems import FAILURES, Run, System, Task, failure
from depthflux.errors import GenerationError
from depthflux.model.placement import Placement

#: Given what a size has come to after a round.
OnRound = Callable[[dict[str, Any]], None]

PROMPT = "a red cube on a green floor, white sky"
#: Side of the depth map's square, as a part of the picture's.
SQUARE = 3


@dataclass(frozen=True)
class Loaded:
    """A system that is ready.

    Attributes:
        system: to be run.
        resident_bytes: that its modules hold on the device; None without CUDA.
    """

    system: System
    resident_bytes: int | None


@dataclass
class Figures:
    """What is gathered of one system at one size.

    Attributes:
        warmup_seconds: of the whole calls before the rounds.
        new: by round, a run with a prompt and a control image that are new.
        again: by round, the same task once more; only of systems that keep things.
        spans: when the runs were, in seconds since 1970.
        compiled: graphs and breaks during the rounds.
        peak: device memory.
        picture: of the first warm-up, which has the same task for every system.
    """

    peak: RunPeak
    warmup_seconds: list[float] = field(default_factory=list)
    new: dict[int, Run] = field(default_factory=dict)
    again: dict[int, Run] = field(default_factory=dict)
    spans: list[tuple[float, float]] = field(default_factory=list)
    compiled: dict[str, int] = field(default_factory=dict)
    picture: np.ndarray | None = None


class Contest:
    """The systems of a plan, size by size."""

    def __init__(
        self,
        plan: SpeedPlan,
        outline: Outline,
        placement: Placement,
        systems: Mapping[str, Loaded],
        samples: GpuSamples,
        say: Callable[[str], None],
        deadline: float | None = None,
    ) -> None:
        """Hold what all sizes have in common.

        Args:
            plan: what is timed.
            outline: of the model.
            placement: where all systems run.
            systems: those that are loaded, in the order they run.
            samples: of the GPU, while it works.
            say: told what is being done, line by line.
            deadline: in seconds since 1970; no second round is begun that would end after it.
        """
        self._plan = plan
        self._outline = outline
        self._placement = placement
        self._systems = systems
        self._samples = samples
        self._say = say
        self._deadline = deadline
        # Never the same twice, so that nothing that was kept of an earlier run helps.
        self._number = itertools.count(1)
        # Bytes that a system keeps on the device after its runs, beside its modules.
        self._kept: dict[str, int] = {}

    def measure(self, size: str, on_round: OnRound = lambda _measured: None) -> dict[str, Any]:
        """Run the contest at a painted size, width*height.

        Args:
            size: what is painted.
            on_round: given, after each round, what would be returned if it were the last.
        """
        figures, failed = self._warmed_up(size)
        checks = {name: self._check(name, size) for name in figures}
        roofline = self._roofline(size)
        self._say(f"{size}: measuring what the device can reach")
        roofline.measure()
        for number in self._rounds(size, figures, failed):
            on_round(self._measured(size, number + 1, figures, failed, checks, roofline))
        # Once more, so that a minute in which the device was slow does not set the mark.
        roofline.measure()
        return self._measured(size, number + 1, figures, failed, checks, roofline)

    def _rounds(
        self, size: str, figures: Mapping[str, Figures], failed: dict[str, str]
    ) -> Iterator[int]:
        """Time round after round while there is time; their numbers, once each is over.

        A system that fails is left out of the rounds that follow, and keeps those it has.
        """
        repeat, longest = self._plan.repeat, 0.0
        in_turn = in_order(list(figures), repeat)
        for number, turns in itertools.groupby(in_turn, key=itemgetter(0)):
            start = time.time()
            if number and self._deadline is not None and start + longest > self._deadline:
                self._say(f"{size}: the time is up after {number} of {repeat} rounds")
                return
            for _, name in turns:
                if name in failed:
                    continue
                self._say(f"{size}: round {number + 1} of {repeat}, {name}")
                try:
                    self._time(name, size, number, figures[name])
                except FAILURES as error:
                    failed[name] = failure(error)
                    self._say(f"{size}: {name} {failed[name]}")
            longest = max(longest, time.time() - start)
            yield number

    def _roofline(self, size: str) -> Roofline:
        return Roofline(
            self._outline.transformer,
            image_tokens=self._image_tokens(size),
            text_tokens=self._outline.text_tokens,
            device=self._placement.device,
            dtype=self._placement.dtype,
        )

    def _measured(
        self,
        size: str,
        rounds: int,
        figures: Mapping[str, Figures],
        failed: dict[str, str],
        checks: Mapping[str, Any],
        roofline: Roofline,
    ) -> dict[str, Any]:
        reached = roofline.describe()
        return {
            "rounds_number": rounds,
            "roofline": reached,
            "systems": {
                name: self._describe(name, size, figures, reached) | {"checked": checks[name]}
                for name in figures
            },
            "failed": failed,
            "ratios": self._ratios(figures),
        }

    def _warmed_up(self, size: str) -> tuple[dict[str, Figures], dict[str, str]]:
        """The systems that ran, and why the others did not.

        Raises:
            GenerationError: none of them did.
        """
        figures, failed = {}, {}
        for name in self._systems:
            figures[name] = Figures(RunPeak(self._placement.device))
            try:
                self._warm_up(name, size, figures[name])
            except FAILURES as error:
                del figures[name]
                failed[name] = failure(error)
                self._say(f"{size}: {name} {failed[name]}")
        if not figures:
            reasons = "; ".join(f"{name} {reason}" for name, reason in failed.items())
            raise GenerationError(f"nothing could be timed at {size}: {reasons or 'no system'}.")
        return figures, failed

    def _warm_up(self, name: str, size: str, figures: Figures) -> None:
        before = held_bytes(self._placement.device)
        for number in range(self._plan.warmup):
            self._say(f"{size}: warm-up {number + 1} of {self._plan.warmup}, {name}")
            # The first task is the same for all, so that their pictures can be compared.
            task = task_of(self._plan, size, 0 if number == 0 else next(self._number))
            run = self._systems[name].system.run(task)
            figures.warmup_seconds.append(run.wall_seconds)
            if number == 0:
                figures.picture = run.pictures[0]
        after = held_bytes(self._placement.device)
        if before is not None and after is not None:
            self._kept[name] = self._kept.get(name, 0) + after - before

    def _check(self, name: str, size: str) -> dict[str, Any]:
        """What runs in a step, by the profiler, or why that cannot be told."""
        one_step = replace(self._plan, steps=1, num_images=1)
        task = task_of(one_step, size, next(self._number))
        system = self._systems[name].system
        try:
            return profile_kernels(lambda: system.run(task), self._placement.device)
        except FAILURES as error:
            return {"missing": failure(error)}

    def _time(self, name: str, size: str, number: int, figures: Figures) -> None:
        system = self._systems[name].system
        task = task_of(self._plan, size, next(self._number))
        before, start = compile_counters(), time.time()
        figures.peak.begin()
        figures.new[number] = system.run(task)
        if system.keeps:
            figures.again[number] = system.run(task)
        figures.peak.end()
        figures.spans.append((start, time.time()))
        for counter, count in compiled_since(before).items():
            figures.compiled[counter] = figures.compiled.get(counter, 0) + count

    def _describe(
        self, name: str, size: str, figures: Mapping[str, Figures], roofline: dict[str, Any]
    ) -> dict[str, Any]:
        own, resident = figures[name], self._systems[name].resident_bytes
        runs = list(own.new.values())
        added = own.peak.added_bytes
        return {
            "first_run_seconds": round(own.warmup_seconds[0], 6),
            "warmup_seconds": [round(seconds, 6) for seconds in own.warmup_seconds],
            "new": describe_runs(runs),
            "again": describe_runs(list(own.again.values())),
            "rates": self._rates(name, size, runs, roofline),
            "compiled_in_rounds": own.compiled,
            "peak_device_bytes": (
                None
                if resident is None or added is None
                else resident + self._kept.get(name, 0) + added
            ),
            "peak_device_missing": "" if added is not None else NOT_ON_CPU,
            "gpu": self._samples.within(own.spans),
            "gpu_missing": self._samples.missing,
            "difference_from_E_levels": difference(figures, name),
        }

    def _rates(
        self, name: str, size: str, runs: list[Run], roofline: dict[str, Any]
    ) -> dict[str, float | None]:
        """Operations over the denoising's whole time, and parts of what the device can reach."""
        if self._systems[name].system.settings().get("skip_steps"):
            # Steps that are not computed would count as done.
            return {"teraflops_per_second": None}
        tokens = self._image_tokens(size)
        flops = step_flops(
            self._outline.transformer,
            image_tokens=tokens,
            text_tokens=self._outline.text_tokens,
        )["total"]
        steps = self._plan.steps * self._plan.num_images
        denoise = spread([run.denoise_seconds for run in runs])
        seconds = denoise["median"] / steps if denoise else float("nan")
        rate = flops / seconds / 1e12
        plain, fp8 = roofline["plain"], roofline["fp8"]
        return {
            "teraflops_per_second": round(rate, 4),
            "fraction_of_products_rate": round(rate / plain["products_teraflops_per_second"], 4),
            "fraction_of_roofline": round(plain["step_milliseconds"] / (1000 * seconds), 4),
            "fraction_of_fp8_roofline": (
                round(fp8["step_milliseconds"] / (1000 * seconds), 4) if fp8 else None
            ),
        }

    def _ratios(self, figures: Mapping[str, Figures]) -> dict[str, Any]:
        """Each baseline over each tier, round by round; above 1 the tier is faster."""
        return {
            f"{baseline}/{tier}": ratios_of(figures[baseline], figures[tier])
            for baseline in BASELINES
            if baseline in figures
            for tier in self._plan.tiers
            if tier in figures
        }

    def _image_tokens(self, size: str) -> int:
        width, height = map(int, size.split("*"))
        side = self._outline.pixels_a_token
        return (width // side) * (height // side)


def task_of(plan: SpeedPlan, size: str, number: int) -> Task:
    """A plan's task at a size; each number has a prompt and a control image of its own."""
    width, height = map(int, size.split("*"))
    return Task(
        prompt=f"{PROMPT}, number {number}",
        control=depth_map(width, height, number),
        width=width,
        height=height,
        steps=plan.steps,
        num_images=plan.num_images,
        seed=plan.seed,
    )


def depth_map(width: int, height: int, number: int) -> Image.Image:
    """A depth map, mode L: near at the bottom, with a near square whose place the number decides.

    Its values reach from 0 to 255, so that every system's normalisation leaves it as it is.
    """
    depth = np.tile(np.linspace(0, 200, height)[:, None], (1, width))
    side = min(width, height) // SQUARE
    left = (17 * number) % (width - side)
    top = (13 * number) % (height - side)
    depth[top : top + side, left : left + side] = 255
    depth[0, 0] = 0
    return Image.fromarray(depth.astype(np.uint8))


def describe_runs(runs: list[Run]) -> dict[str, Any] | None:
    """Spreads over runs of one kind, and the single figures; None of none."""
    if not runs:
        return None
    phases = sorted({phase for run in runs for phase in run.phases_milliseconds})
    return {
        "wall_seconds": spread([run.wall_seconds for run in runs]),
        "denoise_seconds": spread([run.denoise_seconds for run in runs]),
        "outside_seconds": spread([run.outside_seconds for run in runs]),
        # A run's mean: single steps may be skipped ones, or told in bursts.
        "step_milliseconds": spread(
            [statistics.mean(run.step_milliseconds) for run in runs if run.step_milliseconds]
        ),
        "phases_milliseconds": {
            phase: spread([run.phases_milliseconds.get(phase, 0.0) for run in runs])
            for phase in phases
        },
        "each_wall_seconds": [round(run.wall_seconds, 6) for run in runs],
        "each_denoise_seconds": [round(run.denoise_seconds, 6) for run in runs],
    }


def ratios_of(baseline: Figures, tier: Figures) -> dict[str, Any]:
    """A baseline over a tier: denoising and whole calls of new tasks, and against one again."""

    def wall(runs: Mapping[int, Run]) -> dict[int, float]:
        return {number: run.wall_seconds for number, run in runs.items()}

    def denoise(runs: Mapping[int, Run]) -> dict[int, float]:
        return {number: run.denoise_seconds for number, run in runs.items()}

    return {
        "denoise": paired_ratios(denoise(baseline.new), denoise(tier.new)),
        "wall": paired_ratios(wall(baseline.new), wall(tier.new)),
        "wall_again": paired_ratios(wall(baseline.new), wall(tier.again)),
    }


def difference(figures: Mapping[str, Figures], name: str) -> float | None:
    """Mean difference from E's picture of the same task, in levels of 0..255; None without E."""
    own = figures[name].picture
    reference = figures["E"].picture if "E" in figures else None
    if own is None or reference is None:
        return None
    return round(float(np.abs(own.astype(int) - reference.astype(int)).mean()), 4)
