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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from bench_gpu.document import Document
from bench_gpu.gpu_samples import GpuSamples
from bench_gpu.plan import Arm

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
            entry["gpu"] = self._samples.between(start, end)
        self._document.stages[name] = entry
        print(f"{name}: {entry['state']} {entry.get('reason', '')}".rstrip(), file=sys.stderr)


def measure_apart(
    arms: list[Arm], listener: Listener, *, folder: Path, device: str, repeat: int, deadline: float
) -> None:
    """Measure arms in one process of their own, and tell the listener."""
    told = {
        "folder": str(folder.absolute()),
        "device": device,
        "arms": [arm.name for arm in arms],
        "repeat": repeat,
        "deadline": deadline,
    }
    command = [sys.executable, "-m", "bench_gpu.child", json.dumps(told)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            # Held open and never written to: its end tells the process that this one is gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(folder.absolute(), device),
        ) as process,
    ):
        ending = _hear_out(process, listener, deadline, errors)
    if ending is not None:
        listener.lost(arms, ending)


def _hear_out(
    process: "subprocess.Popen[str]", listener: Listener, deadline: float, errors: TextIO
) -> Ending | None:
    """Listen until the process ends; how it did, None where it went well."""
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    timer = threading.Timer(max(deadline + GRACE_SECONDS - time.time(), 0), stop)
    timer.daemon = True
    try:
        timer.start()
        for line in process.stdout or ():
            listener.hear(json.loads(line))
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


def _environment(folder: Path, device: str) -> dict[str, str]:
    """The measuring process's environment: nothing of the user's that decides a figure.

    Compiled code is kept in a folder that is emptied first, so that compiling is measured whole; on
    the CPU, where it is no figure, what was compiled before is used. Hashes are kept beside the
    model, which is hashed once in its life.
    """
    kept = {name: v for name, v in os.environ.items() if not name.startswith("DEPTHFLUX_")}
    if device.startswith("cuda"):
        compiled = folder / "compiled"
        shutil.rmtree(compiled, ignore_errors=True)
        kept["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    return kept | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        # So that cuda:N is the same GPU as nvidia-smi's number N.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
