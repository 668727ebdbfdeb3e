"""A local profile as a side: its server, the one client, and the GPU's power while it works.

Knows nothing of the other side.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.hosted.afterwards import afterwards
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.errors import HostedError
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.local_server import LocalServer
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.plan import ContestPlan, Task
from depthflux.bench.hosted.profiles import LocalProfile
from depthflux.bench.hosted.run_files import MeasuredEnergy, SideFacts, SideName
from depthflux.bench.hosted.running import GO_ON, Runner, Say, pause
from depthflux.bench.hosted.sides import LOCAL_LONGEST_S, ServedSide
from depthflux.bench.wording import count
from depthflux.errors import GenerationError, UnreadableImageError
from depthflux.images import read_record
from depthflux.logs import plain

LOG = "server.log"
NO_POWER = "nvidia-smi told no power"
#: What a side's facts hold of what nvidia-smi states of its GPU.
_DESCRIBED = ("name", "driver_version")


class LocalSide:
    """One profile's tasks, as a context: the server is ready when it is entered."""

    def __init__(
        self,
        name: SideName,
        profile: LocalProfile,
        plan: ContestPlan,
        tasks: Sequence[Task],
        folder: RunFolder,
        *,
        stop: threading.Event,
        say: Say,
    ) -> None:
        """Start nothing yet.

        Args:
            name: of the side.
            profile: what it runs.
            plan: how it is asked.
            tasks: in the order they are sent; those that the folder has outcomes of are kept.
            folder: the run's.
            stop: set where the run is being stopped.
            say: told what is being done.
        """
        self._name, self._profile, self._plan, self._tasks = name, profile, plan, tasks
        self._folder, self._stop, self._say = folder, stop, say
        self._inner = ExitStack()
        self._server: LocalServer | None = None
        self._side: ServedSide | None = None

    def __enter__(self) -> Self:
        """Start the server, unless every task is done already.

        Raises:
            SetupError: it cannot be loaded.
        """
        states = [self._folder.task(self._name, task.key).state for task in self._tasks]
        if all(state == "ended" for state in states):
            self._say(f"{self._name}: {count(len(states), 'task')}, all done")
            return self
        with ExitStack() as stack:
            self._start(stack)
            self._inner = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inner.close()

    def run(self, tasks: Sequence[Task]) -> None:
        """Ask for all that is not done.

        Args:
            tasks: of those that were given, the ones that are wanted by now.

        Raises:
            CancelledError: Ctrl-C.
            GenerationError: the server ended, or answers nothing of use.
        """
        if self._side is None or self._server is None:
            return
        self._tasks = tasks
        runner = Runner(
            self._side,
            tasks,
            self._folder,
            concurrency=self._plan.concurrency,
            budget=Budget(None, None),
            stop=self._stop,
            say=self._say,
        )
        before = {key for key in self._keys() if self._is_ended(key)}
        samples = GpuSamples(self._profile.device, now=self._side.now)

        def note() -> None:
            self._note_energy(samples, before)
            self._note_device(samples)

        with afterwards(note), self._end_told(self._server), samples:
            runner.prepare()
            self._warm(self._side)
            runner.run()

    @contextmanager
    def _end_told(self, server: LocalServer) -> Iterator[None]:
        """Say of a server that has ended why, which is worth more than that it is gone."""
        try:
            yield
        except GenerationError as error:
            if said := server.last_words():
                raise GenerationError(
                    f"the local server ended while it was measured: {said} {GO_ON}"
                ) from error
            raise

    def _warm(self, side: ServedSide) -> None:
        """Have one picture painted that counts nowhere; that it fails says nothing of others."""
        task = next((task for task in self._tasks if not self._is_ended(task.key)), None)
        if task is None:
            return
        self._say(f"{self._name}: the like of {task.key} is painted first and counts nowhere")
        try:
            side.warm(task)
        except HostedError as error:
            self._say(f"{self._name}: it was not painted: {error}")
            side.note(not_warmed=str(error))

    def _start(self, stack: ExitStack) -> None:
        plan, profile = self._plan, self._profile
        self._say(f"{self._name}: loading profile {profile.name} on {profile.device}")
        self._server = stack.enter_context(
            LocalServer(
                profile.target,
                profile.arguments,
                device=profile.device,
                log=self._folder.path / self._name / LOG,
            )
        )
        log = ExchangeLog()
        client = stack.enter_context(self._client(self._server, log))
        facts = SideFacts(
            name=self._name,
            label=f"depthflux {profile.name}",
            address="",
            profile=profile.name,
            settings=profile.shown_settings,
            recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
            load_seconds=self._server.load_seconds,
            concurrency=plan.concurrency,
            poll_interval_seconds=plan.poll_interval_s,
            sync_mode=plan.sync_mode,
        )
        asking = Asking(
            poll_interval_s=plan.poll_interval_s,
            sync_mode=plan.sync_mode,
            longest_s=LOCAL_LONGEST_S,
            is_paid=False,
        )
        self._side = ServedSide(client, log, facts, self._folder, asking, stop=self._stop)
        stack.callback(self._side.close)

    def _client(self, server: LocalServer, log: ExchangeLog) -> HostedClient:
        return HostedClient(
            server.address,
            server.key,
            version=self._plan.version,
            key_name="the local server's key",
            on_exchange=log.add,
            sleep=lambda seconds: pause(seconds, self._stop),
        )

    def _keys(self) -> list[str]:
        return [task.key for task in self._tasks]

    def _is_ended(self, key: str) -> bool:
        return self._folder.task(self._name, key).state == "ended"

    def _note_energy(self, samples: GpuSamples, before: set[str]) -> None:
        """Add what was drawn for the tasks of this run to what earlier ones have noted."""
        if self._side is None:
            return
        outcomes = [
            self._folder.task(self._name, key).outcome()
            for key in self._keys()
            if key not in before and self._is_ended(key)
        ]
        drawn = samples.energy([(outcome.began_at, outcome.ended_at) for outcome in outcomes])
        if drawn is None:
            self._side.note(energy_missing=samples.missing or NO_POWER)
            return
        earlier = self._side.facts.energy or MeasuredEnergy(joules=0.0, seconds=0.0, pictures=0)
        self._side.note(
            energy=MeasuredEnergy(
                joules=earlier.joules + drawn.joules,
                seconds=earlier.seconds + drawn.seconds,
                pictures=earlier.pictures + _completed_pictures(outcomes),
            ),
            energy_missing="",
        )

    def _note_device(self, samples: GpuSamples) -> None:
        """What it ran on, by nvidia-smi and by the record of a picture that it painted."""
        if self._side is None:
            return
        if described := samples.describe():
            # Not its UUID, which concerns nobody.
            self._side.note(gpu={name: described[name] for name in _DESCRIBED if name in described})
        if self._side.facts.device:
            return
        for key in filter(self._is_ended, self._keys()):
            for picture in self._folder.task(self._name, key).outcome().pictures:
                self._side.note(device=_device_of(self._folder.path / picture.file))
                return


def _completed_pictures(outcomes: Sequence[Outcome]) -> int:
    """Only those of completed tasks, among which what was drawn is divided."""
    return sum(len(outcome.pictures) for outcome in outcomes if outcome.status == "completed")


def _device_of(picture: Path) -> str:
    """The device that a picture's record names; empty where it names none."""
    try:
        hardware = read_record(picture).get("hardware")
    except UnreadableImageError:
        return ""
    device = hardware.get("device") if isinstance(hardware, dict) else None
    return plain(device) if isinstance(device, str) else ""
