"""What happens right now: how far predictions are, and who waits for one to end.

All of it is in memory, of one event loop: what must not be lost is in the store, and who waits
looks there, too, now and then. Knows nothing of who tells it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

#: Who may wait for ends at a time, where nothing else is said.
MOST_WAITING = 512


class Board:
    """Progress, and waiting for ends."""

    def __init__(self, most_waiting: int = MOST_WAITING, most_of_one: int = MOST_WAITING) -> None:
        """Begin with nothing running.

        Args:
            most_waiting: how many may have a seat at a time.
            most_of_one: how many of one owner's.
        """
        self._most_waiting, self._most_of_one = most_waiting, most_of_one
        self._seats: Counter[str] = Counter()
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

    @contextmanager
    def seat(self, owner: str) -> Iterator[bool]:
        """Be one of those who may wait; each keeps a connection from everybody else.

        Args:
            owner: for whom is waited.

        Yields:
            Whether there is a seat; it is given back at the end.
        """
        if self._seats.total() >= self._most_waiting or self._seats[owner] >= self._most_of_one:
            yield False
            return
        self._seats[owner] += 1
        try:
            yield True
        finally:
            self._seats[owner] -= 1
            if not self._seats[owner]:
                del self._seats[owner]

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
