"""Starts a process that measures, listens to it, and sees that it ends.

That process may crash or be stopped; what it told until then stands in the document. Knows nothing
of how anything is measured.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from bench_gpu.document import Document
from bench_gpu.plan import Arm
from depthflux.bench.gpu_samples import GpuSamples

#: A stage that is under way when the time is up may take so long to end before it is stopped.
GRACE_SECONDS = 20.0


class Ending(NamedTuple):
    """How a measuring process ended before its time.

    Attributes:
        state: of what it was doing: `stopped` where the time was up, `failed` where it died.
        reason: in words.
    """

    state: str
    reason: str


class Listener:
    """Puts what a measuring process tells into the document."""

    def __init__(self, document: Document, samples: GpuSamples) -> None:
        self._document = document
        self._samples = samples
        self._started: dict[str, float] = {}

    def hear(self, message: Mapping[str, Any]) -> None:
        """One message: the machine's description, or a stage's state."""
        if "machine" in message:
            self._document.data["machine"] = message["machine"]
        else:
            entry = {key: value for key, value in message.items() if key != "stage"}
            self._stage(message["stage"], entry)
        self._document.write()

    def skip(self, arms: list[Arm], reason: str) -> None:
        """What was not heard of yet will not be begun."""
        for name in self._unheard(arms):
            self.hear({"stage": name, "state": "skipped", "reason": reason})

    def lost(self, arms: list[Arm], ending: Ending) -> None:
        """The process ended in the middle of its arms, or before it said anything."""
        under_way = self._document.running() or self._unheard(arms)[:1]
        for name in under_way:
            self.hear({"stage": name, **ending._asdict()})
        self.skip(arms, "the process that was to measure it is gone")

    def _unheard(self, arms: list[Arm]) -> list[str]:
        names = [f"{arm.name}/{stage.name}" for arm in arms for stage in arm.stages]
        return [name for name in names if name not in self._document.stages]

    def _stage(self, name: str, entry: dict[str, Any]) -> None:
        if entry["state"] == "started":
            self._started[name] = time.time()
        elif name in self._started:
            start, end = self._started[name], time.time()
            entry["wall_seconds"] = round(end - start, 2)
            entry["gpu"] = self._samples.within([(start, end)])
        self._document.stages[name] = entry
        print(f"{name}: {entry['state']} {entry.get('reason', '')}".rstrip(), file=sys.stderr)


def measure_apart(
    arms: list[Arm], listener: Listener, *, folder: Path, device: str, repeat: int, deadline: float
) -> None:
    """Measure arms in one process of their own, and tell the listener."""
    folder = folder.absolute()
    told = {
        "folder": str(folder),
        "device": device,
        "arms": [arm.name for arm in arms],
        "repeat": repeat,
        "deadline": deadline,
    }
    caches = {"XDG_CACHE_HOME": str(folder / "cache")}
    if device.startswith("cuda"):
        compiled = folder / "compiled"
        shutil.rmtree(compiled, ignore_errors=True)
        caches["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    ending = hear_out(told, listener.hear, deadline=deadline, environment=environment(caches))
    if ending is not None:
        listener.lost(arms, ending)


def hear_out(
    told: Mapping[str, Any],
    hear: Callable[[dict[str, Any]], None],
    *,
    deadline: float,
    environment: Mapping[str, str],
) -> Ending | None:
    """Start a process that measures and listen until it ends.

    Args:
        told: what it is to do, see bench_gpu.child.
        hear: given each of its messages.
        deadline: in seconds since 1970; a grace later it is stopped.
        environment: its variables.

    Returns:
        How it ended before its time; None where it went well.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "bench_gpu.child", json.dumps(told)],
            # Held open and never written to: its end tells the process that this one is gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=dict(environment),
        ) as process,
    ):
        return _until_its_end(process, hear, deadline, errors)


def _until_its_end(
    process: "subprocess.Popen[str]",
    hear: Callable[[dict[str, Any]], None],
    deadline: float,
    errors: TextIO,
) -> Ending | None:
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    timer = threading.Timer(max(deadline + GRACE_SECONDS - time.time(), 0), stop)
    timer.daemon = True
    try:
        timer.start()
        for line in process.stdout or ():
            hear(json.loads(line))
        code = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    if stopped.is_set():
        return Ending("stopped", f"{GRACE_SECONDS:.0f} s after the time was up")
    if code == 0:
        return None
    errors.seek(0)
    lines = [line.rstrip() for line in errors if line.strip()]
    print("\n".join(lines[-20:]), file=sys.stderr)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
    return Ending("failed", f"the process ended with {how}: {(lines or ['it said nothing'])[-1]}")


def environment(caches: Mapping[str, str]) -> dict[str, str]:
    """The measuring process's variables: nothing of the user's that decides a figure.

    Compiled code is kept where the caches say, so that it is known whether it was there before.
    """
    kept = {name: v for name, v in os.environ.items() if not name.startswith("DEPTHFLUX_")}
    return kept | {
        **caches,
        "HF_HUB_OFFLINE": "1",
        # So that cuda:N is the same GPU as nvidia-smi's number N.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
