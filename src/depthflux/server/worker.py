"""The worker's process: takes predictions up under its lease, paints them, ends them in the store.

It is started by the server (depthflux.server.supervisor), is told what to do on standard input and
answers on standard output (depthflux.server.messages). When standard input ends, the server is
dead, and the worker ends at once: the next server takes its lease back.

Some threads take predictions, so that one's control image is fetched while another's last steps
run, and its pictures are written while the next one's first do; painting itself goes one at a time,
which is the painter's business. Another one is taken only when the first is about to end, or is
kept waiting by a host of its control image or LoRAs: earlier it would wait here while another GPU
might be idle.

Knows nothing of HTTP, and of torch only what its painter knows.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from depthflux.contract import GenerationRequest, Prediction
from depthflux.errors import CancelledError, DepthFluxError, GenerationError, first_line
from depthflux.images import IsolatedDecoder, NoDecoderError, ReadLimits
from depthflux.logs import log_to_standard_error
from depthflux.server.controls import Controls
from depthflux.server.database import STORE_PROBLEMS, Database
from depthflux.server.errors import CODE_FAILED, CODE_INTERNAL, ModeratedError, StoreError
from depthflux.server.jobs import Done, Jobs
from depthflux.server.locks import hold_slot
from depthflux.server.media import Media
from depthflux.server.messages import (
    Cancel,
    Drain,
    Dropped,
    Ended,
    FromServer,
    Ready,
    Refused,
    Start,
    Step,
    Wake,
    read_from_server,
)
from depthflux.server.names import new_error_word
from depthflux.server.orders import (
    EXIT_BROKEN,
    EXIT_HUNG,
    EXIT_NO_DECODER,
    EXIT_ORPHANED,
    Orders,
    end,
)
from depthflux.server.overtime import GRACE_S, Overtime, late_line
from depthflux.server.rows import CANCELLED, Stored, output_names
from depthflux.server.taking import TAKERS, Bell, Running, Speaker

logger = logging.getLogger("depthflux")

#: How often the worker says that it is there, in seconds.
HEARTBEAT_S = 2.0
#: How often it looks by itself whether something waits; the server's word comes sooner.
LOOK_S = 1.0
#: How long a finished picture is tried to be written, in seconds.
PATIENCE_S = 60.0
#: How long to wait before a result is written to the store again, in seconds.
RETRY_S = 0.5


class Painter(Protocol):
    """What makes pictures: an engine with what the worker has to know of it.

    Attributes:
        model: the model's id, as `data.model` says it.
        device: where it runs, such as `cuda:0`.
        device_count: how many such devices this machine has.
        limits: within which control images are read.
    """

    model: str
    device: str
    device_count: int
    limits: ReadLimits

    def paint(
        self,
        request: GenerationRequest,
        on_step: Callable[[int, int], None],
        on_begin: Callable[[], None],
    ) -> Prediction:
        """Make the pictures of a request; several threads may call, one paints at a time.

        Args:
            request: the request, its control image read.
            on_step: called after each step with the steps done and their total.
            on_begin: called when this one's turn has come, before anything is computed. What either
                raises ends the painting and reaches the caller.
        """

    def is_broken_by(self, error: Exception) -> bool:
        """Whether after this error only a new process can go on, as after one of CUDA's."""


Load = Callable[[Start], Painter]


