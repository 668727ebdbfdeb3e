"""What happens right now: how far predictions are, and who waits for one to end.

All of it is in memory, of one event loop: what must not be lost is in the store, and who waits
looks there, too, now and then. Knows nothing of who tells it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Board:
    """Progress, and waiting for ends."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, int]] = {}
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    def note_step(self, id: str, step: int, total: int) -> None:
        """A prediction has done so many of its steps."""
        self._steps[id] = (step, total)

    def progress(self, id: str) -> tuple[int, int] | None:
        """Steps done and their total; None before the first and after the end."""
        return self._steps.get(id)

    def note_end(self, id: str) -> None:
        """A prediction has ended, or does not run any more; whoever waits for it looks now."""
        self._steps.pop(id, None)
        for event in self._waiting.get(id, ()):
            event.set()

    def wake_all(self) -> None:
        """Let everybody who waits look now."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def wait(self, id: str, timeout_s: float) -> None:
        """Return when a prediction has ended, at the latest after some seconds."""
        event = asyncio.Event()
        self._waiting[id].add(event)
        try:
            # Not wait_for, which on Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return
        finally:
            self._waiting[id].discard(event)
            if not self._waiting[id]:
                del self._waiting[id]
