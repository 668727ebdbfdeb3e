"""All connections together: how many there may be, which gives way, and when each is looked at.

Whoever only waits gives way to whoever comes, the longest waiting first, so that idle connections
keep nobody out; a request that is worked on is never given up for another. An answer that is being
taken gives way last, and only where it has not been taken for some seconds: else slow readers could
keep everybody out. Every connection is looked at once a second, which is cheaper than a timer for
each.

Knows nothing of HTTP, and not what is right for a connection to do: it looks at its own clock.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

logger = logging.getLogger("depthflux")

#: Files that a process may have open at most: more would be of no use, and some systems allow
#: a thousand million.
_MOST_FILES = 65536
#: Files that are kept for the store, pictures, webhooks and workers' pipes; and for connections
#: that are accepted in one go, as many as may wait for that, before the first has joined.
_KEPT_FILES = 256 + 512
#: Refused connections that are still given time to read why; about a kilobyte each.
_MOST_LEAVING = 64


@dataclass(frozen=True)
class Patience:
    """How long a connection is waited for, and how much is taken from it.

    Attributes:
        head_s: for a request's line and headers: from the connection's begin, or from the first
            byte of a further request on it.
        head_bytes: of line and headers together.
        target_bytes: of the request target alone.
        headers: how many.
        pipelined: requests that may wait behind the one that is being answered.
        silence_s: between two pieces of a body, while it is waited for.
        grace_s: of a body before its mean rate counts.
        bytes_per_s: least mean rate of a body; and of an answer that is not taken.
        rest_s: for the rest of a body after its answer.
        unread_s: how long an answer may not be taken before the rate is looked at.
        reader_s: how long an answer may not be taken before its connection gives way to others.
        leaving_s: for reading why a connection was refused.
        connections: how many at a time.
        look_s: between two looks at all connections.
    """

    head_s: float = 10.0
    head_bytes: int = 32 * 1024
    target_bytes: int = 8 * 1024
    headers: int = 100
    pipelined: int = 16
    silence_s: float = 10.0
    grace_s: float = 20.0
    bytes_per_s: int = 8 * 1024
    rest_s: float = 30.0
    unread_s: float = 30.0
    reader_s: float = 5.0
    leaving_s: float = 2.0
    connections: int = 1024
    look_s: float = 1.0


class Waiting(Enum):
    """What makes a connection one that only waits; which gives way first is the order."""

    HEAD = "a request, or the rest of its headers"
    BODY = "the rest of a body"
    READER = "that what was sent is taken"


class Member(Protocol):
    """A connection, as the crowd sees it."""

    def look(self, now: float) -> None:
        """See whether it has been waited for too long."""

    def give_way(self) -> None:
        """End at once."""


class Crowd:
    """The connections of one server; of one event loop."""

    def __init__(self, patience: Patience) -> None:
        """Begin empty.

        Args:
            patience: how many there may be, and how often they are looked at.
        """
        self.patience = patience
        self._members: dict[Member, Waiting | None] = {}
        #: Who waits, and since when.
        self._lines: dict[Waiting, OrderedDict[Member, float]] = {
            kind: OrderedDict() for kind in Waiting
        }
        self._leaving: OrderedDict[Member, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many connections there are; those that were refused do not count."""
        return len(self._members)

    def join(self, member: Member) -> bool:
        """Let a connection in, where there are too many in the place of one that only waits.

        Returns:
            Whether there was a place.
        """
        is_in = len(self._members) < self.patience.connections or self._make_way()
        if is_in:
            self._members[member] = None
        if self._timer is None:
            self._set_timer()
        return is_in

    def place(self, member: Member, kind: Waiting | None) -> None:
        """Say what of a client the server waits for; None: for nothing, it is served."""
        if member not in self._members or (before := self._members[member]) is kind:
            return
        if before is not None:
            del self._lines[before][member]
        if kind is not None:
            self._lines[kind][member] = time.monotonic()
        self._members[member] = kind

    def see_off(self, member: Member) -> None:
        """Count a refused connection no more; it stays a while, unless too many do."""
        self.leave(member)
        if len(self._leaving) >= _MOST_LEAVING:
            oldest, _ = self._leaving.popitem(last=False)
            oldest.give_way()
        self._leaving[member] = None

    def leave(self, member: Member) -> None:
        """Forget a connection that has ended."""
        self.place(member, None)
        self._members.pop(member, None)
        self._leaving.pop(member, None)

    def _make_way(self) -> bool:
        for kind, line in self._lines.items():
            if not line:
                continue
            oldest, since = next(iter(line.items()))
            waited_s = time.monotonic() - since
            if kind is Waiting.READER and waited_s <= self.patience.reader_s:
                continue
            self.leave(oldest)
            oldest.give_way()
            return True
        return False

    def _look_at_all(self) -> None:
        self._timer = None
        if self._members or self._leaving:
            self._set_timer()
        loop = asyncio.get_running_loop()
        now = loop.time()
        for member in [*self._members, *self._leaving]:
            try:
                member.look(now)
            except Exception:  # whatever is wrong with one, those behind it are looked at
                logger.exception("A connection is ended, since looking at it failed.")
                self.leave(member)
                # In a turn of its own: what is broken may fail in this, too.
                loop.call_soon(member.give_way)

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.patience.look_s, self._look_at_all)


def make_room(wanted: int = Patience.connections) -> int:
    """Let this process open as many files as it may.

    Args:
        wanted: connections.

    Returns:
        How many of them there may be, so that files can be opened all the same.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    # Two files for each: its own, and a picture that is being sent on it. A quarter where even that
    # is little: the files that are kept are kept for bad days.
    return min(wanted, max((soft - _KEPT_FILES) // 2, soft // 4))
