"""Tasks through a side: the order, what stops the sending, and going on."""

from __future__ import annotations

import _thread
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from run_fixtures import FIELDS, ScriptedSide, completed, failed, make_suite, tasks_of_suite

from depthflux.bench.hosted.errors import KeyRefusedError, UnreachableError
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.run_files import Intent, Submission
from depthflux.bench.hosted.running import LOOK_S, LOST_IN_A_ROW, Runner, charged_pictures
from depthflux.errors import (
    CancelledError,
    GenerationError,
    InvalidParameterError,
    OutputError,
    SettingsError,
    WeightsMissingError,
)


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
        (KeyRefusedError("the key was refused.", status=401), KeyRefusedError, 3),
        (UnreachableError("nobody is there."), UnreachableError, 1),
        (OutputError("the disk is full.", field="out"), OutputError, 2),
        (InvalidParameterError("the suite was changed."), InvalidParameterError, 2),
        (WeightsMissingError("no model."), WeightsMissingError, 3),
    ],
    ids=["key", "unreachable", "disk", "suite", "weights"],
)
def test_what_ends_all_stops_the_sending_and_says_how_to_go_on(
    error: Exception, kind: type[Exception], code: int, run: Run
) -> None:
    def answer(task: Task) -> Outcome:
        if task.key == run.keys[2]:
            side.withdraw(task)
            raise error
        return completed(run.folder, "hosted", task)

    side, said = run.side(answer), str(error)

    with pytest.raises(kind, match=r"2 of 10 tasks of hosted are done; 2 pictures") as caught:
        go(run.runner(side, budget=Budget(0.5, None)))

    assert str(caught.value) == (
        f"{said} 2 of 10 tasks of hosted are done; 2 pictures count as paid (1 USD). "
        "Run the same command with --resume to go on."
    )
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert side.asked == run.keys[:3]
    assert run.state(run.keys[2]) == "new"


def test_what_was_sent_counts_as_paid_where_the_folder_is_gone(run: Run) -> None:
    def answer(task: Task) -> Outcome:
        if task.key == run.keys[2]:
            shutil.rmtree(run.folder.path)
            raise OutputError("it is gone.")
        return completed(run.folder, "hosted", task)

    with pytest.raises(OutputError, match="2 of 10 tasks of hosted are done; 3 pictures count"):
        go(run.runner(run.side(answer)))

    assert not run.folder.path.exists()


def test_what_helps_against_an_error_is_told_whatever_has_become_of_it(run: Run) -> None:
    error = SettingsError("the key was refused.", fix="Set another one.")
    side = run.side(failing(error))
    side.prepare = failing(error)  # type: ignore[assignment, method-assign]

    with pytest.raises(SettingsError, match=r"Set another one\. 0 of 10 tasks") as caught:
        run.runner(side).prepare()

    assert caught.value.fix == "Set another one."


def failing(error: Exception) -> Callable[[object], Outcome]:
    """What raises an error whatever it is asked."""

    def answer(_: object) -> Outcome:
        raise error

    return answer


def test_no_error_is_lost_where_several_tasks_meet_one(run: Run) -> None:
    both = threading.Barrier(2)

    def answer(task: Task) -> Outcome:
        both.wait(30)
        raise OutputError(f"the disk is full; the id of {task.key} is here alone.")

    with pytest.raises(OutputError, match="is here alone") as caught:
        go(run.runner(run.side(answer), concurrency=2))

    told = " ".join([str(caught.value), *run.said])
    assert all(f"the id of {key} is here alone" in told for key in run.keys[:2])


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

    go(run.runner(side))

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


def test_ctrl_c_waits_for_the_answer_to_what_was_just_sent(run: Run) -> None:
    """Within `join` it makes Python 3.11 take a thread for ended."""

    def answer(task: Task) -> Outcome:
        time.sleep(LOOK_S / 2)  # the main thread waits by now
        _thread.interrupt_main()
        assert run.stop.wait(30)
        time.sleep(0.5)
        return completed(run.folder, "hosted", task)

    with pytest.raises(CancelledError, match="1 of 10 tasks of hosted are done"):
        go(run.runner(run.side(answer)))

    assert run.state(run.keys[0]) == "ended"


def test_a_second_ctrl_c_waits_for_what_is_being_written_and_no_longer(run: Run) -> None:
    written, ends = threading.Event(), threading.Event()

    def answer(task: Task) -> Outcome:
        _thread.interrupt_main()
        assert run.stop.wait(30)
        _thread.interrupt_main()
        if task.key == run.keys[0]:
            time.sleep(0.5)
            run.folder.task("hosted", task.key).submit(Submission(prediction="1" * 32))
            written.set()
        ends.wait(30)
        raise CancelledError("cancelled.")

    began = time.monotonic()
    with pytest.raises(CancelledError, match="0 of 10 tasks of hosted are done"):
        go(run.runner(run.side(answer)))
    seconds = time.monotonic() - began
    was_written = written.is_set()
    ends.set()

    assert was_written
    assert run.state(run.keys[0]) == "submitted"
    assert seconds < 10, "the thread itself would have waited for half a minute"


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
