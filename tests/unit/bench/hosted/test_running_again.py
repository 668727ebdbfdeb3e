"""A later run in the same folder: what an earlier one called failed and the side may have yet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from run_fixtures import ScriptedSide, completed, failed, make_suite, tasks_of_suite

from depthflux.bench.hosted.errors import HostedError
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.run_files import Intent, Submission
from depthflux.bench.hosted.running import Runner, charged_pictures

NAMES = ["ant", "bee", "cat"]


class Again:
    """A folder in which every task has ended: one completed, one may come, one failed for good."""

    def __init__(self, path: Path, name: str = "hosted") -> None:
        self.folder, self.name = RunFolder(path / "run"), name
        self.folder.path.mkdir()
        self.tasks = tasks_of_suite(make_suite(path, NAMES))
        self.keys = [task.key for task in self.tasks]
        self.folder.task(name, "ant-0").end(completed(self.folder, name, self.tasks[0]))
        for task, may_come in zip(self.tasks[1:], (True, False), strict=True):
            taken = self.folder.task(name, task.key)
            taken.intend(Intent(task=task.key, fields=task.fields, began_at=1.0))
            taken.submit(Submission(prediction=task.key * 4))
            taken.end(failed(task.key).model_copy(update={"may_come": may_come}))

    def run(self, side: ScriptedSide, budget: Budget | None = None) -> None:
        runner = Runner(
            side,
            self.tasks,
            self.folder,
            concurrency=1,
            budget=budget or Budget(None, None),
            stop=threading.Event(),
            say=lambda _: None,
        )
        runner.prepare()
        runner.run()


@pytest.fixture
def again(tmp_path: Path) -> Again:
    return Again(tmp_path)


def test_only_what_may_come_is_asked_for_again_and_nothing_is_sent(again: Again) -> None:
    side = ScriptedSide(again.folder, lambda task: completed(again.folder, "hosted", task))
    settled = again.folder.is_settled("hosted", again.keys)

    again.run(side)

    assert settled is False
    assert (side.followed, side.asked, side.prepared) == (["bee-0"], [], [])
    assert again.folder.task("hosted", "bee-0").outcome().status == "completed"
    assert again.folder.is_settled("hosted", again.keys)


def test_it_was_paid_for_once_and_is_counted_once(again: Again) -> None:
    paid = charged_pictures("hosted", again.tasks, again.folder)
    budget = Budget(1.0, 3.0, charged_pictures=paid)
    side = ScriptedSide(again.folder, lambda task: completed(again.folder, "hosted", task))

    again.run(side, budget)

    assert (paid, budget.pictures) == (3, 3)
    assert side.followed == ["bee-0"]


def test_where_the_side_does_not_answer_the_old_end_stays(again: Again) -> None:
    def silent(task: Task) -> Outcome:
        raise HostedError("503", status=503)

    with pytest.raises(HostedError, match="2 of 3 tasks of hosted are done"):
        again.run(ScriptedSide(again.folder, silent))

    assert again.folder.task("hosted", "bee-0").outcome().status == "failed"


def test_a_local_side_s_failures_are_left_as_they_are(tmp_path: Path) -> None:
    again = Again(tmp_path, "local")
    side = ScriptedSide(again.folder, lambda task: failed(task.key), name="local", is_paid=False)

    again.run(side)

    assert (side.followed, side.asked) == ([], [])
