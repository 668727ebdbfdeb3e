"""`depthflux bench hosted --replay` from outside, with a recording that is never made anew.

tests/data/recording-v1 is what a run against the stub (tests/hosted_stub) left that was ended with
Ctrl-C when the first side was done: two cases of 512*512.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench_runs import (
    Bench,
    Ended,
    absolute_paths,
    files_of,
)

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.manifest import write_manifest
from stand_in.running import SOURCE

#: Every address that a process connects to, a line each.
SPY = """
import os, sys
def _tell(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        with open(os.environ["SPY"], "a") as file:
            file.write(f"{given[1][0]} {given[1][1]}\\n")
sys.addaudithook(_tell)
"""


RECORDING = Path("tests/data/recording-v1").absolute()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """The recording, in a folder that may be changed."""
    return Path(shutil.copytree(RECORDING, tmp_path / "recording"))


@dataclass(frozen=True)
class Again:
    """A replay of a copy of the recording."""

    bench: Bench
    run: Ended
    recording: Path
    hosts: set[str]


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Again:
    """It is given no suite and no key, and whom it connects to is noted."""
    folder = tmp_path_factory.mktemp("again")
    recording = Path(shutil.copytree(RECORDING, folder / "recording"))
    bench, spy = Bench(folder / "bench"), folder / "spy"
    (folder / "sitecustomize.py").write_text(SPY)
    bench.environment["PYTHONPATH"] = os.pathsep.join((str(folder), str(SOURCE)))
    bench.environment["SPY"] = str(spy)
    del bench.environment["WAVESPEED_API_KEY"]

    run = bench.run("--profile", "demo", "--replay", recording, suite=False)

    hosts = {line.split()[0] for line in spy.read_text().splitlines()}
    return Again(bench, run, recording, hosts)


def test_what_was_recorded_long_ago_replays_for_ever(again: Again) -> None:
    """Never record it anew: that later versions read it is what this shows."""
    assert again.run.code == 0, again.run.err
    document = again.bench.document()
    hosted, local = document.sides
    recorded = json.loads((RECORDING / "hosted/side.json").read_bytes())

    assert (hosted.counts.completed, local.counts.completed) == (2, 2)
    assert hosted.model == "wavespeed-ai/flux-control-lora-depth"
    assert (hosted.label, hosted.recorded_at) == (recorded["label"], recorded["recorded_at"])
    assert hosted.seconds.inference is not None
    assert hosted.seconds.inference.p50.value == 1.234
    assert hosted.counts.flagged == 1
    assert hosted.cost.usd_total == pytest.approx(2 * 0.03)
    assert document.plan.suite == "small"
    assert document.plan.poll_interval_seconds == 0.1
    assert [case.fields["prompt"] for case in document.cases] == [
        "paint ant",
        "paint bee\non two lines",
    ]


def test_a_replay_asks_nobody_but_the_server_that_it_has_started(again: Again) -> None:
    assert again.hosts == {"127.0.0.1"}


def test_the_recording_stays_as_it_is(again: Again) -> None:
    assert files_of(again.recording) == files_of(RECORDING)


def test_the_report_names_no_folder_of_this_machine(again: Again) -> None:
    document = json.loads((again.bench.out / "report.json").read_bytes())

    assert absolute_paths(document) == []
    assert document["command"] == (
        "depthflux bench hosted --out out --profile demo --replay recording"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("hosted/ant-0/0.jpg", "hosted/ant-0/0.jpg was changed", id="changed"),
        pytest.param("", "hosted/ant-0/0.jpg is missing", id="missing"),
        pytest.param("hosted/ant-0/1.jpg", "'hosted/ant-0/1.jpg' was added", id="added"),
    ],
)
def test_a_recording_that_was_touched_is_refused_before_anything(
    change: str, message: str, recording: Path, tmp_path: Path
) -> None:
    if change:
        with (recording / change).open("ab") as file:
            file.write(b"x")
    else:
        (recording / "hosted/ant-0/0.jpg").unlink()
    bench = Bench(tmp_path / "again")

    run = bench.run("--profile", "demo", "--replay", recording, suite=False)

    assert run.code == 2
    assert message in run.error
    assert not bench.out.exists()


def test_a_case_that_was_recorded_otherwise_is_refused_by_name(
    recording: Path, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "again", ("ant",))

    run = bench.run("--profile", "demo", "--replay", recording)

    assert run.code == 2
    assert "ant-0 was asked for with seed=3, and is asked for with 0 now" in run.error
    assert "ant-0 was asked for with another control image" in run.error
    assert not bench.out.exists()


@pytest.mark.parametrize("place", ["recording", "recording/new", "."])
def test_a_run_is_not_written_into_its_recording_nor_around_it(
    place: str, recording: Path, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "bench")
    bench.out = tmp_path / place

    run = bench.run("--profile", "demo", "--replay", recording, suite=False)

    assert run.code == 2
    assert "lie in each other, and a recording must stay as it is" in run.error
    assert files_of(recording) == files_of(RECORDING)


def test_a_judge_that_cannot_be_had_is_told_before_anything_is_painted(
    recording: Path, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "again")

    run = bench.run(
        "--profile", "demo", "--replay", recording, "--estimator", tmp_path, suite=False
    )

    assert run.code == 3
    assert "the depth estimator" in run.error
    assert not (bench.out / "local").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--profile", "exact"), "--profile was 'demo' and is 'exact' now"),
        (("--profile", "demo", "--threads", "2"), "threads of --profile was None and is 2 now"),
        (("--profile", "demo", "--repeat", "2"), "--repeat was 1 and is 2 now"),
    ],
)
def test_a_replay_is_not_gone_on_with_otherwise(
    words: tuple[str, ...], message: str, again: Again
) -> None:
    before = files_of(again.bench.out)

    run = again.bench.run(*words, "--replay", again.recording, "--resume", suite=False)

    assert run.code == 2
    assert message in run.error
    assert files_of(again.bench.out) == before


def test_nor_where_a_profile_has_come_to_something_else(again: Again, tmp_path: Path) -> None:
    """As `auto` does once FLUX's weights are there."""
    bench = Bench(tmp_path / "bench")
    shutil.copytree(again.bench.out, bench.out)
    side = json.loads((bench.out / "local/side.json").read_bytes())
    side["settings"]["order"] = "diffusers"
    (bench.out / "local/side.json").write_text(json.dumps(side))
    write_manifest(RunFolder(bench.out))

    run = bench.run("--profile", "demo", "--replay", again.recording, "--resume", suite=False)

    assert run.code == 2
    assert "its side local was begun otherwise: order was 'diffusers' and is 'hoisted' now" in (
        run.error
    )


def test_nor_with_another_recording(again: Again, recording: Path) -> None:
    plan = json.loads((recording / "plan.json").read_bytes())
    (recording / "plan.json").write_text(json.dumps({**plan, "price_usd_per_picture": 0.04}))
    write_manifest(RunFolder(recording))

    run = again.bench.run("--profile", "demo", "--replay", recording, "--resume", suite=False)

    assert run.code == 2
    assert "the recording's sha256 was '" in run.error
