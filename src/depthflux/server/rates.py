"""How often a key may ask: a bucket of tokens each, filled evenly.

Knows nothing of what is asked for.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from depthflux.errors import BusyError

#: Owners remembered; one that is forgotten begins with a full bucket.
_MOST_OWNERS = 10_000


class Rates:
    """What each owner may still ask for; of one thread."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            per_minute: how many in a minute, all of which may come at once; 0: no limit.
            clock: seconds, never going back.
        """
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, owner: str) -> None:
        """Take one token.

        Raises:
            BusyError: there is none.
        """
        if not self._per_minute:
            return
        now, per_second = self._clock(), self._per_minute / 60
        tokens, then = self._buckets.pop(owner, (float(self._per_minute), now))
        tokens = min(tokens + (now - then) * per_second, float(self._per_minute))
        allowed = tokens >= 1
        self._buckets[owner] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MOST_OWNERS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise BusyError(
                f"more than {self._per_minute} requests of this key in a minute; slow down.",
                retry_after_s=(1 - tokens) / per_second,
            )
