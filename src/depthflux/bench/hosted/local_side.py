"""A local profile as a side: its server, the one client, and the GPU's power while it works.

Knows nothing of the other side.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.folder import MeasuredEnergy, RunFolder, SideFacts
from depthflux.bench.hosted.local_server import LocalServer
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.plan import ContestPlan, Task
from depthflux.bench.hosted.profiles import LocalProfile
from depthflux.bench.hosted.running import GO_ON, Runner, Say, pause
from depthflux.bench.hosted.sides import LOCAL_LONGEST_S, ServedSide
from depthflux.errors import GenerationError, UnreadableImageError
from depthflux.images import read_record
from depthflux.logs import plain

LOG = "server.log"
NO_POWER = "nvidia-smi told no power"


class LocalSide:
    """One profile's tasks, as a context: the server is ready when it is entered."""

    def __init__(
        self,
        name: str,
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
            self._say(f"{self._name}: all {len(states)} tasks are done")
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

    def run(self) -> None:
        """Ask for all that is not done.

        Raises:
            CancelledError: Ctrl-C.
            GenerationError: the server ended, or answers nothing of use.
        """
        if self._side is None or self._server is None:
            return
        runner = Runner(
            self._side,
            self._tasks,
            self._folder,
            concurrency=self._plan.concurrency,
            budget=Budget(None, None),
            stop=self._stop,
            say=self._say,
        )
        before = {key for key in self._keys() if self._is_ended(key)}
        samples = GpuSamples(self._profile.device)
        try:
            with samples:
                runner.prepare()
                runner.run()
        except GenerationError as error:
            # What the server said of its end is worth more than that it is gone.
            if said := self._server.last_words():
                raise GenerationError(
                    f"the local server ended while it was measured: {said} {GO_ON}"
                ) from error
            raise
        finally:
            self._note_energy(samples, before)
            self._note_device()

    def _start(self, stack: ExitStack) -> None:
        plan, profile = self._plan, self._profile
        self._say(f"{self._name}: loading profile {profile.name} on {profile.device}")
        self._server = stack.enter_context(
            LocalServer(
                profile.target,
                plan.settings,
                device=profile.device,
                log=self._folder.path / self._name / LOG,
            )
        )
        log = ExchangeLog()
        client = HostedClient(
            self._server.address,
            self._server.key,
            version=plan.version,
            key_name="the local server's key",
            on_exchange=log.add,
            sleep=lambda seconds: pause(seconds, self._stop),
        )
        facts = SideFacts(
            name=self._name,
            label=f"depthflux {profile.name}",
            address="",
            profile=profile.name,
            settings=profile.shown_settings,
            recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
            load_seconds=self._server.load_seconds,
        )
        asking = Asking(
            poll_interval_s=plan.poll_interval_s,
            sync_mode=plan.sync_mode,
            longest_s=LOCAL_LONGEST_S,
            is_paid=False,
        )
        self._side = ServedSide(
            stack.enter_context(client), log, facts, self._folder, asking, stop=self._stop
        )
        stack.callback(self._side.close)

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
                pictures=earlier.pictures + sum(len(outcome.pictures) for outcome in outcomes),
            ),
            energy_missing="",
        )

    def _note_device(self) -> None:
        """What it ran on, by the record of a picture that it painted."""
        if self._side is None or self._side.facts.device:
            return
        for key in filter(self._is_ended, self._keys()):
            for picture in self._folder.task(self._name, key).outcome().pictures:
                self._side.note(device=_device_of(self._folder.path / picture.file))
                return


def _device_of(picture: Path) -> str:
    """The device that a picture's record names; empty where it names none."""
    try:
        hardware = read_record(picture).get("hardware")
    except UnreadableImageError:
        return ""
    device = hardware.get("device") if isinstance(hardware, dict) else None
    return plain(device) if isinstance(device, str) else ""
