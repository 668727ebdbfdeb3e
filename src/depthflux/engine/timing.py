"""Milliseconds by phase, with the device's queue emptied at every boundary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseClock:
    """Adds up the time of named phases; a phase may come several times."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block under a name."""
        start = self._now()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - start

    def milliseconds(self) -> dict[str, int]:
        """`inference`, the time since the clock was made, then each phase."""
        total = {"inference": self._now() - self._start}
        return {name: round(1000 * value) for name, value in (total | self._seconds).items()}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
