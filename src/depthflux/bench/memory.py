"""Device memory of one system among several that are loaded side by side.

A system's own peak is what its modules hold, plus the most that a run adds to what lies on the
device before it. Figures are those of torch's allocator, whose reserves lie above them. Knows
nothing of models.
"""

from __future__ import annotations

import gc

import torch

#: Why there are no figures elsewhere.
NOT_ON_CPU = "the process keeps freed pages, so its size does not tell one system's peak"


def held_bytes(device: torch.device) -> int | None:
    """What is allocated on the device now; None where there is no CUDA."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize(device)
    return int(torch.cuda.memory_allocated(device))


class RunPeak:
    """The most that runs add to what is on the device before each."""

    def __init__(self, device: torch.device) -> None:
        """Watch runs on a device."""
        self._on_cuda = device.type == "cuda"
        self._device = device
        self._before = 0
        self.added_bytes: int | None = 0 if self._on_cuda else None

    def begin(self) -> None:
        """Take note of what lies there before a run."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = int(torch.cuda.memory_allocated(self._device))

    def end(self) -> None:
        """Take note of a run's peak."""
        if self._on_cuda and self.added_bytes is not None:
            added = int(torch.cuda.max_memory_allocated(self._device)) - self._before
            self.added_bytes = max(self.added_bytes, added)
