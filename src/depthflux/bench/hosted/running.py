"""Tasks through a side: in order, some at a time, each outcome written as soon as it is there.

A task that fails is an outcome, and the next one is sent. What stops the sending: a key that is
refused, a side that cannot be reached or loses what it is sent, the highest cost, Ctrl-C. Whatever
was sent is then seen to its end where that can be, and what is not done is done by a later run in
the same folder, which never sends a task again that may have been paid for; it asks again for
pictures that the side may have all the same.

Knows nothing of HTTP, and of money only whom to ask.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.money import Budget, usd
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.plan import Task
from depthflux.bench.wording import count, which
from depthflux.errors import (
    CancelledError,
    DepthFluxError,
    GenerationError,
)

Say = Callable[[str], None]

#: A side that loses so many submissions one after the other would be paid for nothing.
LOST_IN_A_ROW = 3
#: How often the main thread looks up, so that Ctrl-C is heard.
LOOK_S = 0.2
#: How long a second Ctrl-C waits for what is being written.
LAST_WRITES_S = 2.0
_LOST = (
    "the run ended before its answer was read: it may have been taken and paid for, so it is not "
    "sent again"
)
GO_ON = "Run the same command with --resume to go on."


class Side(Protocol):
    """Who answers tasks.

    Attributes:
        name: of its folder.
        is_paid: whether a task that was sent may cost, so that it must never be sent twice.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def is_paid(self) -> bool:
        """See the class."""

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Make ready for tasks that are about to be sent, such as upload their control images.

        Raises:
            DepthFluxError: nothing can be sent.
        """

    def ask(self, task: Task) -> Outcome:
        """Send a task and see it to its end; several threads call.

        Raises:
            CancelledError: the runner's `stop` was set before its end.
            DepthFluxError: nothing more can be sent. What was sent is noted in the folder.
        """

    def follow(self, task: Task) -> Outcome:
        """See a task to its end that an earlier run has sent; otherwise as `ask`."""


class Runner:
    """One side's tasks, run once."""

    def __init__(
        self,
        side: Side,
        tasks: Sequence[Task],
        folder: RunFolder,
        *,
        concurrency: int,
        budget: Budget,
        stop: threading.Event,
        say: Say,
    ) -> None:
        """Send nothing yet, but see what an earlier run has done.

        Args:
            side: who is asked.
            tasks: in the order they are sent; those that the folder has outcomes of are kept.
            folder: the run's.
            concurrency: how many are under way at a time.
            budget: asked before every task; it counts what the folder says was charged.
            stop: set here at Ctrl-C; the side then ends its waiting.
            say: told of every task that ends.

        Raises:
            InvalidParameterError: a file of the folder is not what a run writes.
        """
        self._side, self._tasks, self._folder = side, tasks, folder
        self._concurrency, self._budget, self._say = concurrency, budget, say
        self._lock = threading.Lock()
        self._stop = stop
        self._waiting: list[tuple[Task, bool]] = []
        self._done = self._lost_in_a_row = 0
        self._unsent: list[Task] = []
        self._error: BaseException | None = None
        self._sort()

    def prepare(self) -> None:
        """Make the side ready for what is to be sent, before which nothing is paid for.

        Raises:
            DepthFluxError: nothing can be sent; of the class that says why.
        """
        new = [task for task, is_sent in self._waiting if not is_sent]
        try:
            if new:
                self._side.prepare(new)
        except DepthFluxError as error:
            self._tell_how_far(error)
            raise

    def run(self) -> None:
        """Run all that is to be run; after `prepare`.

        Raises:
            CancelledError: Ctrl-C; the folder can be gone on with.
            DepthFluxError: nothing more could be sent; of the class that says why.
        """
        try:
            self._run_threads()
        except KeyboardInterrupt as error:
            raise CancelledError(f"cancelled. {self._summary()} {GO_ON}") from error
        if self._error is not None:
            self._tell_how_far(self._error)
            raise self._error
        if self._unsent:
            self._say(
                f"{self._side.name}: {len(self._unsent)} of {count(len(self._tasks), 'task')} "
                f"{which(len(self._tasks), 'is', 'are')} not sent: "
                f"{self._unsent[0].key} would exceed --max-cost"
            )

    def _sort(self) -> None:
        """What is done, to be followed, lost or to be sent, by the folder."""
        for task in self._tasks:
            taken = self._folder.task(self._side.name, task.key)
            state = taken.state
            if state != "ended" and not self._side.is_paid:
                taken.forget()
                state = "new"
            if state == "intended":
                taken.end(_lost(task, taken.intent().began_at))
            is_open = state == "ended" and self._side.is_paid and taken.outcome().may_come
            if state in ("ended", "intended") and not is_open:
                self._done += 1
            else:
                self._waiting.append((task, state != "new"))
        if self._done:
            self._say(
                f"{self._side.name}: {self._done} of {count(len(self._tasks), 'task')} "
                f"{which(len(self._tasks), 'is', 'are')} done"
            )

    def _run_threads(self) -> None:
        threads = [
            _Worker(self._work, f"task-{number}")
            for number in range(min(self._concurrency, len(self._waiting)))
        ]
        try:
            for thread in threads:
                thread.start()
            _join(threads)
        except KeyboardInterrupt:
            try:
                self._stop.set()
                self._say(
                    "stopping: waiting for what was just sent to be taken; Ctrl-C ends at once"
                )
                _join(threads)
            except KeyboardInterrupt:
                # What is being written is written: else the manifest would be of half a run.
                self._stop.set()
                _join(threads, at_most_s=LAST_WRITES_S)
            raise

    def _work(self) -> None:
        """Take the next task until there is none or nothing more can be sent."""
        while (taken := self._next()) is not None:
            task, is_sent = taken
            try:
                outcome = (self._side.follow if is_sent else self._side.ask)(task)
                self._folder.task(self._side.name, task.key).end(outcome)
            except CancelledError:
                self._give_back(task, is_sent)
                return
            except DepthFluxError as error:
                self._give_back(task, is_sent)
                self._halt(error)
                return
            except BaseException as error:
                # A mistake of ours: told by the main thread.
                self._halt(error)
                raise
            self._note(task, outcome)

    def _next(self) -> tuple[Task, bool] | None:
        with self._lock:
            if self._stop.is_set() or self._error is not None or not self._waiting:
                return None
            task, is_sent = self._waiting[0]
            if not is_sent and not self._budget.take(task.pictures):
                # All of them: the order of the rest would be another one than the plan's.
                self._unsent = [task for task, is_sent in self._waiting if not is_sent]
                self._waiting = [waiting for waiting in self._waiting if waiting[1]]
                return self._waiting.pop(0) if self._waiting else None
            return self._waiting.pop(0)

    def _note(self, task: Task, outcome: Outcome) -> None:
        with self._lock:
            self._done += 1
            if not outcome.is_charged:
                self._budget.refund(task.pictures)
            self._lost_in_a_row = self._lost_in_a_row + 1 if outcome.status == "lost" else 0
            if self._lost_in_a_row >= LOST_IN_A_ROW and self._side.is_paid:
                self._error = self._error or GenerationError(
                    f"{self._side.name} lost {LOST_IN_A_ROW} tasks one after the other, each of "
                    f"which may have been paid for: {outcome.error}."
                )
            how = (
                f"{outcome.ended_at - outcome.began_at:.1f} s"
                if outcome.status == "completed"
                else f"{outcome.status}: {outcome.error}"
            )
            self._say(f"{self._side.name} {self._done}/{len(self._tasks)} {task.key}: {how}")

    def _give_back(self, task: Task, is_sent: bool) -> None:
        """A task whose intent was withdrawn was surely not taken, and costs nothing."""
        if not is_sent and not self._folder.task(self._side.name, task.key).may_be_sent:
            self._budget.refund(task.pictures)

    def _halt(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            elif str(error) != str(self._error):
                # One error ends the run; another one may hold an id that stands nowhere else.
                self._say(f"{self._side.name}: {error}")

    def _tell_how_far(self, error: BaseException) -> None:
        """Add how far the run has come to an error; its class and fix stay as they are."""
        # One that nobody meant is told as it is.
        if isinstance(error, DepthFluxError):
            said = str(error) if str(error).endswith(".") else f"{error}."
            error.args = (f"{said} {self._summary()} {GO_ON}",)

    def _summary(self) -> str:
        """How far it has come, and what that may have cost."""
        tasks = count(len(self._tasks), "task")
        done = which(len(self._tasks), "is", "are")
        text = f"{self._done} of {tasks} of {self._side.name} {done} done"
        if not self._side.is_paid:
            return f"{text}."
        pictures, spent = self._budget.pictures, self._budget.spent
        counted = f"{count(pictures, 'picture')} {which(pictures, 'counts', 'count')} as paid"
        return f"{text}; {counted}{'' if spent is None else f' ({usd(spent)})'}."


def charged_pictures(side: str, tasks: Sequence[Task], folder: RunFolder) -> int:
    """How many pictures a run's folder says may have been paid for already."""
    pictures = 0
    for task in tasks:
        taken = folder.task(side, task.key)
        state = taken.state
        if state in ("intended", "submitted") or (state == "ended" and taken.outcome().is_charged):
            pictures += task.pictures
    return pictures


def pause(seconds: float, stop: threading.Event) -> None:
    """Wait, unless the run is being stopped.

    Raises:
        CancelledError: it is.
    """
    if stop.wait(seconds):
        raise CancelledError("cancelled.")


class _Worker(threading.Thread):
    """A thread whose end is told by itself.

    Ctrl-C within `join` makes Python 3.11 take the thread for ended: nobody would wait for the
    answer to what it has just sent.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        # A daemon: after a second Ctrl-C nobody waits for an answer that does not come.
        super().__init__(name=name, daemon=True)
        self._work = work
        self.has_ended = threading.Event()

    def run(self) -> None:
        """Work, and tell the end."""
        try:
            self._work()
        finally:
            self.has_ended.set()


def _join(threads: Sequence[_Worker], at_most_s: float = math.inf) -> None:
    """Wait for all that were started, and let Ctrl-C through meanwhile."""
    end = time.monotonic() + at_most_s
    for thread in threads:
        while thread.ident is not None and time.monotonic() < end:
            if thread.has_ended.wait(LOOK_S):
                break


def _lost(task: Task, began_at: float) -> Outcome:
    return Outcome(
        task=task.key,
        status="lost",
        error=_LOST,
        code=None,
        prediction="",
        began_at=began_at,
        ended_at=began_at,
        times=None,
        pictures=[],
        polls=0,
        retries=0,
        is_charged=True,
    )
