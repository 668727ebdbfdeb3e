"""A side that is asked: any server that speaks the hosted API, and what it says is written down.

A task passes through here as: intent written, submitted, id written, polled, downloaded, pictures
written. What goes wrong is one of three things: the task's own outcome; a reason to send nothing
more, which is raised; or, for a submission without an answer, a loss that may have cost.

Knows nothing of what is made of the answers, nor of profiles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from depthflux.bench.hosted.afterwards import afterwards
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.control_uploads import ControlUploads
from depthflux.bench.hosted.errors import (
    HostedError,
    NotAskedError,
    SubmissionLostError,
    UnreachableError,
    UnreadableAnswerError,
    UnusableOutputError,
)
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.fetching import Fetched, Pictures
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.on_its_way import Asking, OnItsWay
from depthflux.bench.hosted.outcomes import Outcome, TaskStatus
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.refusals import ALIKE_REFUSALS, AlikeRefusals
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.run_files import (
    EXCHANGES,
    Intent,
    SideFacts,
    Submission,
)
from depthflux.bench.hosted.running import pause
from depthflux.bench.hosted.taken_ids import TakenIds, not_noted
from depthflux.bench.hosted.timing import Begun, is_possible, times_of
from depthflux.bench.hosted.warming import warm_up
from depthflux.bench.steady import SteadyClock
from depthflux.errors import DepthFluxError, OutputError, show
from depthflux.images import IsolatedDecoder

#: After so long a task has failed, whatever it may still become: a quarter of an hour of a service
#: that answers in seconds, half an hour of a local profile.
HOSTED_LONGEST_S, LOCAL_LONGEST_S = 900.0, 1800.0
#: Answers to a submission that every further one would get, too: nothing left to pay with, no such
#: model at this address, and 429 after all patience.
_FOR_ALL = frozenset({402, 404, 429})
#: Answers to a poll that say that there is no such task, where they come again and again.
_GONE = frozenset({404, 410})
#: What a run that goes on knows of a side from the one before it.
_KEPT_FACTS = (
    "model", "device", "gpu", "upload_seconds", "energy", "energy_missing", "recorded_at", "unread",
    "impossible_inferences", "not_warmed",
)  # fmt: skip


class ServedSide:
    """One server, asked by one client; several threads may call."""

    def __init__(
        self,
        client: HostedClient,
        log: ExchangeLog,
        facts: SideFacts,
        folder: RunFolder,
        asking: Asking,
        *,
        stop: threading.Event,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            client: of the server.
            log: what the client tells of its exchanges.
            facts: what is known of the side; what earlier runs in the folder knew is added.
            folder: the run's.
            asking: how it is asked.
            stop: set where the run is being stopped.
            clock: seconds that only go forward.
            wall: seconds since 1970; asked once.
            sleep: waits so many seconds before a picture is fetched anew; None = unless `stop`.

        Raises:
            InvalidParameterError: a file of the folder is not what a run writes.
        """
        self._client, self._log, self._folder, self._asking = client, log, folder, asking
        self._stop, self._clock = stop, clock
        #: Seconds since 1970, by a clock that is not set meanwhile.
        self.now = SteadyClock(clock, wall)
        self._ids = TakenIds(folder, facts.name)
        self._decoder = IsolatedDecoder()
        self._pictures = Pictures(
            client,
            self._decoder,
            clock=clock,
            sleep=sleep or (lambda seconds: pause(seconds, stop)),
        )
        self._uploads = ControlUploads(client, log, folder, facts.name)
        self._refusals = AlikeRefusals()
        self._changing = threading.Lock()
        before = folder.side(facts.name)
        if before is not None:
            facts = facts.model_copy(update={name: getattr(before, name) for name in _KEPT_FACTS})
        self._facts = facts
        folder.write_side(facts)

    @property
    def name(self) -> str:
        """Of the side's folder."""
        return self._facts.name

    @property
    def is_paid(self) -> bool:
        """Whether a task that was sent may cost."""
        return self._asking.is_paid

    @property
    def facts(self) -> SideFacts:
        """What is known of the side by now."""
        return self._facts

    def note(self, **facts: object) -> None:
        """Add to what is known of the side, in its folder, too; a function is given what was."""
        with self._changing:
            update = {
                name: fact(getattr(self._facts, name)) if callable(fact) else fact
                for name, fact in facts.items()
            }
            self._facts = self._facts.model_copy(update=update)
            self._folder.write_side(self._facts)

    def close(self) -> None:
        """End the process that decodes."""
        self._decoder.close()

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Upload the control image of every case once.

        Raises:
            DepthFluxError: as `ControlUploads.upload`.
        """
        seconds = self._uploads.upload(tasks)
        self.note(upload_seconds={**self._facts.upload_seconds, **seconds})

    def warm(self, task: Task) -> None:
        """Have the like of a prepared task painted that counts nowhere; see `warming`.

        Raises:
            HostedError: it was not.
            CancelledError: the run is being stopped.
        """
        if (refusal := self._uploads.refusal(task.case)) is not None:
            raise HostedError(f"its control image was refused: {refusal}")
        if (address := self._uploads.address(task.case)) is not None:
            fields = {**task.fields, "control_image": address}
            warm_up(self._client, fields, self._asking, self._stop)

    def ask(self, task: Task) -> Outcome:
        """Send a task and see it to its end; see `running.Side`."""
        taken = self._folder.task(self.name, task.key)
        with self._log.kept() as exchanges:
            on_its_way = OnItsWay(task, taken, exchanges, Begun(at=self.now()))
            if (refusal := self._uploads.refusal(task.case)) is not None:
                reason = f"its control image was refused: {refusal}"
                return self._ended(on_its_way, "failed", reason, refusal.code, is_charged=False)
            taken.intend(Intent(task=task.key, fields=task.fields, began_at=on_its_way.begun.at))
            with afterwards(lambda: self._keep(on_its_way)):
                return self._asked(on_its_way)

    def follow(self, task: Task) -> Outcome:
        """See a task to its end that an earlier run has sent; see `running.Side`."""
        taken = self._folder.task(self.name, task.key)
        with self._log.kept() as exchanges:
            begun = Begun(at=taken.intent().began_at)
            on_its_way = OnItsWay(task, taken, exchanges, begun, is_later=True)
            with afterwards(lambda: self._keep(on_its_way)):
                return self._followed(on_its_way)

    def _keep(self, on_its_way: OnItsWay) -> None:
        """Write what was exchanged into the task's folder, whatever has ended it."""
        self._folder.add_exchanges(
            f"{self.name}/{on_its_way.task.key}/{EXCHANGES}",
            [exchange.as_json() for exchange in on_its_way.exchanges],
        )

    def _asked(self, on_its_way: OnItsWay) -> Outcome:
        """Submit a task whose intent is written, and see it to its end."""
        task, taken = on_its_way.task, on_its_way.folder
        sent = {**task.fields, "control_image": self._uploads.address(task.case)}
        sync_mode = self._asking.sync_mode
        try:
            submission = self._client.submit(sent, sync_mode=sync_mode)
        except HostedError as error:
            return self._not_submitted(on_its_way, error)
        except DepthFluxError:
            # The key was refused, or it was stopped between two attempts.
            taken.withdraw()
            raise
        on_its_way.begun = Begun(
            at=on_its_way.begun.at,
            on_clock=self._clock() - submission.seconds,
            submit_s=None if sync_mode else submission.seconds,
        )
        self._refusals.end()
        self._note_id(on_its_way, submission.id)
        return self._seen(on_its_way, submission.prediction)

    def _note_id(self, on_its_way: OnItsWay, id: str) -> None:
        """Write the id of a task that was taken.

        Raises:
            HostedError: it is another task's; what was taken is lost.
            OutputError: it cannot be written; it says the id and what to do with it.
        """
        key = on_its_way.task.key
        if (other := self._ids.add(id, key)) != key:
            said = f"the side gave it the id of {other}, {id}, so its own is not known"
            on_its_way.folder.end(self._ended(on_its_way, "lost", said))
            raise HostedError(f"{key} is lost: {said}; ask the side why.")
        try:
            on_its_way.folder.submit(Submission(prediction=id))
        except OutputError as error:
            raise not_noted(error, on_its_way.folder, id) from error

    def _not_submitted(self, on_its_way: OnItsWay, error: HostedError) -> Outcome:
        """What a submission's failure means.

        Raises:
            HostedError: every further one would fail like it; this one was not taken.
        """
        code = error.code or error.status
        if error.may_be_taken and not self.is_paid and error.status is None:
            # A server of this machine that is gone: nothing is lost by asking its next one.
            on_its_way.folder.withdraw()
            raise error
        if error.may_be_taken and not error.prediction_id:
            return self._ended(on_its_way, "lost", str(error), code)
        if error.may_be_taken:
            self._note_id(on_its_way, error.prediction_id)
            return self._followed(on_its_way)
        is_redirect = error.status is not None and 300 <= error.status < 400
        if isinstance(error, UnreachableError) or is_redirect or error.status in _FOR_ALL:
            on_its_way.folder.withdraw()
            raise error
        if self.is_paid and self._refusals.add(code):
            on_its_way.folder.withdraw()
            raise HostedError(
                f"{ALIKE_REFUSALS} submissions in a row were refused alike, so no more are sent: "
                f"{error}",
                status=error.status,
                code=error.code,
            )
        return self._ended(on_its_way, "failed", str(error), code, is_charged=False)

    def _followed(self, on_its_way: OnItsWay) -> Outcome:
        """A task whose id is known, and not when it was answered: times are not seen."""
        submission = on_its_way.folder.submission()
        if submission is None:
            raise SubmissionLostError(f"the id of {on_its_way.task.key} is gone.")
        on_its_way.folder.submit(submission.model_copy(update={"polled_on": True}))
        try:
            prediction = self._polled(on_its_way, submission.prediction)
        except HostedError as error:
            return self._not_seen(on_its_way, error)
        return self._seen(on_its_way, prediction)

    def _seen(self, on_its_way: OnItsWay, prediction: HostedPrediction) -> Outcome:
        """Poll until a task has ended, and fetch its pictures."""
        on_its_way.prediction = prediction.id
        until = self._clock() + self._asking.longest_s
        while not prediction.has_ended:
            if self._clock() > until:
                return self._too_late(on_its_way, prediction)
            pause(self._asking.poll_interval_s, self._stop)
            try:
                prediction = self._polled(on_its_way, prediction.id)
            except HostedError as error:
                return self._not_seen(on_its_way, error)
        seen = self._clock()
        self._note_answer(prediction)
        if prediction.status != "completed":
            problem = prediction.error or f"its status is {prediction.status}, and no error is told"
            return self._ended(on_its_way, "failed", problem, prediction.code)
        fetched = self._pictures.fetch(prediction, on_its_way.folder)
        on_its_way.fetched_again += fetched.again
        if fetched.problem is not None:
            return self._not_fetched(on_its_way, fetched, fetched.problem)
        if problem := fetched.miscount(on_its_way.task.pictures):
            return self._ended(
                on_its_way, "failed", problem, may_come=True, pictures=fetched.pictures
            )
        return self._completed(on_its_way, prediction, fetched, seen)

    def _too_late(self, on_its_way: OnItsWay, prediction: HostedPrediction) -> Outcome:
        """A task that has not ended within its time.

        Raises:
            HostedError: its state is a word that nobody knows: it may have pictures, and so may
                every further one. A later run goes on with the others.
        """
        problem = f"not completed within {self._asking.longest_s:g} s"
        if not prediction.is_known:
            problem += f": its status is {show(prediction.status)}, which is not known here"
            if not on_its_way.is_later:
                raise HostedError(
                    f"{on_its_way.task.key} was {problem}; ask the side what became of "
                    f"{prediction.id}."
                )
        return self._ended(on_its_way, "failed", problem, may_come=True)

    def _polled(self, on_its_way: OnItsWay, prediction: str) -> HostedPrediction:
        on_its_way.prediction = prediction
        on_its_way.polls += 1
        return self._client.poll(prediction)

    def _not_seen(self, on_its_way: OnItsWay, error: HostedError) -> Outcome:
        """What a poll's failure means, once retries have not helped.

        Raises:
            HostedError: a later run asks again.
        """
        is_gone = error.status in _GONE and not self._is_first_to_see(on_its_way)
        is_unread = isinstance(error, UnreadableAnswerError) and on_its_way.is_later
        if not is_gone and not is_unread:
            raise error
        code = error.code or error.status
        return self._ended(on_its_way, "failed", str(error), code, may_come=True)

    def _is_first_to_see(self, on_its_way: OnItsWay) -> bool:
        """Whether what looks like a task's end stops the run: one that is paid for may be mended.

        Later runs go on with the others, and ask again for what they call failed.
        """
        return self.is_paid and not on_its_way.is_later

    def _not_fetched(
        self, on_its_way: OnItsWay, fetched: Fetched, problem: UnusableOutputError
    ) -> Outcome:
        """What it means that an output is no picture, is gone or is not to be fetched.

        Raises:
            UnusableOutputError: a later run asks again.
        """
        is_ours = isinstance(problem, NotAskedError) and not on_its_way.is_later
        if is_ours or self._is_first_to_see(on_its_way):
            raise problem
        return self._ended(
            on_its_way, "failed", str(problem), problem.status, may_come=True,
            pictures=fetched.pictures,
        )  # fmt: skip

    def _completed(
        self, on_its_way: OnItsWay, prediction: HostedPrediction, fetched: Fetched, seen: float
    ) -> Outcome:
        """The outcome of a task with all its pictures."""
        inference_s, begun = prediction.inference_s, on_its_way.begun
        if inference_s is not None and not is_possible(begun, seen, inference_s):
            inference_s = None
            self.note(impossible_inferences=lambda count: count + 1)
        return on_its_way.ended(
            "completed",
            "",
            # Decoding and writing came after the last picture.
            ended_at=self.now() - (self._clock() - fetched.done),
            pictures=fetched.pictures,
            times=times_of(begun, seen, fetched.done, inference_s),
        )

    def _ended(
        self,
        on_its_way: OnItsWay,
        status: TaskStatus,
        error: str,
        code: int | None = None,
        **more: Any,
    ) -> Outcome:
        """The outcome of a task without all its pictures; see `OnItsWay.ended`."""
        return on_its_way.ended(status, error, code, ended_at=self.now(), **more)

    def _note_answer(self, prediction: HostedPrediction) -> None:
        """Keep what an answer tells of the side, each once."""
        unread = sorted({*self._facts.unread, *prediction.unread})
        model = self._facts.model or prediction.model
        if (model, unread) != (self._facts.model, self._facts.unread):
            self.note(model=model, unread=unread)
