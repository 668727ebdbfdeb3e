"""How much of all bodies is in memory at a time, and how many large ones are worked on.

A body is charged as its bytes come, since what it announces is only said. It is given back when the
route says that it is dealt with, and at the latest with the answer, however that comes about. A
large answer that is in memory is charged like a body, until it has been taken. Where there are
several keys, each has half of the room at most, from the moment that is known whose a request is.
Knows nothing of what is in a body.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depthflux.images.limits import megabytes
from depthflux.server.errors import CrowdedError

#: All bodies together; some of the largest at a time, see `room_for`.
MOST_BYTES = 256 * 2**20
#: Charged nothing: with as many connections as there may be they are 64 MB.
FREE_BYTES = 64 * 1024
#: A larger one waits for its turn, since parsing and decoding multiply it.
LARGE_BYTES = 2**20
#: How many large ones are parsed and checked at a time.
MOST_LARGE = 2
#: When a client may try again, in seconds: a body takes about as long to come.
_RETRY_S = 5.0

_KEY, _ANSWER_KEY = "depthflux.body", "depthflux.answer"


def room_for(largest: int) -> int:
    """Bytes that all bodies may have together where the largest that is taken has so many.

    Two of it at least: one must get in while another comes.
    """
    return max(MOST_BYTES, 2 * largest)


class Bodies:
    """The bodies of all requests; of one event loop."""

    def __init__(self, most: int = MOST_BYTES, *, has_several_keys: bool = False) -> None:
        """Begin empty.

        Args:
            most: bytes of all bodies that are charged.
            has_several_keys: whether the room is shared by more than one key.
        """
        self.most, self.charged = most, 0
        # Two of the largest fit into all of it, so one fits into a half.
        self._most_of_one = most // 2
        self._has_several_keys = has_several_keys
        self._of_owner: Counter[str] = Counter()
        self.turns = asyncio.Semaphore(MOST_LARGE)

    def charge(self, count: int, owner: str | None) -> None:
        """Charge bytes; fewer than none are given back.

        Args:
            count: of them.
            owner: whose they are; None where that is not known.

        Raises:
            CrowdedError: there is no room for them.
        """
        if count > 0 and self.charged + count > self.most:
            raise _crowded("the bodies of other requests take", self.most)
        if self._has_several_keys and owner is not None:
            if count > 0 and self._of_owner[owner] + count > self._most_of_one:
                raise _crowded("other requests of this API key take", self._most_of_one)
            self._of_owner[owner] += count
            if not self._of_owner[owner]:
                del self._of_owner[owner]
        self.charged += count


def _crowded(who: str, most: int) -> CrowdedError:
    return CrowdedError(
        f"{who} the {megabytes(most)} that this server has for them; try again later.",
        retry_after_s=_RETRY_S,
    )


class Body:
    """What a request's body is charged, until it is given back."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = self._charged = 0
        self._owner: str | None = None
        self._has_turn = self._is_over = False

    def own(self, owner: str) -> None:
        """Say whose it is, before anything of it is charged."""
        self._owner = owner

    def add(self, count: int) -> None:
        """Charge bytes that have come; fewer than none are given back.

        Raises:
            CrowdedError: others leave no room for them; what was charged before is given back.
        """
        self._size += count
        if self._is_over:
            return
        more = (self._size if self._size > FREE_BYTES else 0) - self._charged
        try:
            self._bodies.charge(more, self._owner)
        except CrowdedError:
            self.give_back()
            raise
        self._charged += more

    async def take_turn(self) -> None:
        """Return once it may be parsed and checked: at once, unless it is large."""
        if self._size <= LARGE_BYTES or self._has_turn or self._is_over:
            return
        await self._bodies.turns.acquire()
        self._has_turn = True

    def end_turn(self) -> None:
        """Let another one have the turn; what is kept of the body is still charged."""
        if self._has_turn:
            self._has_turn = False
            self._bodies.turns.release()

    def give_back(self) -> None:
        """Charge nothing any more, and let another one have the turn; again, it does nothing."""
        self._is_over = True
        self._bodies.charge(-self._charged, self._owner)
        self._charged = 0
        self.end_turn()


class Charging:
    """Charges every request's body."""

    def __init__(self, app: ASGIApp, bodies: Bodies | None = None) -> None:
        self._app, self._bodies = app, bodies or Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = scope[_KEY] = Body(self._bodies)
        answer = scope[_ANSWER_KEY] = Body(self._bodies)

        async def charged() -> Message:
            message = await receive()
            body.add(len(message.get("body", b"")))
            return message

        try:
            await self._app(scope, charged, send)
        finally:
            body.give_back()
            answer.give_back()


def charge_to(request: Request, owner: str) -> None:
    """Say whose a request is, before its body is read: it and its answer count as the owner's."""
    for key in (_KEY, _ANSWER_KEY):
        if (body := _body_of(request, key)) is not None:
            body.own(owner)


async def take_turn(request: Request) -> None:
    """Return once a request's body, which has come whole, may be parsed and checked."""
    if (body := _body_of(request)) is not None:
        await body.take_turn()


def end_turn(request: Request) -> None:
    """Say that a request's body is parsed and checked; what comes of it may be written slowly."""
    if (body := _body_of(request)) is not None:
        body.end_turn()


def give_back(request: Request) -> None:
    """Say that a request's body is dealt with, and nothing of it is kept in memory."""
    if (body := _body_of(request)) is not None:
        body.give_back()


def charge_answer(request: Request, size: int) -> None:
    """Charge a request's answer until it has been sent.

    Args:
        request: whose.
        size: of the answer, in bytes, beside what is charged already; below 0 where that was more.

    Raises:
        CrowdedError: others' bodies and answers leave no room for it.
    """
    if (body := _body_of(request, _ANSWER_KEY)) is not None:
        body.add(size)


@contextlib.asynccontextmanager
async def making_answer(request: Request, size: int) -> AsyncIterator[None]:
    """Charge a request's answer, and make it meanwhile: a few large ones at a time.

    Args:
        request: whose.
        size: of the answer, in bytes, as far as is known before.

    Raises:
        CrowdedError: others' bodies and answers leave no room for it.
    """
    charge_answer(request, size)
    body = _body_of(request, _ANSWER_KEY)
    try:
        if body is not None:
            await body.take_turn()
        yield
    finally:
        if body is not None:
            body.end_turn()


def _body_of(request: Request, key: str = _KEY) -> Body | None:
    found: Any = request.scope.get(key)
    return found if isinstance(found, Body) else None
