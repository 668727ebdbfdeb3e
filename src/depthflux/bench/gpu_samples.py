"""nvidia-smi in the background: the GPU's clock, power, heat and memory while something runs.

Only read, never set. Where there is no nvidia-smi, it says so and nothing is sampled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from depthflux.bench.rounds import spread

#: A picture takes a second at least.
PERIOD_MILLISECONDS = 100
#: What nvidia-smi calls it, and what the document does.
SAMPLED = {
    "clocks.sm": "sm_megahertz",
    "power.draw": "watts",
    "temperature.gpu": "celsius",
    "utilization.gpu": "busy_percent",
    "memory.used": "used_mebibytes",
}
WATTS = list(SAMPLED.values()).index("watts")
DESCRIBED = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "uuid")


@dataclass(frozen=True)
class Energy:
    """What a GPU drew over some spans of time.

    Attributes:
        joules: above nothing, so what it draws when idle is in it.
        seconds: of the spans, each moment once however many of them overlap.
    """

    joules: float
    seconds: float


class GpuSamples:
    """Samples of one GPU while the context is open.

    Attributes:
        missing: why there are none, in words; empty where there are.
    """

    def __init__(self, device: str, *, now: Callable[[], float] = time.time) -> None:
        """Sample the GPU that a device such as `cuda:0` is.

        Args:
            device: such as `cuda:0`.
            now: seconds since 1970, by the clock that spans are told by.
        """
        self.missing, self._now = "", now
        if not device.startswith("cuda"):
            self.missing = f"the run was on {device}"
        elif shutil.which("nvidia-smi") is None:
            self.missing = "there is no nvidia-smi"
        self._gpu = selected_gpu(device)
        self._samples: list[tuple[float, list[float | None]]] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> GpuSamples:
        if not self.missing:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                _command(self._gpu, SAMPLED, "-lms", str(PERIOD_MILLISECONDS)),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
            self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._reader is not None:
            self._process.terminate()
            self._reader.join()
            with self._process:
                pass  # closes its pipe and waits for it

    def describe(self) -> dict[str, str] | None:
        """Name, driver and limits as nvidia-smi states them; None where it cannot be asked."""
        if self.missing:
            return None
        command = _command(self._gpu, DESCRIBED)
        try:
            told = subprocess.run(  # noqa: S603 - our own command
                command, capture_output=True, text=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            self.missing = "nvidia-smi gave no answer"
            return None
        values = [value.strip() for value in told.stdout.strip().split(",")]
        return dict(zip(DESCRIBED, values, strict=False))

    def within(self, spans: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
        """Median, minimum and maximum of each figure, and the number of samples; None of none.

        Args:
            spans: begin and end in seconds since 1970, by the same clock.
        """
        rows = [
            values
            for moment, values in list(self._samples)
            if any(start <= moment <= end for start, end in spans)
        ]
        if not rows:
            return None
        summary: dict[str, Any] = {"samples": len(rows)}
        for name, column in zip(SAMPLED.values(), zip(*rows, strict=True), strict=True):
            if known := spread([value for value in column if value is not None]):
                summary[name] = known
        return summary

    def energy(self, spans: Sequence[tuple[float, float]]) -> Energy | None:
        """What was drawn over some spans; None where there are fewer than two samples of power.

        Between two samples power is taken to change evenly, before the first and after the last to
        stay as it was there.

        Args:
            spans: as `within`; where they overlap, as of tasks that run at a time, once.
        """
        power = [
            (moment, values[WATTS])
            for moment, values in list(self._samples)
            if values[WATTS] is not None
        ]
        if len(power) < 2:
            return None
        moments, watts = zip(*power, strict=True)
        joules = seconds = 0.0
        for start, end in merged(spans):
            between = [moment for moment in moments if start < moment < end]
            edges = np.array([start, *between, end])
            drawn = np.interp(edges, moments, watts)
            joules += float(np.sum(np.diff(edges) * (drawn[1:] + drawn[:-1]) / 2))
            seconds += end - start
        return Energy(joules, seconds) if seconds > 0 else None

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            values = [number(value) for value in line.split(",")]
            if len(values) == len(SAMPLED):
                self._samples.append((self._now(), values))


def merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same moments as spans in order, none of which overlap."""
    result: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((start, end))
    return result


def selected_gpu(device: str) -> str:
    """What nvidia-smi calls the GPU that `cuda` or `cuda:N` is: an index, or a UUID."""
    place = int(device.partition(":")[2] or 0)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[place] if place < len(visible) else str(place)


def number(text: str) -> float | None:
    """A figure; None for what the GPU does not tell, such as `[N/A]`."""
    try:
        return float(text)
    except ValueError:
        return None


def _command(gpu: str, names: Iterable[str], *options: str) -> list[str]:
    query = ",".join(names)
    return [
        "nvidia-smi",
        f"--id={gpu}",
        f"--query-gpu={query}",
        "--format=csv,noheader,nounits",
        *options,
    ]
