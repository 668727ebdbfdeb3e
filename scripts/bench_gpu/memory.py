"""Peak memory of a stretch of work, on the device and on the host. It knows nothing of models.

The device's peaks are those of torch's allocator. The kernel keeps no resettable peak of a
process's own pages, so the host's is sampled; pages of mapped files, which cost no memory of their
own, are told apart. Where something cannot be read it is None.
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

SAMPLING_SECONDS = 0.02
STATUS = Path("/proc/self/status")


class PeakMemory:
    """A context that measures what happens inside it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._before = self._highest = host_bytes()
        self._device_before: int | None = None
        #: Bytes; see `figures`. Empty until the context is left.
        self.figures: dict[str, int | None] = {}

    def __enter__(self) -> "PeakMemory":
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._device_before = torch.cuda.memory_allocated(self._device)
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._sampler.join()
        before, highest = self._before or {}, self._highest or {}
        self.figures = {
            "device_before_bytes": self._device_before,
            "device_peak_bytes": self._peak("max_memory_allocated"),
            "device_peak_reserved_bytes": self._peak("max_memory_reserved"),
            "host_before_bytes": before.get("own"),
            "host_peak_bytes": highest.get("own"),
            "host_mapped_files_peak_bytes": highest.get("mapped"),
            "host_pinned_bytes": pinned_bytes() if self._on_cuda else None,
        }

    def _peak(self, name: str) -> int | None:
        return int(getattr(torch.cuda, name)(self._device)) if self._on_cuda else None

    def _sample(self) -> None:
        while True:
            now = host_bytes()
            if now is None or self._highest is None:
                return
            self._highest = {kind: max(now[kind], self._highest[kind]) for kind in now}
            if self._done.wait(SAMPLING_SECONDS):
                return


def host_bytes() -> dict[str, int] | None:
    """This process's pages: its own, and those of mapped files; None where there is no /proc."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in lines)
        if name.startswith("Rss")
    }
    if not {"RssAnon", "RssFile"} <= kilobytes.keys():
        return None
    own = kilobytes["RssAnon"] + kilobytes.get("RssShmem", 0)
    return {"own": own * 1024, "mapped": kilobytes["RssFile"] * 1024}


def pinned_bytes() -> int | None:
    """Host memory pinned by torch, rounded up as it rounds; the kernel may not count it."""
    stats: dict[str, Any] = torch.cuda.host_memory_stats()
    value = stats.get("allocated_bytes.current")
    return None if value is None else int(value)
