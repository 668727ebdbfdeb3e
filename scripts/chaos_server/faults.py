"""Carries a plan out: each fault when its job has been accepted.

Knows nothing of clients; it only sees how many jobs have been accepted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from chaos_server.journal import Blow, Journal
from chaos_server.plan import Fault
from chaos_server.stage import Stage

_LOOK_S = 0.005


class Faults(threading.Thread):
    """The faults of a run, one after another; those that last leave room for the next ones.

    Attributes:
        error: why it could not go on; None while it can.
    """

    def __init__(
        self, plan: Sequence[Fault], on: Stage, journal: Journal, is_over: Callable[[], bool]
    ) -> None:
        """Break nothing yet.

        Args:
            plan: in order.
            on: what is broken.
            journal: told of each.
            is_over: whether no more jobs come.
        """
        super().__init__(name="faults", daemon=True)
        self._plan, self._on, self._journal, self._is_over = plan, on, journal, is_over
        self._lasting: list[threading.Thread] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Carry the plan out."""
        try:
            for fault in self._plan:
                while self._journal.accepted_count < fault.after:
                    if self._is_over():
                        return
                    time.sleep(_LOOK_S)
                time.sleep(fault.delay_s)
                self._strike(fault)
            for thread in self._lasting:
                thread.join()
        except Exception as error:  # noqa: BLE001 - whoever started the thread raises it
            self.error = error

    def _strike(self, fault: Fault) -> None:
        blow = Blow(kind=fault.kind, at=time.monotonic(), after=self._journal.accepted_count)
        self._journal.blows.append(blow)
        if fault.kind == "kill worker":
            blow.pids = [self._on.kill_worker(fault.pick)]
        elif fault.kind == "kill server":
            blow.pids = self._on.workers()
            self._on.kill_server()
            blow.start_failures = self._on.start_again()
        elif fault.kind == "full disk" and self._on.disk is not None:
            disk, before = self._on.disk, self._journal.answers["503"]
            self._last(
                lambda seconds: disk.fill(seconds, lambda: self._journal.answers["503"] > before),
                fault.seconds,
            )
        elif fault.kind == "lock":
            self._last(self._on.lock_store, fault.seconds)
        elif fault.kind == "clock" and self._on.clock is not None:
            self._on.clock.jump(fault.seconds)

    def _last(self, break_it: Callable[[float], object], seconds: float) -> None:
        thread = threading.Thread(target=self._guarded, args=(break_it, seconds), daemon=True)
        self._lasting.append(thread)
        thread.start()

    def _guarded(self, break_it: Callable[[float], object], seconds: float) -> None:
        try:
            break_it(seconds)
        except Exception as error:  # noqa: BLE001 - whoever started the thread raises it
            self.error = error
