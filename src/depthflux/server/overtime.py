"""The longest time for a prediction: who is over it is stopped, and who does not stop, given up.

Counted from when a worker takes it, reading included, without what it waits for another one's
painting. A stop is heeded between steps; a kernel that never ends heeds nothing, nor does a painter
that fetches LoRAs, and only the end of the process helps then. Reading control images has bounds of
its own, and ends by itself.

Knows nothing of the store, or of what giving up means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from depthflux.server.taking import Running

#: How long one that was stopped may take to notice, at least, in seconds. Compiling for a new size
#: heeds no stop, and took 167 s on two busy cores; a hung worker costs no more than that.
GRACE_S = 180.0
#: And at least so many of its longest step: there are slow devices, and decoding, which heeds no
#: stop either, takes longer there than a step.
GRACE_STEPS = 5
#: How often it is looked, in seconds.
_LOOK_S = 0.2


class Overtime:
    """Watches what a worker has taken."""

    def __init__(
        self,
        running: Running,
        limit_s: float,
        give_up: Callable[[str], None],
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        """Watch nothing yet.

        Args:
            running: what was taken.
            limit_s: longest time for a prediction.
            give_up: called with the id of one that its painter goes on with after its stop.
            grace_s: how long it may do that, at least; longer where its steps take long.
        """
        self._running, self._limit_s, self._grace_s = running, limit_s, grace_s
        self._give_up = give_up
        self._stopped_at: dict[str, float] = {}

    def start(self) -> None:
        """Watch from now on, in a thread of its own, while the process lives."""
        threading.Thread(target=self._watch, name="overtime", daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(_LOOK_S)

    def look(self) -> None:
        """Stop those that are over the time, and give up the one that did not stop."""
        now = time.monotonic()
        late = self._running.longer_than(self._limit_s)
        self._stopped_at = {id: self._stopped_at.get(id, now) for id in late}
        for id, since in self._stopped_at.items():
            self._running.stop_late(id)
            grace_s = max(self._grace_s, GRACE_STEPS * self._running.longest_step_s(id))
            if now - since > grace_s and self._running.is_in_painter(id):
                self._give_up(id)


def late_line(limit_s: float) -> str:
    """What a prediction that has taken too long failed for."""
    return (
        f"The prediction took longer than {limit_s:g} s and was stopped; ask for fewer steps, "
        "fewer pictures or a smaller size."
    )
