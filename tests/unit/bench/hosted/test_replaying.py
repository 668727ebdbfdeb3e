"""An earlier run's first side, checked and copied."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_fixtures import RECORDED_AT, completed, facts, make_suite, tasks_of_suite

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.manifest import write_manifest
from depthflux.bench.hosted.measures import read_side
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.replaying import PlanFile, Replayed, replay
from depthflux.errors import InvalidParameterError

SHA = "5" * 64
PLAN = PlanFile(
    fingerprint="1",
    first_side="hosted",
    suite="small",
    suite_sha256=SHA,
    repeat=1,
    concurrency=1,
    poll_interval_s=0.5,
    sync_mode=False,
    price_usd=0.03,
    begun_at=RECORDED_AT,
    command="depthflux bench hosted",
)


class Recording:
    """A run of one task of two, and a folder for the next run."""

    def __init__(self, path: Path) -> None:
        self.source, self.target = RunFolder(path / "run"), RunFolder(path / "next")
        for folder in (self.source, self.target):
            folder.path.mkdir()
        self.tasks: list[Task] = tasks_of_suite(make_suite(path))
        self.source.write_json("plan.json", PLAN.model_dump(mode="json"))
        self.source.write_side(facts(model="a/model"))
        task = self.tasks[0]
        outcome = completed(self.source, "hosted", task)
        self.source.task("hosted", task.key).end(outcome)
        self.source.write("hosted/ant-0/0-depth.png", b"drawn by a judge")
        self.source.write("local/ant-0/0.png", b"the other side's")
        write_manifest(self.source)

    def replay(self, tasks: list[Task] | None = None, sha256: str = SHA) -> Replayed:
        return replay(self.source.path, self.target, tasks or self.tasks, suite_sha256=sha256)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


def test_what_there_is_of_the_first_side_is_copied_and_the_rest_counted(
    recording: Recording,
) -> None:
    replayed = recording.replay()

    assert (replayed.side, replayed.missing) == ("hosted", 1)
    side = read_side(recording.target, "hosted", recording.tasks)
    assert side is not None
    assert side.outcomes.keys() == {"ant-0"}
    assert (side.facts.model, side.facts.recorded_at) == ("a/model", RECORDED_AT)
    names = [path.name for path in recording.target.path.rglob("*") if path.is_file()]
    assert sorted(names) == ["0.png", "intent.json", "outcome.json", "side.json", "submission.json"]


def test_a_recording_of_another_suite_is_refused(recording: Recording) -> None:
    with pytest.raises(InvalidParameterError, match="recorded with the suite 'small' of sha256"):
        recording.replay(sha256="6" * 64)

    assert list(recording.target.path.iterdir()) == []


def test_tasks_that_were_asked_with_other_fields_are_refused(recording: Recording) -> None:
    first, *rest = recording.tasks
    other = Task(first.key, first.case, 0, {**first.fields, "seed": 99})

    with pytest.raises(InvalidParameterError, match="ant-0 was asked for with other fields"):
        recording.replay([other, *rest])

    assert recording.tasks[0].fields["seed"] == 5


def test_a_recording_that_was_touched_is_not_copied(recording: Recording) -> None:
    (recording.source.path / "hosted/ant-0/0.png").write_bytes(b"another picture")

    with pytest.raises(InvalidParameterError, match=r"hosted/ant-0/0\.png was changed"):
        recording.replay()

    assert list(recording.target.path.iterdir()) == []
