"""Refused submissions one after the other: when the next ones would be refused, too.

Knows nothing of what was refused.
"""

from __future__ import annotations

import threading

#: After so many refusals with the same status or code one after the other no more is sent.
ALIKE_REFUSALS = 3


class AlikeRefusals:
    """Counts refusals in a row that are alike; several threads may call."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lock = threading.Lock()
        self._code: int | None = None
        self._count = 0

    def add(self, code: int | None) -> bool:
        """Count a refusal with a status or code; whether it is one too many."""
        with self._lock:
            self._count = self._count + 1 if code == self._code else 1
            self._code = code
            return self._count >= ALIKE_REFUSALS

    def end(self) -> None:
        """Begin anew: a submission was taken."""
        with self._lock:
            self._code, self._count = None, 0
