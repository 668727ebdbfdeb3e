"""Which exchange belongs to which task: those of one thread, while it sees one task to its end.

Knows nothing of tasks, nor of what was exchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from depthflux.bench.hosted.exchanges import Exchange


class ExchangeLog:
    """What was asked and answered, by the thread that asked: a task's are one thread's."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def add(self, exchange: Exchange) -> None:
        """Keep an exchange; the client calls this in the thread that asked."""
        kept: list[Exchange] | None = getattr(self._of_thread, "kept", None)
        if kept is not None:
            kept.append(exchange)

    @contextmanager
    def kept(self) -> Iterator[list[Exchange]]:
        """The exchanges of this thread while the block lasts."""
        kept: list[Exchange] = []
        self._of_thread.kept = kept
        try:
            yield kept
        finally:
            self._of_thread.kept = None


def count_retries(exchanges: Sequence[Exchange]) -> int:
    """How often a request was sent anew."""
    return sum(exchange.attempt > 1 for exchange in exchanges)