class Worker:
    """One process's work."""

    def __init__(
        self,
        start: Start,
        painter: Painter,
        speaker: Speaker,
        decoder: IsolatedDecoder,
        grace_s: float = GRACE_S,
    ) -> None:
        self._start, self._painter, self._speaker = start, painter, speaker
        folder = Path(start.data_dir)
        self._jobs, self._media = Jobs(Database(folder)), Media(folder)
        self._bell = Bell()
        self._running = Running(self._bell.ring, has_several_owners=start.has_several_keys)
        self._controls = Controls(
            self._media, decoder, painter.limits, lambda: self._running.is_only_reading
        )
        self._overtime = Overtime(
            self._running, start.prediction_timeout_s, self._give_up, grace_s=grace_s
        )
        self._claiming = threading.Lock()
        self._draining = threading.Event()

    def run(self) -> None:
        """Say that it is ready, and take predictions until the server says to end."""
        painter = self._painter
        self._speaker.say(
            Ready(model=painter.model, device=painter.device, device_count=painter.device_count)
        )
        takers = [
            threading.Thread(target=self._take, name=f"taker-{number}", daemon=True)
            for number in range(TAKERS)
        ]
        self._overtime.start()
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()

    def obey(self, message: FromServer) -> None:
        """Do what the server says."""
        if isinstance(message, Wake):
            self._bell.ring()
        elif isinstance(message, Cancel):
            self._running.stop(message.id)
        elif isinstance(message, Drain):
            self._draining.set()
            self._bell.ring()

    def _take(self) -> None:
        while not self._draining.is_set():
            heard = self._bell.count
            job = self._claim()
            if job is None:
                self._bell.wait(heard, LOOK_S)
            else:
                self._do(job)

    def _claim(self) -> Stored | None:
        """A prediction that waits, if this worker has room for it."""
        with self._claiming:
            if self._controls.is_waiting or not self._running.has_room:
                return None
            try:
                here_only_of = self._running.here_only_of
                before = self._jobs.attempts_of_next(here_only_of=here_only_of)
                # What may have cost a worker its life is painted alone: beside it, another one
                # would lose an attempt each time, and fail without ever having been painted.
                if before is None or (before > 0 and not self._running.is_empty):
                    return None
                job = self._jobs.claim(self._start.lease, here_only_of=here_only_of)
            except STORE_PROBLEMS as error:
                logger.warning("the store cannot be used: %s", first_line(error))
                return None
            if job is not None:
                fetched_for = job.owner if job.control_url else None
                self._running.add(job.id, alone=job.attempts > 1, fetched_for=fetched_for)
            return job

    def _do(self, job: Stored) -> None:
        """Compute a prediction and end it in the store, trying until the store takes its end."""
        try:
            done = self._compute(job)
        except CancelledError:
            is_late = self._running.is_late(job.id)
            line = late_line(self._start.prediction_timeout_s) if is_late else CANCELLED
            self._fail(job, CODE_FAILED, line)
        except NoDecoderError as error:
            # Nobody asked for too much: this process can do no more, and the next one may.
            logger.error("prediction %s cannot be read here: %s", job.id, error)
            end(EXIT_NO_DECODER)
        except GenerationError as error:
            # torch.compile's failures come as ours, whatever has caused them.
            self._end_if_broken(error)
            self._fail(job, error.hosted_code, str(error))
        except DepthFluxError as error:
            self._fail(job, error.hosted_code, str(error))
        except Exception as error:  # noqa: BLE001 - the one place that keeps a worker alive
            self._survive(job, error)
        else:
            self._complete(job, done)
        self._running.remove(job.id)
        self._bell.ring()

    def _compute(self, job: Stored) -> Done:
        self._require_wanted(job)
        source = self._controls.read(job, partial(self._require_wanted, job))
        self._require_wanted(job)
        self._running.note_read(job.id)
        request = GenerationRequest(**job.fields, control_image=source)

        def on_begin() -> None:
            self._require_wanted(job)
            self._running.note_painting(job.id)

        def on_step(step: int, total: int) -> None:
            self._require_wanted(job)
            self._running.note_step(job.id, step, total)
            self._speaker.say(Step(id=job.id, step=step, total=total))

        try:
            prediction = self._painter.paint(request, on_step, on_begin)
        finally:
            # What takes long from here on, such as a full disk, is no hung painter.
            self._running.note_painted(job.id)
        flags = prediction.has_nsfw_contents
        if self._start.fail_when_all_flagged and flags and all(flags):
            raise ModeratedError
        names = output_names(job)
        for name, file in zip(names, prediction.files, strict=True):
            self._write(name, file.data)
        return Done(model=prediction.model, outputs=names, flags=flags, timings=prediction.timings)

    def _require_wanted(self, job: Stored) -> None:
        if self._running.is_stopped(job.id):
            raise CancelledError(CANCELLED)

    def _write(self, name: str, data: bytes) -> None:
        """Write a picture, trying for a while: a full disk must not cost what was computed."""
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._media.write_output(name, data)
            except StoreError as error:
                if time.monotonic() > ends_at:
                    raise
                logger.warning("%s", error)
                time.sleep(RETRY_S)
            else:
                return

    def _complete(self, job: Stored, done: Done) -> None:
        if _insist(lambda: self._jobs.complete(job.id, self._start.lease, done)):
            ended = Ended(
                id=job.id,
                status="completed",
                inference_ms=done.timings.get("inference", 0),
                is_told=bool(job.webhook_url),
            )
            self._speaker.say(ended)
            return
        if _insist(lambda: self._jobs.is_gone(job.id)):
            # Deleted meanwhile; its files came after the deletion.
            self._media.remove_outputs(done.outputs)
        self._speaker.say(Dropped(id=job.id))

    def _fail(self, job: Stored, code: int, error: str) -> None:
        text = " ".join(error.split())
        model = self._painter.model
        if _insist(lambda: self._jobs.fail(job.id, self._start.lease, code, text, model)):
            is_told = bool(job.webhook_url)
            self._speaker.say(Ended(id=job.id, status="failed", code=code, is_told=is_told))
        else:
            self._speaker.say(Dropped(id=job.id))

    def _give_up(self, id: str) -> None:
        """End a prediction whose painter heeds no stop, and the process with it.

        The others that were taken wait again, as after a crash. Where it has ended at this very
        moment the lease says so; where it was deleted the painter hangs all the same.
        """
        lease, model = self._start.lease, self._painter.model
        line = late_line(self._start.prediction_timeout_s)
        if _insist(lambda: self._jobs.fail(id, lease, CODE_FAILED, line, model)):
            # Whether a client is to be told is in the store; the postman looks.
            self._speaker.say(Ended(id=id, status="failed", code=CODE_FAILED, is_told=True))
        if self._running.is_in_painter(id):
            logger.error("prediction %s did not end when it was stopped: its painter hangs", id)
            end(EXIT_HUNG)

    def _survive(self, job: Stored, error: Exception) -> None:
        """An error that nobody meant: its traceback is for the log, a word to find it by for all.

        Where it broke the device the process ends; the server takes the lease back and the
        prediction is begun again by the next worker.
        """
        word = new_error_word()
        logger.error("error %s in prediction %s", word, job.id, exc_info=error)
        self._end_if_broken(error)
        self._fail(
            job, CODE_INTERNAL, f"Something went wrong inside; the server's log names error {word}."
        )

    def _end_if_broken(self, error: Exception) -> None:
        if self._painter.is_broken_by(error):
            logger.error("the device is broken by: %s", first_line(error))
            end(EXIT_BROKEN)


