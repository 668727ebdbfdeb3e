"""The server of a run: its folder, its disk, its clock; killed and started again on one port.

Knows nothing of what is asked of it or when it is killed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from chaos_server.clock import Clock
from chaos_server.disk import Disk
from chaos_server.errors import ChaosError
from stand_in.running import StandInServer

#: What the stand-in takes for a picture, in seconds.
PAINT_S = 0.05
#: Devices that it claims to have, each with a worker that competes for jobs.
DEVICES = 2
#: Fewer than the clients would have on their way: some submissions are refused.
MOST_QUEUED = 40
#: How long sync mode waits, in seconds.
SYNC_S = 2.0
#: A job takes about so much of the disk: pictures, uploads, rows, what the store keeps beside them.
_DISK_MB, _DISK_MB_A_JOB = 48, 0.04
#: Ports that no client's own end is ever given, so that none of them takes the server's while it
#: is down. The kernel gives those from 32768 on.
_PORTS = range(20_000, 32_000)
#: How long a server may need to be started again, on a full disk or with a locked store too.
_START_S = 120.0
_PAUSE_S = 0.5
#: How long processes may take to notice that the server has ended, in seconds.
_SURVIVAL_S = 5.0
_TRIGGER = """
CREATE TABLE chaos_ends (id TEXT, status TEXT, finished_at INTEGER, outputs TEXT, error TEXT);
CREATE TRIGGER chaos_end AFTER UPDATE OF finished_at ON predictions
BEGIN
    INSERT INTO chaos_ends
    VALUES (new.id, new.status, new.finished_at, new.outputs, new.error);
END;
"""


class Stage:
    """A server that can be broken.

    Attributes:
        home: what is not on the small disk: logs, the painter's journal.
        server: the server.
        disk: the small disk its data lie on; None for the machine's own.
        clock: the clock it lives by; None for the machine's own.
        paints: the painter's journal.
        once_folder: where the stand-in notes that what happens once has happened.
    """

    def __init__(self, home: Path, jobs: int, *, full_disk: bool, clock: bool) -> None:
        """Start the server.

        Args:
            home: an empty folder.
            jobs: how many will be asked for.
            full_disk: whether its data lie on a disk of their own.
            clock: whether it lives by a clock of its own.

        Raises:
            ChaosError: this machine lacks something.
        """
        self.home = home
        self.paints, self.once_folder = home / "paints", home / "once"
        self.once_folder.mkdir()
        self.paints.touch()
        self.clock = Clock(home) if clock else None
        megabytes = round(_DISK_MB + jobs * _DISK_MB_A_JOB)
        self.disk = Disk(home / "disk", megabytes) if full_disk else None
        folder = self.disk.folder if self.disk else home
        self.server = StandInServer(
            folder / "data",
            stand_in={"seconds": PAINT_S, "devices": DEVICES, "journal": str(self.paints)},
            # Webhooks go to this machine.
            engine={"allow_private_addresses": "true"},
            environment=self.clock.environment if self.clock else None,
            port=_free_port(),
            max_queued=MOST_QUEUED,
            sync_timeout_s=SYNC_S,
            key_requests_per_minute=0,
        )
        # Beside the disk: a server that cannot log says nothing of why.
        self.server.log = home / "server.log"
        self.server.start()
        with closing(sqlite3.connect(self.store, timeout=30)) as store:
            store.executescript(_TRIGGER)

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.server.data_dir / "depthflux.sqlite3"

    def workers(self) -> list[int]:
        """The workers that live; none while the server is down."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return [pid for pid in self.server.worker_pids() if _lives(pid)]
        return []

    def kill_worker(self, pick: int) -> int:
        """Kill one of the workers, as soon as there is one; its process.

        Raises:
            ChaosError: there is none for too long.
        """
        ends_at = time.monotonic() + _START_S
        while time.monotonic() < ends_at:
            pids = self.workers()
            if pids:
                pid = pids[pick % len(pids)]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return pid
            time.sleep(0.01)
        raise ChaosError(f"no worker has lived for {_START_S:g} s; see the server's log.")

    def kill_server(self) -> None:
        """Kill the server; its workers notice."""
        self.server.kill()

    def start_again(self) -> int:
        """Start it as a service manager does, again and again; how often it could not.

        Raises:
            ChaosError: it cannot for too long.
        """
        ends_at = time.monotonic() + _START_S
        failures = 0
        while time.monotonic() < ends_at:
            try:
                self.server.start(ready=False)
            except RuntimeError:
                failures += 1
                time.sleep(_PAUSE_S)
            else:
                return failures
        raise ChaosError(f"the server could not be started for {_START_S:g} s; see its log.")

    def lock_store(self, seconds: float) -> None:
        """Let nobody else write to the store for some seconds."""
        with closing(sqlite3.connect(self.store, timeout=60, isolation_level=None)) as store:
            store.execute("BEGIN EXCLUSIVE")
            time.sleep(seconds)
            store.execute("ROLLBACK")

    def survivors(self) -> list[str]:
        """The command lines of its processes that live on for seconds after its end."""
        ends_at = time.monotonic() + _SURVIVAL_S
        while (found := _processes_of(self.home)) and time.monotonic() < ends_at:
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """End what is left of it."""
        self.server.__exit__(None, None, None)
        if self.disk is not None:
            self.disk.unmount()


@contextmanager
def stage(folder: Path | None, jobs: int, *, full_disk: bool, clock: bool) -> Iterator[Stage]:
    """A running server in a new folder, ended and removed afterwards; see Stage.

    Args:
        folder: where its own folder is made; None for the system's temporary one.
        jobs: as Stage.
        full_disk: as Stage.
        clock: as Stage.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=folder) as home:
        on = Stage(Path(home), jobs, full_disk=full_disk, clock=clock)
        try:
            yield on
        finally:
            on.close()


def keep_copy(on: Stage, folder: Path) -> None:
    """Copy the server's folder and what was noted beside it."""
    shutil.copytree(on.server.data_dir, folder / "data", ignore=shutil.ignore_patterns("*.lock"))
    for path in (on.paints, on.server.log):
        shutil.copy2(path, folder / path.name)


def file_system_of(on: Stage) -> str:
    """What kind of disk its data lie on, such as tmpfs."""
    command = ["stat", "--file-system", "--format=%T", str(on.server.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _free_port() -> int:
    for port in random.SystemRandom().sample(_PORTS, 100):
        with closing(socket.socket()) as trying, suppress(OSError):
            trying.bind(("127.0.0.1", port))
            return port
    raise ChaosError(f"no port from {_PORTS.start} to {_PORTS.stop} is free.")


def _processes_of(home: Path) -> list[str]:
    """The command lines of processes whose variables name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if bytes(home) in (process / "environ").read_bytes():
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(line.decode(errors="replace").strip()[:200])
    return found


def _lives(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
