"""A local side's power, from what nvidia-smi says while its tasks are under way."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from run_fixtures import make_suite, tasks_of_suite

from depthflux.bench.hosted import local_side
from depthflux.bench.hosted.errors import HostedError
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.local_side import LocalSide
from depthflux.bench.hosted.measures import Prices, describe_side, read_side
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.plan import ContestPlan, Task
from depthflux.bench.hosted.profiles import LocalProfile
from depthflux.bench.hosted.reporting import notes_of_side
from depthflux.bench.hosted.sides import ServedSide
from depthflux.settings import EngineSettings
from stand_in.running import StandInServer

WATTS = 300.0
PICTURE_SECONDS = 0.4


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that answers as one GPU would, which draws 300 W."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"*-lms*) while :; do echo '1980, {WATTS}, 60, 90, 40000'; sleep 0.02; done ;;\n"
        "*) echo 'NVIDIA H200, 580.1, 143771, 700.00, 1980, GPU-1234' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


class StandIn(StandInServer):
    """A server as `LocalServer` is one, whose workers paint on no GPU."""

    load_seconds = 1.5

    def __init__(self, profile: str, settings: Any, *, device: str, log: Path) -> None:
        del profile, settings, device
        self.key = "the-key-of-a-local-server"
        log.parent.mkdir(parents=True, exist_ok=True)
        data = log.parents[2] / "data"
        super().__init__(data, keys=(self.key,), stand_in={"seconds": PICTURE_SECONDS})

    def last_words(self) -> str:
        return ""


class MiscountingSide(ServedSide):
    """Of the second task, it says that more pictures were asked for than came."""

    def ask(self, task: Task) -> Outcome:
        outcome = super().ask(task)
        if not task.key.startswith("bee"):
            return outcome
        return outcome.model_copy(
            update={"status": "failed", "error": "1 picture came where 2 were", "times": None}
        )


class RefusingSide(ServedSide):
    """Its first submission, which is to warm it up, fails."""

    def warm(self, task: Task) -> None:
        raise HostedError(f"the side could not paint its warm-up of {task.key}: out of memory")


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, list[Any]]:
    """Two tasks of a profile on `cuda:0`, one at a time."""
    monkeypatch.setattr(local_side, "LocalServer", StandIn)
    folder, suite = RunFolder(tmp_path / "run"), make_suite(tmp_path)
    folder.path.mkdir()
    tasks = tasks_of_suite(suite)
    plan = ContestPlan(
        suite=suite,
        profile="exact",
        against_profile="",
        base_url="",
        version="v3",
        repeat=1,
        concurrency=1,
        sync_mode=False,
        poll_interval_s=0.05,
        price_usd=None,
        max_cost_usd=None,
        electricity_usd=0.5,
        watts=None,
    )
    profile = LocalProfile("exact", "exact", EngineSettings(), "cuda:0")
    side = LocalSide(
        "local", profile, plan, tasks, folder, stop=threading.Event(), say=lambda _: None
    )
    with side:
        side.run(tasks)
    return folder, tasks


def test_power_is_measured_while_tasks_are_under_way_and_gives_the_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia_smi: Path
) -> None:
    folder, tasks = run(tmp_path, monkeypatch)

    recorded = read_side(folder, "local", tasks)
    assert recorded is not None
    described = describe_side(recorded, Prices(None, 0.5, 40.0), is_recorded=False)
    # Each task has a picture, which takes 0.4 s and up to a poll's interval; the picture that
    # warms up is not among them.
    assert described.wall_seconds is not None
    assert 2 * PICTURE_SECONDS <= described.wall_seconds < 10
    assert described.cost.mean_watts == pytest.approx(WATTS)
    joules = WATTS * described.wall_seconds
    assert described.cost.joules_per_picture == pytest.approx(joules / 2, rel=1e-6)
    assert described.cost.usd_total == pytest.approx(joules / 3.6e6 * 0.5, rel=1e-6)
    assert described.gpu == {"name": "NVIDIA H200", "driver_version": "580.1"}
    assert "GPU-1234" not in (folder.path / "local" / "side.json").read_text()


def test_pictures_of_a_task_that_failed_have_no_share_of_the_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia_smi: Path
) -> None:
    monkeypatch.setattr(local_side, "ServedSide", MiscountingSide)

    folder, tasks = run(tmp_path, monkeypatch)

    recorded = read_side(folder, "local", tasks)
    assert recorded is not None
    assert [len(outcome.pictures) for outcome in recorded.outcomes.values()] == [1, 1]
    assert recorded.facts.energy is not None
    assert recorded.facts.energy.pictures == 1
    cost = describe_side(recorded, Prices(None, 0.5, None), is_recorded=False).cost
    assert cost.joules_per_picture == pytest.approx(recorded.facts.energy.joules)


def test_a_side_that_was_not_warmed_up_is_not_called_warm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_side, "ServedSide", RefusingSide)

    folder, tasks = run(tmp_path, monkeypatch)

    recorded = read_side(folder, "local", tasks)
    assert recorded is not None
    assert len(recorded.completed()) == 2
    told = "\n".join(notes_of_side(recorded))
    assert "a hosted service is warm, too" not in told
    assert "was not painted (the side could not paint its warm-up of ant-0: out of" in told


def test_where_nvidia_smi_tells_no_power_the_watts_that_were_given_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia_smi: Path
) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'no devices were found' >&2; exit 6\n")

    folder, tasks = run(tmp_path, monkeypatch)

    recorded = read_side(folder, "local", tasks)
    assert recorded is not None
    unknown, given = (
        describe_side(recorded, Prices(None, None, watts), is_recorded=False).cost
        for watts in (None, 40.0)
    )
    assert (unknown.mean_watts, given.mean_watts) == (None, pytest.approx(40.0))
    assert "nvidia-smi" in unknown.how
    assert recorded.facts.gpu == {}
