"""A worker's place, and its process: what it is given, how its end is noticed, how it is ended.

Knows nothing of what workers say, or of leases but that there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Literal

from depthflux.server.keys import VARIABLE as KEYS_VARIABLE

#: Longest pause before a worker that keeps dying is started again, in seconds.
LONGEST_PAUSE_S = 60.0
#: What no worker needs: API keys, and the Hub's tokens, since it fetches no weights.
_SECRETS = frozenset({KEYS_VARIABLE, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
#: How often it is looked whether a process has ended, in seconds.
_LOOK_S = 0.05

State = Literal["loading", "ready", "restarting", "stopped"]


@dataclass
class Place:
    """A worker's place: a device, and the process that is in it now.

    Attributes:
        slot: its number.
        device: where its worker runs; None leaves that to the engine's settings.
        state: of its worker.
        lease: of the process that is in it; empty while there is none.
        process: that is in it; None while there is none.
        deaths: how many of its workers ended unasked in a row without ending a prediction.
        painting: predictions whose steps its worker has told of.
        task: keeps it.
    """

    slot: int
    device: str | None
    state: State = "loading"
    lease: str = ""
    process: asyncio.subprocess.Process | None = None
    deaths: int = 0
    painting: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = field(default=None, repr=False)


async def death_of(process: asyncio.subprocess.Process) -> int:
    """Wait for a process's end, and its exit code.

    Looked for: asyncio's own waiting lasts until all pipes are closed, which a forked child may
    keep open for ever.
    """
    while process.returncode is None:
        await asyncio.sleep(_LOOK_S)
    return process.returncode


def pause_after(deaths: int) -> float:
    """How long to wait before the next worker, in seconds, after so many deaths in a row."""
    if deaths <= 1:
        return 0.0
    # Bounded before it is raised to: a GPU may be gone for a weekend.
    return float(min(2.0 ** min(deaths - 2, 10), LONGEST_PAUSE_S))


def worker_environment() -> dict[str, str]:
    """The process's own variables, but for secrets; and no library may ask the Hub."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    # diffusers reads docstrings, and cannot be imported without.
    kept.pop("PYTHONOPTIMIZE", None)
    return {**kept, "HF_HUB_OFFLINE": "1"}


def kill(place: Place) -> None:
    """End a worker, if it lives, and whatever it has started, at once."""
    if place.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(place.process.pid, signal.SIGKILL)
