"""Outcomes → a side's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_fixtures import completed, facts, failed, make_suite, picture, tasks_of_suite

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.measures import Prices, Recorded, busy_spans, describe_side, read_side
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.run_files import MeasuredEnergy

NO_PRICES = Prices(None, None, None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    return tasks_of_suite(make_suite(tmp_path, [f"case-{number}" for number in range(6)]))


def recorded(folder: RunFolder, tasks: list[Task], *outcomes: Any, **more: Any) -> Recorded:
    """A side as it is read back from its folder."""
    name = str(more.get("name", "hosted"))
    folder.write_side(facts(**{"name": name, **more}))
    for outcome in outcomes:
        folder.task(name, outcome.task).end(outcome)
    read = read_side(folder, name, tasks)
    assert read is not None
    return read


def test_a_side_that_was_not_begun_is_none(folder: RunFolder, tasks: list[Task]) -> None:
    assert read_side(folder, "hosted", tasks) is None


def test_every_task_is_counted_once(folder: RunFolder, tasks: list[Task]) -> None:
    side = recorded(
        folder,
        tasks,
        completed(folder, "hosted", tasks[0]),
        completed(folder, "hosted", tasks[1], data=picture(size=(512, 512)), flagged=True),
        failed(tasks[2].key),
        failed(tasks[3].key, status="lost"),
        failed(tasks[4].key, charged=False),
    )

    described = describe_side(side, Prices(0.03, None, None), is_recorded=False)

    assert described.counts.model_dump() == {
        "tasks": 6, "completed": 2, "failed": 2, "lost": 1, "timed": 2, "not_run": 1,
        "pictures": 2, "exact_size": 1, "told_safety": 2, "flagged": 1,
    }  # fmt: skip
    assert [failure.task for failure in described.failures] == [task.key for task in tasks[2:5]]
    assert described.cost.usd_total == pytest.approx(4 * 0.03)
    assert described.cost.usd_per_picture == pytest.approx(4 * 0.03 / 2)
    assert described.formats == {"image/png": 2}
    assert described.recorded_at == ""


def test_flags_of_a_side_that_never_says_are_none(folder: RunFolder, tasks: list[Task]) -> None:
    side = recorded(folder, tasks, completed(folder, "hosted", tasks[0], flagged=None))

    assert describe_side(side, NO_PRICES, is_recorded=True).counts.flagged is None


def test_times_are_those_of_tasks_that_were_seen(folder: RunFolder, tasks: list[Task]) -> None:
    outcomes = [
        completed(folder, "hosted", task, total=float(number), inference=None)
        for number, task in enumerate(tasks[:5], start=1)
    ]
    unseen = completed(folder, "hosted", tasks[5], total=1000.0, is_timed=False)

    described = describe_side(
        recorded(folder, tasks, *outcomes, unseen), NO_PRICES, is_recorded=False
    )

    assert (described.counts.completed, described.counts.timed) == (6, 5)
    assert described.seconds.total is not None
    assert (described.seconds.total.count, described.seconds.total.p50.value) == (5, 3.0)
    assert described.seconds.inference is None


def test_throughput_counts_each_moment_once_and_no_pause(
    folder: RunFolder, tasks: list[Task]
) -> None:
    outcomes = [
        # Two at a time, then a pause of a resumed run, then one that failed.
        completed(folder, "hosted", tasks[0], at=0.0, total=10.0),
        completed(folder, "hosted", tasks[1], at=5.0, total=10.0),
        completed(folder, "hosted", tasks[2], at=1000.0, total=5.0),
        failed(tasks[3].key, at=1005.0),
        completed(folder, "hosted", tasks[4], at=15.0, total=990.0, is_timed=False),
    ]

    side = recorded(folder, tasks, *outcomes)

    described = describe_side(side, NO_PRICES, is_recorded=False)
    assert busy_spans(side) == [(0.0, 15.0), (1000.0, 1007.0)]
    assert described.wall_seconds == 22.0
    assert described.pictures_per_minute == pytest.approx(60 * 3 / 22)


def test_a_side_without_any_answer_has_no_figures(folder: RunFolder, tasks: list[Task]) -> None:
    described = describe_side(recorded(folder, tasks), NO_PRICES, is_recorded=False)

    assert described.counts.not_run == 6
    assert (described.wall_seconds, described.pictures_per_minute) == (None, None)
    assert described.seconds.total is None
    assert described.upload_seconds is None
    assert described.cost.usd_total is None
    assert "--price-per-picture" in described.cost.how


LOCAL = {"name": "local", "profile": "demo"}


def test_measured_power_gives_the_cost_of_a_picture(folder: RunFolder, tasks: list[Task]) -> None:
    energy = MeasuredEnergy(joules=7200.0, seconds=8.0, pictures=2)
    outcomes = [
        completed(folder, "local", task, at=float(10 * n)) for n, task in enumerate(tasks[:2])
    ]

    side = recorded(folder, tasks, *outcomes, **LOCAL, energy=energy)

    cost = describe_side(side, Prices(None, 0.5, 40.0), is_recorded=False).cost
    assert (cost.mean_watts, cost.joules_per_picture) == (900.0, 3600.0)
    assert cost.usd_per_picture == pytest.approx(3600 / 3.6e6 * 0.5)
    assert "nvidia-smi" in cost.how


def test_power_that_a_part_of_a_run_did_not_measure_is_extended_to_all_and_said(
    folder: RunFolder, tasks: list[Task]
) -> None:
    energy = MeasuredEnergy(joules=100.0, seconds=2.0, pictures=1)
    outcomes = [completed(folder, "local", task) for task in tasks[:4]]

    side = recorded(folder, tasks, *outcomes, **LOCAL, energy=energy)

    cost = describe_side(side, NO_PRICES, is_recorded=False).cost
    assert (cost.mean_watts, cost.joules_per_picture) == (50.0, 100.0)
    assert "measured for 1 of 4 pictures" in cost.how


def test_watts_stand_in_where_power_cannot_be_measured(
    folder: RunFolder, tasks: list[Task]
) -> None:
    side = recorded(
        folder, tasks, completed(folder, "local", tasks[0]), **LOCAL, energy_missing="on cpu"
    )

    given = describe_side(side, Prices(None, None, 50.0), is_recorded=False).cost
    missing = describe_side(side, NO_PRICES, is_recorded=False).cost

    assert (given.mean_watts, given.joules_per_picture) == (50.0, 200.0)
    assert given.usd_per_picture is None
    assert missing.mean_watts is None
    assert missing.how == "Power was not measured: on cpu; --watts gives it."


def test_only_a_replayed_side_says_when_it_was_recorded(
    folder: RunFolder, tasks: list[Task]
) -> None:
    side = recorded(folder, tasks)

    assert describe_side(side, NO_PRICES, is_recorded=True).recorded_at.startswith("2026-")
