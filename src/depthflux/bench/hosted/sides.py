"""A side that is asked: any server that speaks the hosted API, and what it says is written down.

A task passes through here as: intent written, submitted, id written, polled, downloaded, pictures
written. What goes wrong is one of three things: the task's own outcome; a reason to send nothing
more, which is raised; or, for a submission without an answer, a loss that may have cost.

Knows nothing of what is made of the answers, nor of profiles.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence

from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.controls import read_control
from depthflux.bench.hosted.downloads import judge_picture
from depthflux.bench.hosted.errors import (
    HostedError,
    NoAnswerError,
    SubmissionLostError,
    UnreachableError,
)
from depthflux.bench.hosted.exchange_log import ExchangeLog, count_retries
from depthflux.bench.hosted.folder import (
    ENDINGS,
    EXCHANGES,
    Intent,
    RunFolder,
    SideFacts,
    Submission,
    TaskFolder,
)
from depthflux.bench.hosted.on_its_way import Asking, OnItsWay
from depthflux.bench.hosted.outcomes import Outcome, Picture, TaskStatus
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.running import pause
from depthflux.bench.hosted.suites import Case
from depthflux.bench.hosted.timing import Begun, times_of
from depthflux.errors import DepthFluxError
from depthflux.images import IsolatedDecoder

#: After so long a task has failed, whatever it may still become: a quarter of an hour of a service
#: that answers in seconds, half an hour of a local profile.
HOSTED_LONGEST_S, LOCAL_LONGEST_S = 900.0, 1800.0
UPLOADS = "uploads.json"
#: Answers to a submission that every further one would get, too: nothing left to pay with, and
#: 429 after all patience.
_FOR_ALL = (402, 429)


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
            wall: seconds since 1970.
        """
        self._client, self._log, self._folder, self._asking = client, log, folder, asking
        self._stop, self._clock, self._wall = stop, clock, wall
        self._decoder = IsolatedDecoder()
        self._addresses: dict[str, str] = {}
        self._refusals: dict[str, HostedError] = {}
        self._changing = threading.Lock()
        before = folder.side(facts.name)
        if before is not None:
            kept = ("model", "device", "upload_seconds", "energy", "energy_missing", "recorded_at")
            facts = facts.model_copy(update={name: getattr(before, name) for name in kept})
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
        """Add to what is known of the side, in its folder, too."""
        with self._changing:
            self._facts = self._facts.model_copy(update=facts)
            self._folder.write_side(self._facts)

    def close(self) -> None:
        """End the process that decodes."""
        self._decoder.close()

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Upload the control image of every case once.

        Raises:
            HostedError: the server cannot be reached or is broken.
            KeyRefusedError: the key is refused.
            InvalidParameterError: a picture is not the suite's any more.
        """
        cases = {task.case.name: task.case for task in tasks}
        seconds = dict(self._facts.upload_seconds)
        with self._log.kept() as exchanges:
            try:
                for case in cases.values():
                    if (taken := self._upload(case)) is not None:
                        seconds[case.name] = taken
            finally:
                self._folder.add_exchanges(
                    f"{self.name}/{UPLOADS}", [exchange.as_json() for exchange in exchanges]
                )
        self.note(upload_seconds=seconds)

    def ask(self, task: Task) -> Outcome:
        """Send a task and see it to its end; see `running.Side`."""
        taken = self._folder.task(self.name, task.key)
        with self._log.kept() as exchanges:
            on_its_way = OnItsWay(task, taken, exchanges, Begun(at=self._wall()))
            if (refusal := self._refusals.get(task.case.name)) is not None:
                reason = f"its control image was refused: {refusal}"
                return self._ended(on_its_way, "failed", reason, refusal.code, is_charged=False)
            taken.intend(Intent(task=task.key, fields=task.fields, began_at=on_its_way.begun.at))
            try:
                return self._asked(on_its_way)
            finally:
                self._keep(on_its_way)

    def follow(self, task: Task) -> Outcome:
        """See a task to its end that an earlier run has sent; see `running.Side`."""
        taken = self._folder.task(self.name, task.key)
        with self._log.kept() as exchanges:
            begun = Begun(at=taken.intent().began_at)
            on_its_way = OnItsWay(task, taken, exchanges, begun, is_later=True)
            try:
                return self._followed(on_its_way)
            finally:
                self._keep(on_its_way)

    def _keep(self, on_its_way: OnItsWay) -> None:
        """Write what was exchanged into the task's folder, whatever has ended it."""
        self._folder.add_exchanges(
            f"{self.name}/{on_its_way.task.key}/{EXCHANGES}",
            [exchange.as_json() for exchange in on_its_way.exchanges],
        )

    def _upload(self, case: Case) -> float | None:
        """Upload a control image; its seconds, None where it was refused."""
        data, ending = read_control(case)
        try:
            upload = self._client.upload(data, f"{case.name}.{ending}")
        except HostedError as error:
            if error.status is None or error.status not in range(400, 500):
                raise
            self._refusals[case.name] = error
            return None
        self._addresses[case.name] = upload.url
        return upload.seconds

    def _asked(self, on_its_way: OnItsWay) -> Outcome:
        """Submit a task whose intent is written, and see it to its end."""
        task, taken = on_its_way.task, on_its_way.folder
        sent = {**task.fields, "control_image": self._addresses[task.case.name]}
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
        taken.submit(Submission(prediction=submission.id))
        return self._seen(on_its_way, submission.prediction)

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
        if error.may_be_taken:
            if not error.prediction_id:
                return self._ended(on_its_way, "lost", str(error), code)
            on_its_way.folder.submit(Submission(prediction=error.prediction_id))
            return self._followed(on_its_way)
        is_redirect = error.status is not None and 300 <= error.status < 400
        if isinstance(error, UnreachableError) or is_redirect or error.status in _FOR_ALL:
            on_its_way.folder.withdraw()
            raise error
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
                reason = f"not completed within {self._asking.longest_s:g} s"
                return self._ended(on_its_way, "failed", reason)
            pause(self._asking.poll_interval_s, self._stop)
            try:
                prediction = self._polled(on_its_way, prediction.id)
            except HostedError as error:
                return self._not_seen(on_its_way, error)
        seen = self._clock()
        self._note_model(prediction)
        try:
            return self._fetched(on_its_way, prediction, seen)
        except HostedError as error:
            # A connection that broke off is tried once more by the next run.
            if isinstance(error, UnreachableError | NoAnswerError) and not on_its_way.is_later:
                raise
            code = prediction.code or error.code or error.status
            return self._ended(on_its_way, "failed", str(error), code)

    def _polled(self, on_its_way: OnItsWay, prediction: str) -> HostedPrediction:
        on_its_way.prediction = prediction
        on_its_way.polls += 1
        return self._client.poll(prediction)

    def _not_seen(self, on_its_way: OnItsWay, error: HostedError) -> Outcome:
        """What a poll's failure means, once retries have not helped.

        Raises:
            HostedError: the server cannot be reached or is broken; a later run asks again.
        """
        if error.status is None or error.status >= 500 or error.status == 429:
            raise error
        return self._ended(on_its_way, "failed", str(error), error.code or error.status)

    def _fetched(self, on_its_way: OnItsWay, prediction: HostedPrediction, seen: float) -> Outcome:
        """The outcome of a task that has ended on the side.

        Raises:
            HostedError: it has no pictures, or they cannot be had.
        """
        _require_pictures(on_its_way.task, prediction)
        files = [self._client.download(output).data for output in prediction.outputs]
        done, ended_at = self._clock(), self._wall()
        return Outcome(
            task=on_its_way.task.key,
            status="completed",
            error="",
            code=None,
            prediction=prediction.id,
            began_at=on_its_way.begun.at,
            ended_at=ended_at,
            times=times_of(on_its_way.begun, seen, done, prediction.inference_s),
            pictures=self._written(on_its_way.folder, files, prediction.flags),
            polls=on_its_way.polls,
            retries=count_retries(on_its_way.exchanges),
            is_charged=True,
        )

    def _ended(
        self,
        on_its_way: OnItsWay,
        status: TaskStatus,
        error: str,
        code: int | None = None,
        *,
        is_charged: bool = True,
    ) -> Outcome:
        """The outcome of a task without pictures."""
        return Outcome(
            task=on_its_way.task.key,
            status=status,
            error=error.rstrip("."),
            code=code,
            prediction=on_its_way.prediction,
            began_at=on_its_way.begun.at,
            ended_at=self._wall(),
            times=None,
            pictures=[],
            polls=on_its_way.polls,
            retries=count_retries(on_its_way.exchanges),
            is_charged=is_charged,
        )

    def _written(
        self, taken: TaskFolder, files: Sequence[bytes], flags: tuple[bool, ...] | None
    ) -> list[Picture]:
        """Judge and write pictures, whose flags are only believed where there is one each."""
        is_told = flags is not None and len(flags) == len(files)
        pictures = []
        for index, data in enumerate(files):
            judged = judge_picture(data, self._decoder)
            name = f"{index}.{ENDINGS[judged.media_type]}"
            pictures.append(
                Picture(
                    file=taken.write_picture(name, data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    media_type=judged.media_type,
                    width=judged.width,
                    height=judged.height,
                    bytes=len(data),
                    flagged=flags[index] if is_told and flags is not None else None,
                )
            )
        return pictures

    def _note_model(self, prediction: HostedPrediction) -> None:
        if prediction.model and not self._facts.model:
            self.note(model=prediction.model)


def _require_pictures(task: Task, prediction: HostedPrediction) -> None:
    """See that a task that has ended has all its pictures.

    Raises:
        HostedError: it has not; in the side's own words where it has some.
    """
    if prediction.status != "completed":
        said = prediction.error or f"its status is {prediction.status}, and no error is told"
        raise HostedError(said, code=prediction.code)
    if len(prediction.outputs) != task.pictures:
        raise HostedError(
            f"{len(prediction.outputs)} pictures came where {task.pictures} were asked for"
        )