def _insist(write: Callable[[], bool]) -> bool:
    """Write to the store, trying until it can be: a result must not be lost to a full disk."""
    while True:
        try:
            return write()
        except STORE_PROBLEMS as error:
            logger.warning("the store cannot be written: %s", first_line(error))
            time.sleep(RETRY_S)


def run_worker(
    load: Load, *, decoder: IsolatedDecoder | None = None, grace_s: float = GRACE_S
) -> int:
    """Be a worker: read what to do on standard input, until told to end.

    Args:
        load: makes the painter.
        decoder: where control images are decoded; None for one as it is by default.
        grace_s: how long a prediction that has taken too long may take to stop.

    Returns:
        The exit code.
    """
    _withstand()
    speaker = Speaker.on_standard_output()
    stream = sys.stdin.buffer
    start = read_from_server(stream)
    if not isinstance(start, Start):
        return EXIT_ORPHANED
    orders = Orders(stream)
    speaker.beat(HEARTBEAT_S)
    decoder = decoder or IsolatedDecoder()
    with hold_slot(Path(start.data_dir), start.slot):
        # While the model loads, so that the first picture need not wait for it.
        decoder.start()
        try:
            painter = load(start)
        except DepthFluxError as error:
            speaker.say(Refused(error=str(error)))
            return error.exit_code
        try:
            worker = Worker(start, painter, speaker, decoder, grace_s)
        except DepthFluxError as error:
            # No refusal, which is of the model: the store may be open to the next worker.
            logger.error("%s", first_line(error))
            return error.exit_code
        orders.give_to(worker)
        worker.run()
    return 0


def _withstand() -> None:
    """End with any thread, and with no signal but the last."""
    threading.excepthook = _end_with_thread
    for number in (signal.SIGTERM, signal.SIGINT):
        # A service manager may send it to every process; ending is the server's to order.
        signal.signal(number, signal.SIG_IGN)


def _end_with_thread(what: threading.ExceptHookArgs) -> None:
    """A worker with half of its threads is none: end, and let the server start another."""
    logger.error("a thread of the worker ended", exc_info=what.exc_value)
    os._exit(EXIT_BROKEN)


def main() -> None:
    """Run a worker of the real engine; the server calls it."""
    from depthflux.server.painting import load_painter

    with log_to_standard_error():
        end(run_worker(load_painter))


if __name__ == "__main__":
    main()
