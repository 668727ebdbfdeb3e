"""What a worker's threads share: the line to the server, a bell, and what they have taken.

Knows nothing of the store or of painting.
"""

from __future__ import annotations

import io
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import IO, Literal, Self

from depthflux.server.messages import Alive, Message

#: Being read, waiting for its turn to be painted, being painted, and after that.
Phase = Literal["reading", "waiting", "painting", "writing"]

#: A second prediction is taken when the first one's steps are expected to end so soon, in seconds.
READ_AHEAD_S = 1.0
#: One paints while others read and write; several may wait for slow hosts.
TAKERS = 4
#: Predictions whose control images are fetched at a time: hosts that are never done leave a taker
#: for pictures that are here, and those that one owner names leave room for another's.
MOST_FETCHED, MOST_FETCHED_OF_ONE = TAKERS - 1, 2


class Speaker:
    """Sends messages to the server; lines of several threads do not mix."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    @classmethod
    def on_standard_output(cls) -> Self:
        """One that has standard output for itself: what libraries print goes to standard error."""
        own = os.dup(1)
        os.dup2(2, 1)
        return cls(io.FileIO(own, "wb"))

    def say(self, message: Message) -> None:
        """Send a message; where nobody listens any more, nothing is done."""
        with self._lock:
            try:
                self._stream.write(message.line())
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                return  # the server is gone; standard input says so, too

    def beat(self, pause_s: float) -> None:
        """Say from now on, in a thread of its own, that the process is there; while it loads, too.

        Args:
            pause_s: between two such words, in seconds.
        """

        def beat() -> None:
            while True:
                self.say(Alive())
                time.sleep(pause_s)

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()


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

    def __init__(self, on_ending: Callable[[], None], *, has_several_owners: bool = True) -> None:
        """Begin with none.

        Args:
            on_ending: called when one is about to end, so that another may be taken.
            has_several_owners: whether room is to be left for what another owner has fetched.
        """
        self._on_ending, self._has_several_owners = on_ending, has_several_owners
        #: Held where one's phase changes, since that may stop and start the times of others. All
        #: else is one operation on a set or dictionary, which the interpreter does whole.
        self._changing = threading.Lock()
        self._stopped: set[str] = set()
        self._late: set[str] = set()
        self._alone: set[str] = set()
        self._early: deque[str] = deque(maxlen=self._MOST_EARLY)
        self._first_step: dict[str, float] = {}
        #: When room is there beside each: while its control image is read, soon; while it is
        #: painted, shortly before its end; while it waits for another one's, never.
        self._room_at: dict[str, float] = {}
        #: What is done with each, since when its time runs, and what of it had gone before it
        #: waited for another one's painting.
        self._phase: dict[str, Phase] = {}
        #: Whose each is, of those whose control image is not here.
        self._fetched_for: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        #: When each one's painting began or its last step ended, and what took longest of it.
        self._last_step: dict[str, float] = {}
        self._longest_step: dict[str, float] = {}

    def add(self, id: str, *, alone: bool = False, fetched_for: str | None = None) -> None:
        """One was taken, and its control image is being read.

        Another one may be taken when this takes long: whoever names a slow host holds up nobody.

        Args:
            id: the prediction's.
            alone: whether nothing is to be taken beside it, to its very end.
            fetched_for: whose it is, where its control image has to be fetched.
        """
        if alone:
            self._alone.add(id)
        if fetched_for is not None:
            self._fetched_for[id] = fetched_for
        self._late.discard(id)
        with self._changing:
            self._since[id] = time.monotonic()
            self._phase[id] = "reading"
            self._room_at[id] = self._soon(id)
        # Afterwards, as `stop` notes it before: so one of the two sees the other.
        if id in self._early:
            self._stopped.add(id)

    def note_read(self, id: str) -> None:
        """One has been read, and waits for its turn; while another's is, its time stands still.

        While none is, the painter is not done with what comes before, such as fetching LoRAs. Then
        its time runs, and another one may be taken beside it, as while it was read.
        """
        with self._changing:
            self._phase[id] = "waiting"
            self._room_at[id] = self._soon(id)
            self._keep_time()

    def note_painting(self, id: str) -> None:
        """One's turn has come, and no other's is; when it will end is not known yet."""
        with self._changing:
            now = time.monotonic()
            self._last_step[id] = now
            if id in self._spent:
                self._since[id] = now - self._spent.pop(id)
            self._phase[id], self._room_at[id] = "painting", math.inf
            self._keep_time()

    def note_painted(self, id: str) -> None:
        """The painter is done with one, however that ended, and its time is over."""
        with self._changing:
            self._phase[id] = "writing"
            self._since.pop(id, None)
            self._spent.pop(id, None)
            self._keep_time()

    def remove(self, id: str) -> None:
        """One has ended."""
        with self._changing:
            for notes in (
                self._since,
                self._spent,
                self._phase,
                self._fetched_for,
                self._first_step,
                self._last_step,
                self._longest_step,
                self._room_at,
            ):
                notes.pop(id, None)
            self._keep_time()
        for ids in (self._stopped, self._late, self._alone):
            ids.discard(id)

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

    def is_in_painter(self, id: str) -> bool:
        """Whether the painter is at one: not read, not waiting for another one, and not over."""
        return self._phase.get(id) in ("waiting", "painting") and id in self._since

    def longer_than(self, limit_s: float) -> list[str]:
        """Those whose time has run for longer."""
        now = time.monotonic()
        return [id for id, since in list(self._since.items()) if now - since > limit_s]

    def longest_step_s(self, id: str) -> float:
        """The longest step that one has done, or what came before its first; 0 where none is."""
        return self._longest_step.get(id, 0.0)

    def note_step(self, id: str, step: int, total: int) -> None:
        """One has done a step; from the second on it is known when its last will be done."""
        now = time.monotonic()
        first = self._first_step.setdefault(id, now)
        step_s = now - self._last_step.get(id, now)
        self._last_step[id], self._longest_step[id] = now, max(step_s, self.longest_step_s(id))
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
    def is_only_reading(self) -> bool:
        """Whether all that are taken are still being read, so that no work would be lost."""
        return all(phase == "reading" for phase in list(self._phase.values()))

    @property
    def here_only_of(self) -> list[str] | None:
        """Owners of whom enough is being fetched, so that more must be here; None: of all."""
        owners = list(self._fetched_for.items())
        counts = Counter(owner for id, owner in owners if self._phase.get(id) == "reading")
        if counts.total() >= MOST_FETCHED:
            return None
        if not self._has_several_owners:
            return []
        return [owner for owner, count in counts.items() if count >= MOST_FETCHED_OF_ONE]

    @property
    def has_room(self) -> bool:
        """Whether another one may be taken."""
        now = time.monotonic()
        return all(room_at <= now for room_at in list(self._room_at.values()))

    def _soon(self, id: str) -> float:
        """When another one may be taken beside one that is kept waiting, by a slow host say."""
        return math.inf if id in self._alone else time.monotonic() + READ_AHEAD_S

    def _keep_time(self) -> None:
        """Stop the times of those that wait while another is painted, and let them run else."""
        now, is_one_painted = time.monotonic(), "painting" in self._phase.values()
        for id in [id for id, phase in self._phase.items() if phase == "waiting"]:
            if is_one_painted and id in self._since:
                self._spent[id] = now - self._since.pop(id)
                self._room_at[id] = math.inf
            elif not is_one_painted and id in self._spent:
                self._since[id] = now - self._spent.pop(id)
                self._room_at[id] = self._soon(id)
