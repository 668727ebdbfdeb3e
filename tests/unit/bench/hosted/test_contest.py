"""How a run ends that cannot go on: with the reason, and with its folder as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from recording_fixtures import plan_of, record, write_suite_file

from depthflux.bench.hosted.contest import run_contest
from depthflux.bench.hosted.manifest import verify
from depthflux.bench.hosted.planning import make_plan
from depthflux.errors import InvalidParameterError, WeightsMissingError


@pytest.fixture
def no_judge(tmp_path: Path) -> Path:
    """A folder without an estimator in it, which ends a run before anything is asked."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_what_ends_a_run_leaves_a_folder_that_is_whole(tmp_path: Path, no_judge: Path) -> None:
    plan = plan_of(write_suite_file(tmp_path), estimator=no_judge)
    out = tmp_path / "out"

    with pytest.raises(WeightsMissingError, match="the depth estimator"):
        run_contest(plan, key="", out=out, resume=False, say=lambda line: None)

    names = [entry.file for entry in verify(out).files]
    assert names == ["control/one.png", "control/two.png", "plan.json", "suite.toml"]


def test_a_manifest_that_cannot_be_written_hides_no_error(tmp_path: Path, no_judge: Path) -> None:
    plan = plan_of(write_suite_file(tmp_path), estimator=no_judge)
    out = record(tmp_path / "out", plan).path
    (out / "hosted/nowhere.json").symlink_to("not-there")
    said: list[str] = []

    with pytest.raises(WeightsMissingError, match="the depth estimator"):
        run_contest(plan, key="", out=out, resume=True, say=said.append)

    (line,) = said
    assert line.startswith("the run's manifest is not written: cannot write ")
    assert "nowhere.json: No such file or directory" in line


@pytest.mark.parametrize("place", ["run", "run/new", "."])
def test_a_run_is_not_written_into_its_recording_nor_around_it(place: str, tmp_path: Path) -> None:
    recording = record(tmp_path / "run", plan_of(write_suite_file(tmp_path))).path
    plan = make_plan(replay=recording, profile="demo")

    with pytest.raises(InvalidParameterError, match="lie in each other, and a recording must stay"):
        run_contest(plan, key="", out=tmp_path / place, resume=False, say=lambda line: None)

    assert len(verify(recording).files) == len(plan.replay.sums if plan.replay else [])
    assert not (tmp_path / "run/new").exists()
