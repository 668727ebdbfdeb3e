"""Workers from outside: starts one for each device, hears them, kills and replaces them.

A worker that ends, however it does, is waited for, its lease is taken back, and only then is
another started in its place. One that falls silent is killed first. So nothing is computed twice
at a time, by the kernel's word and not by a clock's.

Knows nothing of HTTP or of what workers compute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence

from depthflux.errors import first_line
from depthflux.server.board import Board
from depthflux.server.database import STORE_PROBLEMS
from depthflux.server.jobs import Jobs
from depthflux.server.locks import place_files, wait_until_free
from depthflux.server.messages import (
    Cancel,
    Drain,
    Dropped,
    Ended,
    FromWorker,
    Message,
    Ready,
    Refused,
    Start,
    Step,
    Wake,
    parse_from_worker,
)
from depthflux.server.metrics import Metrics
from depthflux.server.names import new_secret
from depthflux.server.orders import EXIT_NO_DECODER
from depthflux.server.places import Place, State, death_of, kill, pause_after, worker_environment
from depthflux.server.settings import ServerSettings

logger = logging.getLogger("depthflux")

#: How a worker is started; tests have other painters.
COMMAND = (sys.executable, "-m", "depthflux.server.worker")

#: Longest line of a worker; an error may name every tensor of a model.
LONGEST_LINE_BYTES = 16 * 2**20
#: How long a dead worker's last words are waited for, in seconds.
_LAST_WORDS_S = 0.5
#: How long an ending server waits for the store to take a lease back, in seconds.
_LAST_TRY_S = 2.0
#: How long to wait before a lease is taken back again, in seconds.
_STORE_PAUSE_S = 1.0


class Supervisor:
    """The workers of a server.

    Attributes:
        places: one for each device.
        model: the id of the model that is loaded; empty before.
        refused: why the first worker could not load; None while none was refused.
        broken_by: an error that nobody meant, by which a place is kept no more; None without.
        is_over: set when no worker is started any more, since the model cannot be loaded, or a
            place is broken.
    """

    def __init__(
        self,
        settings: ServerSettings,
        target: str,
        engine_settings: Mapping[str, str | int | float | bool | None],
        *,
        jobs: Jobs,
        board: Board,
        metrics: Metrics,
        on_ended: Callable[[], None],
        has_several_keys: bool,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Start nothing yet.

        Args:
            settings: the server's.
            target: what the engine loads, see `depthflux.load`.
            engine_settings: single settings of it.
            jobs: whose leases are taken back.
            board: told of steps and ends.
            metrics: told of restarts and times.
            on_ended: called after each prediction's end.
            has_several_keys: whether room is to be left for another key's predictions.
            command: how a worker is started.
        """
        self._settings, self._target, self._engine_settings = settings, target, engine_settings
        self._jobs, self._board, self._metrics = jobs, board, metrics
        self._on_ended, self._command = on_ended, command
        self._has_several_keys = has_several_keys
        self._drain_told = asyncio.Event()
        self.places: list[Place] = []
        self.model = ""
        self.refused: Refused | None = None
        self.broken_by: BaseException | None = None
        self.is_over = asyncio.Event()

    async def take_over(self) -> None:
        """Wait for an earlier server's workers to be gone, and take their leases back.

        Raises:
            SettingsError: one of them does not end.
        """
        for path in place_files(self._settings.data_dir):
            await wait_until_free(path)
        failed = await asyncio.to_thread(
            self._jobs.release_all_but, (), most_attempts=self._settings.max_attempts
        )
        self._note_ends(failed)

    def start(self) -> None:
        """Start the workers; after `take_over`."""
        devices: list[str | None] = [*self._settings.device_names]
        for device in devices or [None]:
            self._add_place(device)

    def wake(self) -> None:
        """Tell the workers that a prediction waits."""
        self._tell_all(Wake())

    def cancel(self, id: str) -> None:
        """Tell the workers to stop a prediction."""
        self._tell_all(Cancel(id=id))

    async def drain(self, timeout_s: float) -> None:
        """Let what runs end, but not longer than some seconds; then end the workers."""
        self._drain_told.set()
        self._tell_all(Drain())
        for place in self.places:
            if place.state != "ready":
                kill(place)  # it loads, and has nothing to end
        tasks = [place.task for place in self.places if place.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            if late:
                for place in self.places:
                    kill(place)
                await asyncio.wait(late)

    @property
    def states(self) -> list[State]:
        """The workers' states."""
        return [place.state for place in self.places]

    def _add_place(self, device: str | None) -> None:
        place = Place(slot=len(self.places), device=device)
        self.places.append(place)
        place.task = asyncio.create_task(self._keep(place), name=f"worker-{place.slot}")
        place.task.add_done_callback(self._note_broken)

    def _tell_all(self, message: Message) -> None:
        for place in self.places:
            if place.process is not None and place.process.stdin is not None:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    place.process.stdin.write(message.line())

    async def _keep(self, place: Place) -> None:
        """Keep a place's worker running until the server drains."""
        while not self._drain_told.is_set():
            try:
                await self._run_once(place)
            except OSError as error:
                logger.error("worker %d cannot be started: %s", place.slot, first_line(error))
            if self._must_end():
                break
            place.state, place.deaths = "restarting", place.deaths + 1
            self._metrics.worker_restarts.inc()
            # The first replacement comes at once; a worker that keeps dying is given time.
            await self._pause(pause_after(place.deaths))
        place.state = "stopped"
        if self.refused is not None and not self.model:
            self.is_over.set()

    def _note_broken(self, task: asyncio.Task[None]) -> None:
        """Let the server end where a place is kept no more: else what it accepts would wait."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken_by = error
            self.is_over.set()

    def _must_end(self) -> bool:
        """Whether no worker is to be started any more: another one would be refused, too."""
        return self._drain_told.is_set() or (self.refused is not None and not self.model)

    async def _pause(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while (
            not self._drain_told.is_set() and (left := end - asyncio.get_running_loop().time()) > 0
        ):
            await asyncio.sleep(min(left, 0.2))

    async def _run_once(self, place: Place) -> None:
        """Start a worker, hear it until it ends, and take its lease back."""
        place.lease = new_secret()
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=worker_environment(),
            # A session of its own: Ctrl-C in the terminal is for the server, which drains.
            start_new_session=True,
            limit=LONGEST_LINE_BYTES,
        )
        place.process = process
        try:
            if self._drain_told.is_set():
                return  # it was told so before there was a process to tell
            if process.stdin is not None:
                process.stdin.write(self._start_of(place).line())
            await self._hear_until_dead(place, process)
        finally:
            kill(place)
            code = await death_of(process)
            place.process = None
        logger.log(
            logging.INFO if self._drain_told.is_set() else logging.WARNING,
            "worker %d (process %d) ended with %d",
            place.slot,
            process.pid,
            code,
        )
        await self._take_back(place, counted=code != EXIT_NO_DECODER)

    async def _take_back(self, place: Place, *, counted: bool) -> None:
        """Take a dead worker's lease back, however long the store refuses; not while draining.

        What the dead worker had taken would wait for ever, since no other may take it. When the
        server ends, the next one takes it back.
        """
        while True:
            try:
                failed = await self._release(place, counted=counted)
                break
            except (*STORE_PROBLEMS, TimeoutError) as error:
                logger.error("a lease cannot be taken back: %s", first_line(error))
                if self._drain_told.is_set():
                    return
                await self._pause(_STORE_PAUSE_S)
        place.lease = ""
        for id in place.painting:
            # Their progress is void; whoever waits for one looks what became of it.
            self._board.note_end(id)
        place.painting.clear()
        self._note_ends(failed)
        self.wake()

    async def _release(self, place: Place, *, counted: bool) -> list[str]:
        """Release a lease in the store; while draining it is given little time for that.

        Raises:
            TimeoutError: the server ends, and the store has not taken it in time.
        """
        releasing = asyncio.ensure_future(
            asyncio.to_thread(
                self._jobs.release,
                place.lease,
                most_attempts=self._settings.max_attempts,
                # A prediction that the server itself broke off has not had its attempt, nor has
                # one that nobody could read.
                counted=counted and not self._drain_told.is_set(),
            )
        )
        told = asyncio.create_task(self._drain_told.wait())
        await asyncio.wait([releasing, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        async with asyncio.timeout(_LAST_TRY_S):
            return await asyncio.shield(releasing)

    def _note_ends(self, failed: Sequence[str]) -> None:
        for id in failed:
            self._metrics.note_end("failed", 0)
            self._board.note_end(id)
        if failed:
            self._on_ended()

    def _start_of(self, place: Place) -> Start:
        settings = dict(self._engine_settings)
        if place.device is not None:
            settings["device"] = place.device
        return Start(
            target=self._target,
            settings=settings,
            data_dir=str(self._settings.data_dir),
            slot=place.slot,
            lease=place.lease,
            fail_when_all_flagged=self._settings.moderation == "fail",
            prediction_timeout_s=self._settings.prediction_timeout_s,
            has_several_keys=self._has_several_keys,
        )

    async def _hear_until_dead(self, place: Place, process: asyncio.subprocess.Process) -> None:
        """Hear a worker until it ends, is silent too long, or is dead though its pipe is open.

        A child that it has forked may hold the pipe.
        """
        hearing = asyncio.create_task(self._hear(place, process))
        dying = asyncio.create_task(death_of(process))
        try:
            await asyncio.wait([hearing, dying], return_when=asyncio.FIRST_COMPLETED)
            # Its last words may be in the pipe still.
            await asyncio.wait([hearing], timeout=_LAST_WORDS_S if dying.done() else 0)
        finally:
            hearing.cancel()
            dying.cancel()

    async def _hear(self, place: Place, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while True:
            try:
                async with asyncio.timeout(self._settings.worker_silence_s):
                    line = await process.stdout.readline()
            except ValueError:
                logger.error("worker %d sent a line without an end and is killed", place.slot)
                return
            except TimeoutError:
                logger.error(
                    "worker %d was silent for %g s and is killed",
                    place.slot,
                    self._settings.worker_silence_s,
                )
                return
            if not line:
                return
            if (message := parse_from_worker(line)) is not None:
                self._take_note(place, message)

    def _take_note(self, place: Place, message: FromWorker) -> None:
        if isinstance(message, Ready):
            self._take_note_of_ready(place, message)
        elif isinstance(message, Step):
            place.painting.add(message.id)
            self._board.note_step(message.id, message.step, message.total)
        elif isinstance(message, Dropped):
            place.painting.discard(message.id)
            self._board.note_end(message.id)
        elif isinstance(message, Ended):
            place.deaths = 0
            place.painting.discard(message.id)
            self._metrics.note_end(message.status, message.inference_ms)
            self._board.note_end(message.id)
            if message.is_told:
                self._on_ended()
        elif isinstance(message, Refused):
            logger.error("worker %d cannot load: %s", place.slot, message.error)
            if not self.model:
                self.refused = message

    def _take_note_of_ready(self, place: Place, ready: Ready) -> None:
        place.state = "ready"
        self.model, self.refused = ready.model, None
        logger.info("worker %d: %s on %s", place.slot, ready.model, ready.device)
        # Only a worker knows how many GPUs there are, since only workers import torch.
        if not self._settings.device_names and ready.device.startswith("cuda"):
            for index in range(len(self.places), ready.device_count):
                self._add_place(f"cuda:{index}")
