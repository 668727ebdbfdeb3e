"""A server for one part: a folder of its own, and an engine that takes 50 ms.

Knows nothing of what is asked of it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from soak_server.figures import quantiles
from soak_server.processes import busy_seconds, cpu_seconds
from stand_in.running import StandInServer

#: What the stand-in takes for a request, in seconds.
PAINT_S = 0.05
#: Steps of a request. Each is a line from worker to server; the 28 of the hosted default within
#: 50 ms would be more of them than any engine says.
STEPS = 4
#: What is written between two flushes of the yardstick: about a prediction's share of the log.
_FLUSHED_BYTES, _FLUSHES = 8192, 100


@dataclass(frozen=True)
class Stage:
    """A running server.

    Attributes:
        server: it, with its address and its folder.
        worker: the process of its worker.
    """

    server: StandInServer
    worker: int


@contextmanager
def stage(folder: Path | None) -> Iterator[Stage]:
    """A server in a new folder, ready; ended and its folder removed afterwards.

    Args:
        folder: where its own folder is made; None for the system's temporary one.

    Raises:
        RuntimeError: it did not end as it should.
    """
    with tempfile.TemporaryDirectory(prefix="soak-", dir=folder) as home:
        server = StandInServer(
            Path(home) / "data",
            stand_in={"seconds": PAINT_S},
            # Webhooks go to this machine.
            engine={"allow_private_addresses": "true"},
            # One client stands for many: the limit of a key is not what is measured.
            key_requests_per_minute=0,
        )
        with server:
            (worker,) = server.worker_pids()
            yield Stage(server, worker)
            code = server.stop()
            if code != 0:
                raise RuntimeError(
                    f"the server ended with {code}: {server.log.read_text()[-2000:]}"
                )


def flush_times_ms(folder: Path) -> dict[str, float]:
    """How long the disk of a folder takes to flush a file that has grown, in milliseconds."""
    times = []
    with (folder / "yardstick").open("wb", buffering=0) as file:
        for _ in range(_FLUSHES):
            file.write(bytes(_FLUSHED_BYTES))
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - start))
    (folder / "yardstick").unlink()
    return quantiles(times)


class CpuTime:
    """CPU time of server, worker, this generator and everything else, over a stretch of time."""

    def __init__(self, on: Stage) -> None:
        self._on = on
        self._begun = self._now()

    def cores(self) -> dict[str, float]:
        """Cores that each has kept busy since, on average."""
        spent = {name: now - self._begun[name] for name, now in self._now().items()}
        seconds = spent.pop("clock")
        spent["others"] = max(spent.pop("all") - sum(spent.values()), 0.0)
        return {f"{name}_cores": round(used / seconds, 3) for name, used in spent.items()}

    def _now(self) -> dict[str, float]:
        return {
            "server": cpu_seconds(self._on.server.pid),
            "worker": cpu_seconds(self._on.worker),
            "generator": time.process_time(),
            "all": busy_seconds(),
            "clock": time.perf_counter(),
        }
