"""Seconds of a run: the wall's, with the device's queue emptied at both ends, and the device's own.

Knows nothing of what is timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

#: Calls of one row.
CALLS = 5


def now(device: torch.device) -> float:
    """Seconds of a clock that only goes forward, after all that was queued is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def repeated_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call of work: the median of three rows of calls, after one call to warm up.

    Only a row's ends wait for the device, so that launching and waiting do not show in short calls.
    """
    work()
    seconds = []
    for _ in range(3):
        start = now(device)
        for _ in range(CALLS):
            work()
        seconds.append((now(device) - start) / CALLS)
    return statistics.median(seconds)


class StepMarks:
    """The ends of denoising steps, as the device sees them.

    On CUDA a mark is an event in the device's queue, so that nothing waits for it while a picture
    is painted; elsewhere it is the wall's clock.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        """Mark the steps of a run on a device, so many for each picture or batch."""
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._steps = steps
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Mark the end of a step."""
        if self._on_cuda:
            mark: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            # Named, since the current device may be another than the model's.
            mark.record(torch.cuda.current_stream(self._device))
        else:
            mark = time.perf_counter()
        self._marks.append(mark)

    def milliseconds(self) -> list[float]:
        """Each step but the pictures' first ones, before which lies other work; once all is done.

        Where steps are told in bursts after they ran, single figures mean little and their sum
        still holds.
        """
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
        return [
            self._between(self._marks[i - 1], self._marks[i])
            for i in range(1, len(self._marks))
            if i % self._steps
        ]

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) if self._on_cuda else 1000 * (second - first))
