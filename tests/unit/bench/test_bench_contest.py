"""A contest of systems that only pretend to work, so that its order and its sums can be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from depthflux.bench.gpu_samples import GpuSamples, number, selected_gpu
from depthflux.bench.memory import NOT_ON_CPU
from depthflux.bench.models import Outline
from depthflux.bench.plan import make_plan
from depthflux.bench.sizes import Contest, Loaded, depth_map, describe_runs
from depthflux.bench.systems import Run, Task
from depthflux.errors import GenerationError
from depthflux.model.flux_config import TRANSFORMER
from depthflux.model.placement import Placement

CONFIG = {**TRANSFORMER, "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1}


class PretendingSystem:
    """Takes the seconds that it is told, and writes down what it was asked for."""

    def __init__(self, name: str, log: list[tuple[str, Task]], seconds: Iterator[float]) -> None:
        self.name = name
        self.keeps = name not in "ECF"
        self._log = log
        self._seconds = seconds
        self._tasks: set[str] = set()

    def run(self, task: Task) -> Run:
        self._log.append((self.name, task))
        seconds = next(self._seconds)
        if self.keeps and task.prompt in self._tasks:
            seconds -= 0.5
        self._tasks.add(task.prompt)
        level = 100 if self.name == "E" else 103
        picture = np.full((4, 4, 3), level, dtype=np.uint8)
        return Run(seconds + 1, seconds, [10.0], {"denoise": 1000 * seconds}, [picture])

    def modules(self) -> list[nn.Module]:
        return []

    def settings(self) -> Mapping[str, Any]:
        return {}


def forever(*seconds: float) -> Iterator[float]:
    yield from seconds
    while True:
        yield seconds[-1]


def contest_of(
    systems: Mapping[str, Loaded], names: str, *, repeat: int = 1, deadline: float | None = None
) -> Contest:
    plan = make_plan(
        model="small",
        sizes=["512*512"],
        systems=names,
        steps=4,
        repeat=repeat,
        warmup=1,
        num_images=1,
        seed=1,
    )
    placement = Placement(torch.device("cpu"), torch.float32, "a test")
    outline = Outline(CONFIG, {}, 16, 16)
    samples = GpuSamples("cpu")
    return Contest(plan, outline, placement, systems, samples, lambda _line: None, deadline)


@pytest.fixture(scope="module")
def contest() -> tuple[dict[str, Any], list[tuple[str, Task]]]:
    """E takes 4 s and then 8 s, for the machine slows down; exact takes half of it."""
    log: list[tuple[str, Task]] = []
    # Warm-up, check, then the rounds; a tier runs every round's task twice.
    slow = {
        "E": forever(4, 4, 4, 8, 8),
        "exact": forever(9, 2, 2.0, 2.5, 4, 4.5, 4),
    }
    systems = {
        name: Loaded(PretendingSystem(name, log, seconds), None) for name, seconds in slow.items()
    }
    made = contest_of(systems, "E,exact", repeat=3)
    return made.measure("512*512"), log


def test_systems_take_turns_and_a_tier_does_each_task_again(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    _, log = contest

    warm_up, check, rounds = log[:2], log[2:4], [name for name, _ in log[4:]]
    assert [name for name, _ in warm_up] == ["E", "exact"]
    assert [task.steps for _, task in check] == [1, 1]
    assert rounds == ["E", "exact", "exact", "exact", "exact", "E", "E", "exact", "exact"]


def test_what_is_timed_as_new_was_never_seen_before(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    _, log = contest
    rounds = log[4:]

    prompts = [task.prompt for name, task in rounds if name == "E"]
    prompts += [task.prompt for name, task in rounds if name == "exact"][::2]
    earlier = {task.prompt for _, task in log[:4]}
    assert len(set(prompts)) == len(prompts)
    assert not earlier & set(prompts)
    controls = [np.asarray(task.control).tobytes() for name, task in rounds if name == "E"]
    assert len(set(controls)) == len(controls)


def test_the_warm_up_gives_all_systems_the_same_task(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    measured, log = contest

    assert log[0][1].prompt == log[1][1].prompt
    assert measured["systems"]["exact"]["difference_from_E_levels"] == 3.0
    assert measured["systems"]["E"]["difference_from_E_levels"] == 0.0


def test_the_warm_up_is_in_no_figure(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    exact = contest[0]["systems"]["exact"]

    assert exact["first_run_seconds"] == 10.0
    assert exact["new"]["wall_seconds"]["max"] < 10.0


def test_ratios_are_of_one_round_s_pairs(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    ratios = contest[0]["ratios"]

    assert list(ratios) == ["E/exact"]
    assert ratios["E/exact"]["denoise"]["rounds"] == [2.0, 2.0, 2.0]
    assert ratios["E/exact"]["wall"]["rounds"] == [
        pytest.approx(5 / 3),
        pytest.approx(9 / 5),
        pytest.approx(9 / 5),
    ]


def test_what_cannot_be_measured_here_is_null_with_a_reason(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    exact = contest[0]["systems"]["exact"]

    assert (exact["peak_device_bytes"], exact["peak_device_missing"]) == (None, NOT_ON_CPU)
    assert (exact["gpu"], exact["gpu_missing"]) == (None, "the run was on cpu")
    assert contest[0]["roofline"]["fp8"] is None
    assert contest[0]["roofline"]["fp8_missing"] == "cpu has no fp8 matrix products"


def test_rates_are_the_operations_over_the_whole_denoising(
    contest: tuple[dict[str, Any], list[tuple[str, Task]]],
) -> None:
    measured = contest[0]
    rates = measured["systems"]["E"]["rates"]

    # Twice the time is half the rate, and half the part of the roofline.
    faster = measured["systems"]["exact"]["rates"]
    assert faster["teraflops_per_second"] == pytest.approx(
        2 * rates["teraflops_per_second"], rel=0.05
    )
    step = measured["systems"]["E"]["new"]["denoise_seconds"]["median"] / 4
    assert rates["fraction_of_roofline"] == pytest.approx(
        measured["roofline"]["plain"]["step_milliseconds"] / (1000 * step), abs=1e-4
    )


def test_a_depth_map_reaches_from_far_to_near_so_that_normalising_leaves_it() -> None:
    for count in (0, 1, 29):
        depth = np.asarray(depth_map(512, 544, count))
        assert depth.shape == (544, 512)
        assert (depth.min(), depth.max()) == (0, 255)


def test_nvidia_smi_is_read_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")

    assert selected_gpu("cuda:1") == "GPU-abc"
    assert number("701.2") == 701.2
    assert number("[N/A]") is None


def test_after_each_round_there_is_a_whole_result_of_the_rounds_so_far() -> None:
    kept: list[dict[str, Any]] = []
    systems = {
        name: Loaded(PretendingSystem(name, [], forever(2.0)), None) for name in ("E", "exact")
    }

    measured = contest_of(systems, "E,exact", repeat=3).measure("512*512", kept.append)

    assert [one["rounds_number"] for one in kept] == [1, 2, 3]
    assert [len(one["ratios"]["E/exact"]["denoise"]["rounds"]) for one in kept] == [1, 2, 3]
    assert kept[0].keys() == measured.keys()
    assert kept[2]["systems"].keys() == measured["systems"].keys()


def test_when_the_time_is_up_one_round_is_timed_and_no_more() -> None:
    systems = {"exact": Loaded(PretendingSystem("exact", [], forever(2.0)), None)}

    measured = contest_of(systems, "exact", repeat=3, deadline=0.0).measure("512*512")

    assert measured["rounds_number"] == 1
    assert len(measured["systems"]["exact"]["new"]["each_wall_seconds"]) == 1


class FailingSystem(PretendingSystem):
    """Does not work on this machine."""

    def run(self, task: Task) -> Run:
        raise RuntimeError("no kernel image is available\nfor this device")


def test_a_system_that_fails_in_the_warm_up_leaves_the_others_their_figures() -> None:
    systems = {
        "E": Loaded(PretendingSystem("E", [], forever(2.0)), None),
        "C": Loaded(FailingSystem("C", [], forever(2.0)), None),
        "exact": Loaded(PretendingSystem("exact", [], forever(1.0)), None),
    }

    measured = contest_of(systems, "E,C,exact").measure("512*512")

    assert measured["failed"] == {"C": "failed: RuntimeError: no kernel image is available"}
    assert list(measured["systems"]) == ["E", "exact"]
    assert list(measured["ratios"]) == ["E/exact"]


def test_a_contest_in_which_nothing_runs_is_an_error() -> None:
    systems = {"E": Loaded(FailingSystem("E", [], forever(2.0)), None)}

    with pytest.raises(GenerationError, match=r"nothing could be timed at 512\*512: E failed"):
        contest_of(systems, "E").measure("512*512")


def test_a_step_s_time_is_the_mean_over_a_run_s_steps_skipped_ones_included() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    runs = [Run(2.0, 1.0, [30.0, 0.0, 30.0, 0.0], {}, [picture])] * 2

    described = describe_runs(runs)

    assert described is not None
    assert described["step_milliseconds"] == {"median": 15.0, "min": 15.0, "max": 15.0}
