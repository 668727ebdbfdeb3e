"""What a worker's threads share: the line to the server, a bell, and what they have taken.

Knows nothing of the store or of painting.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

from depthflux.server.messages import Message

#: A second prediction is taken when the first one's steps are expected to end so soon, in seconds.
READ_AHEAD_S = 1.0


class Speaker:
    """Sends messages to the server; lines of several threads do not mix."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def say(self, message: Message) -> None:
        """Send a message; where nobody listens any more, nothing is done."""
        with self._lock:
            try:
                self._stream.write(message.line())
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                return  # the server is gone; standard input says so, too


class Bell:
    """Wakes waiting takers; one rung between looking and waiting is not missed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How often it was rung."""
        with self._changed:
            return self._count

    def ring(self) -> None:
        """Wake all that wait."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, count: int, timeout_s: float) -> None:
        """Wait until it was rung more often than that, but not too long."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > count, timeout=timeout_s)


class Running:
    """The predictions that a worker has taken: which are to be stopped, and when they will end."""

    #: Stops remembered of predictions that were not here; a word may come before what it is of.
    _MOST_EARLY = 1000

    def __init__(self, on_ending: Callable[[], None]) -> None:
        """Begin with none.

        Args:
            on_ending: called when one is about to end, so that another may be taken.
        """
        self._on_ending = on_ending
        # Each change is one operation on a set or dictionary, which the interpreter does whole.
        self._stopped: set[str] = set()
        self._late: set[str] = set()
        self._alone: set[str] = set()
        self._early: deque[str] = deque(maxlen=self._MOST_EARLY)
        self._first_step: dict[str, float] = {}
        #: When room is there beside each: while its control image is read, soon; while it is
        #: painted, shortly before its end.
        self._room_at: dict[str, float] = {}
        #: Since when each takes its time, and those that have been read, in that order: the first
        #: of them is painted, the others wait for it.
        self._since: dict[str, float] = {}
        self._read: dict[str, None] = {}

    def add(self, id: str, *, alone: bool = False) -> None:
        """One was taken, and its control image is being read.

        Another one may be taken when this takes long: whoever names a slow host holds up nobody.

        Args:
            id: the prediction's.
            alone: whether nothing is to be taken beside it, to its very end.
        """
        self._room_at[id] = math.inf if alone else time.monotonic() + READ_AHEAD_S
        self._late.discard(id)
        self._since[id] = time.monotonic()
        if alone:
            self._alone.add(id)
        # Afterwards, as `stop` notes it before: so one of the two sees the other.
        if id in self._early:
            self._stopped.add(id)

    def note_painting(self, id: str) -> None:
        """One has been read and is painted next; when it will end is not known yet."""
        self._room_at[id] = math.inf
        self._read[id] = None

    def note_painted(self, id: str) -> None:
        """One's painting is over, and the time of the next one, which has waited, begins."""
        was_painting = self.is_painting(id)
        self._read.pop(id, None)
        self._since.pop(id, None)
        following = list(self._read)[:1]
        if was_painting and following:
            self._since[following[0]] = time.monotonic()

    def remove(self, id: str) -> None:
        """One has ended."""
        self.note_painted(id)
        self._stopped.discard(id)
        self._late.discard(id)
        self._alone.discard(id)
        self._first_step.pop(id, None)
        self._room_at.pop(id, None)

    def stop(self, id: str) -> None:
        """One is to be stopped: now if it is here, else should it be just about to come."""
        self._early.append(id)
        if id in self._room_at:
            self._stopped.add(id)

    def stop_late(self, id: str) -> None:
        """One has taken too long, and is to be stopped if it is still painted or read."""
        if id in self._since:
            self._late.add(id)

    def is_stopped(self, id: str) -> bool:
        """Whether one is to be stopped."""
        return id in self._stopped or id in self._late

    def is_late(self, id: str) -> bool:
        """Whether one is to be stopped because it has taken too long, and not by its owner."""
        return id in self._late and id not in self._stopped

    def is_painting(self, id: str) -> bool:
        """Whether one is being painted, not read, not waiting for another one, and not over."""
        return list(self._read)[:1] == [id]

    def longer_than(self, limit_s: float) -> list[str]:
        """Those that have been read or painted for longer."""
        now = time.monotonic()
        waiting = list(self._read)[1:]
        return [
            id
            for id, since in list(self._since.items())
            if now - since > limit_s and id not in waiting
        ]

    def note_step(self, id: str, step: int, total: int) -> None:
        """One has done a step; from the second on it is known when its last will be done."""
        now = time.monotonic()
        first = self._first_step.setdefault(id, now)
        if id in self._alone:
            return
        before = self._room_at[id]
        if step >= total:
            self._room_at[id] = now
        elif step > 1:
            left_s = (now - first) / (step - 1) * (total - step)
            self._room_at[id] = now + left_s - READ_AHEAD_S
        if before > now >= self._room_at[id]:
            self._on_ending()

    @property
    def is_empty(self) -> bool:
        """Whether none is taken."""
        return not self._room_at

    @property
    def has_room(self) -> bool:
        """Whether another one may be taken."""
        now = time.monotonic()
        return all(room_at <= now for room_at in list(self._room_at.values()))
