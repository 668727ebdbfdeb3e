"""Seconds and milliseconds, with the device's queue emptied where a figure begins and ends.

Knows nothing of what is timed.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Spread = dict[str, float]


def now(device: torch.device) -> float:
    """Seconds of a clock that only goes forward, after all that was queued is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def spread(values: Sequence[float]) -> Spread | None:
    """Median, minimum and maximum; None of nothing."""
    if not values:
        return None
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def repeated_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of one call of work; three calls warm up, then ten are timed."""
    for _ in range(3):
        work()
    seconds = []
    for _ in range(10):
        start = now(device)
        work()
        seconds.append(now(device) - start)
    return statistics.median(seconds)


class StepClock:
    """Time between denoising steps, as the device sees it; given to `generate` as `on_step`.

    On CUDA a step is the time between two events in the device's queue, so that nothing waits for
    it while the picture is painted. A picture's first step is not counted: encoding or decoding
    lies before it.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._steps = steps
        self._marks: list[Any] = []

    def __call__(self, _done: int, _total: int) -> None:
        """Mark the end of a step."""
        if self._on_cuda:
            mark: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            # Named, since the current device may be another than the model's.
            mark.record(torch.cuda.current_stream(self._device))
        else:
            mark = time.perf_counter()
        self._marks.append(mark)

    def milliseconds(self) -> list[float]:
        """Each step but the pictures' first ones, once all of them are done."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
        return [
            self._between(self._marks[i - 1], self._marks[i])
            for i in range(1, len(self._marks))
            if i % self._steps
        ]

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) if self._on_cuda else 1000 * (second - first))
