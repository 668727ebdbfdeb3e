"""Tasks through a side: the order, what stops the sending, and going on."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from run_fixtures import FIELDS, ScriptedSide, completed, failed, make_suite, tasks_of_suite

from depthflux.bench.hosted.errors import KeyRefusedError, UnreachableError
from depthflux.bench.hosted.folder import Intent, RunFolder, Submission
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.running import LOST_IN_A_ROW, Runner, charged_pictures
from depthflux.errors import CancelledError, GenerationError, SettingsError


class Run:
    """A folder, ten tasks, and what was said."""

    def __init__(self, path: Path, cases: int = 5, repeat: int = 2) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.path.mkdir(exist_ok=True)
        names = [f"case-{number}" for number in range(cases)]
        self.tasks = tasks_of_suite(make_suite(path, names), repeat)
        self.keys = [task.key for task in self.tasks]
        self.said: list[str] = []
        self.stop = threading.Event()

    def side(self, answer: Callable[[Task], Outcome], **more: object) -> ScriptedSide:
        return ScriptedSide(self.folder, answer, stop=self.stop, **more)  # type: ignore[arg-type]

    def runner(
        self, side: ScriptedSide, *, concurrency: int = 1, budget: Budget | None = None
    ) -> Runner:
        return Runner(
            side,
            self.tasks,
            self.folder,
            concurrency=concurrency,
            budget=budget or Budget(None, None),
            stop=self.stop,
            say=self.said.append,
        )

    def state(self, key: str, side: str = "hosted") -> str:
        return self.folder.task(side, key).state


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def go(runner: Runner) -> None:
    runner.prepare()
    runner.run()


def test_tasks_are_sent_in_order_and_each_end_is_written_and_told(run: Run) -> None:
    side = run.side(lambda task: completed(run.folder, "hosted", task))

    go(run.runner(side))

    assert side.prepared == side.asked == run.keys
    assert {run.state(key) for key in run.keys} == {"ended"}
    assert run.said[0] == "hosted 1/10 case-0-0: 4.0 s"
    assert run.said[-1] == "hosted 10/10 case-4-1: 4.0 s"


def test_no_more_are_under_way_than_asked_for(run: Run) -> None:
    both = threading.Barrier(3)

    def answer(task: Task) -> Outcome:
        if task.key in run.keys[:3]:
            both.wait(30)
        return failed(task.key)

    side = run.side(answer)

    go(run.runner(side, concurrency=3))

    assert side.most_under_way == 3
    assert sorted(side.asked) == sorted(run.keys)


def test_a_failed_task_is_an_outcome_and_no_end(run: Run) -> None:
    side = run.side(
        lambda task: (
            failed(task.key) if task.key == "case-1-0" else completed(run.folder, "hosted", task)
        )
    )

    go(run.runner(side))

    assert side.asked == run.keys
    assert "hosted 2/10 case-1-0: failed: it fell over" in run.said


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (KeyRefusedError("the key was refused.", status=401), SettingsError, 3),
        (UnreachableError("nobody is there."), GenerationError, 1),
    ],
    ids=["key", "unreachable"],
)
def test_what_ends_all_stops_the_sending_and_says_how_to_go_on(
    error: Exception, kind: type[Exception], code: int, run: Run
) -> None:
    def answer(task: Task) -> Outcome:
        if task.key == run.keys[2]:
            side.withdraw(task)
            raise error
        return completed(run.folder, "hosted", task)

    side = run.side(answer)

    with pytest.raises(kind, match=r"2 of 10 tasks of hosted are done; 2 pictures") as caught:
        go(run.runner(side, budget=Budget(0.5, None)))

    assert str(caught.value) == (
        f"{error} 2 of 10 tasks of hosted are done; 2 pictures count as paid (1 USD). "
        "Run the same command with --resume to go on."
    )
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert side.asked == run.keys[:3]
    assert run.state(run.keys[2]) == "new"


def test_a_side_that_loses_one_task_after_the_other_is_not_sent_more(run: Run) -> None:
    side = run.side(lambda task: failed(task.key, status="lost"))

    with pytest.raises(GenerationError, match="hosted lost 3 tasks one after the other"):
        go(run.runner(side))

    assert side.asked == run.keys[:LOST_IN_A_ROW]


def test_single_losses_stop_nothing(run: Run) -> None:
    side = run.side(
        lambda task: failed(task.key, status="lost" if int(task.key[5]) % 2 else "failed")
    )

    go(run.runner(side))

    assert side.asked == run.keys


def test_the_highest_cost_is_never_exceeded_even_by_what_is_under_way(run: Run) -> None:
    side = run.side(lambda task: failed(task.key))

    go(run.runner(side, concurrency=4, budget=Budget(0.03, 0.1)))

    assert sorted(side.asked) == run.keys[:3]
    assert run.said[-1] == ("hosted: 7 of 10 tasks are not sent: case-3-0 would exceed --max-cost")


def test_what_was_not_charged_leaves_its_money_for_others(run: Run) -> None:
    side = run.side(lambda task: failed(task.key, charged=int(task.key[5]) > 1))

    go(run.runner(side, budget=Budget(0.03, 0.1)))

    assert side.asked == run.keys[:5], "the first two were free"


def test_going_on_keeps_what_ended_follows_what_was_sent_and_loses_what_may_have_been(
    run: Run,
) -> None:
    ended, submitted, intended = (run.folder.task("hosted", key) for key in run.keys[:3])
    ended.end(failed(run.keys[0]))
    for taken in (submitted, intended):
        taken.intend(Intent(task=taken.path.name, fields=FIELDS, began_at=1.0))
    submitted.submit(Submission(prediction="0" * 32))
    charged = charged_pictures("hosted", run.tasks, run.folder)
    side = run.side(lambda task: failed(task.key))

    go(run.runner(side, budget=Budget(1.0, 4.0, charged_pictures=charged)))

    assert charged == 3
    assert side.followed == [run.keys[1]]
    assert side.asked == run.keys[3:4], "three of the four dollars were spent already"
    lost = run.folder.task("hosted", run.keys[2]).outcome()
    assert (lost.status, lost.is_charged) == ("lost", True)
    assert "not sent again" in lost.error
    assert run.said[0] == "hosted: 2 of 10 tasks are done"


def test_a_local_side_that_costs_nothing_is_simply_asked_again(run: Run) -> None:
    for key in run.keys[:2]:
        taken = run.folder.task("local", key)
        taken.intend(Intent(task=key, fields=FIELDS, began_at=1.0))
        taken.submit(Submission(prediction="0" * 32))
        taken.write_picture("0.png", b"half a task's picture")
    side = run.side(lambda task: failed(task.key), name="local", is_paid=False)

    go(run.runner(side))

    assert side.asked == run.keys
    assert not (run.folder.path / "local" / run.keys[0] / "0.png").exists()


def test_nothing_is_prepared_where_nothing_is_to_be_sent(run: Run) -> None:
    for key in run.keys:
        run.folder.task("hosted", key).end(failed(key))
    side = run.side(lambda task: failed(task.key))
    runner = run.runner(side)

    go(runner)

    assert runner.is_done
    assert side.prepared == side.asked == []


def test_ctrl_c_lets_what_is_being_sent_be_noted_and_ends_the_waiting(run: Run) -> None:
    def answer(task: Task) -> Outcome:
        if task.key == run.keys[1]:
            run.folder.task("hosted", task.key).submit(Submission(prediction="1" * 32))
            # As Ctrl-C does: the main thread gets it.
            _thread.interrupt_main()
            side.wait_for_the_end()
        return completed(run.folder, "hosted", task)

    side = run.side(answer)

    with pytest.raises(CancelledError, match=r"1 of 10 tasks of hosted are done") as caught:
        go(run.runner(side, budget=Budget(0.25, None)))

    assert str(caught.value) == (
        "cancelled. 1 of 10 tasks of hosted are done; 2 pictures count as paid (0.5 USD). "
        "Run the same command with --resume to go on."
    )
    assert caught.value.exit_code == 130
    assert run.state(run.keys[1]) == "submitted"
    assert side.asked == run.keys[:2]


def test_a_mistake_of_ours_is_told_as_it_is(run: Run) -> None:
    def answer(task: Task) -> Outcome:
        raise ZeroDivisionError("a mistake")

    hooked: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, hooked.append
    try:
        with pytest.raises(ZeroDivisionError, match="a mistake"):
            go(run.runner(run.side(answer)))
    finally:
        threading.excepthook = before

    assert len(hooked) == 1
