"""Moments in seconds since 1970 whose distances are true, though the clock is set meanwhile.

Knows nothing of what happens at them.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """The time of day when it was made, and from then on what has passed."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Ask both clocks once.

        Args:
            clock: seconds that only go forward; asked from now on.
            wall: seconds since 1970.
        """
        self._clock = clock
        self._offset = wall() - clock()

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self._offset + self._clock()
