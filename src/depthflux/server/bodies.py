"""How much of all bodies is in memory at a time, and how many large ones are worked on.

A body is charged as its bytes come, since what it announces is only said. It is given back when the
route says that it is dealt with, and at the latest with the answer, however that comes about. A
large answer that is in memory is charged like a body, until it has been taken.
Knows nothing of what is in a body.
"""

from __future__ import annotations

import asyncio
import contextlib
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

    def __init__(self, most: int = MOST_BYTES) -> None:
        """Begin empty.

        Args:
            most: bytes of all bodies that are charged.
        """
        self.most, self.charged = most, 0
        self.turns = asyncio.Semaphore(MOST_LARGE)


class Body:
    """What a request's body is charged, until it is given back."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = self._charged = 0
        self._has_turn = self._is_over = False

    def add(self, count: int) -> None:
        """Charge bytes that have come.

        Raises:
            CrowdedError: others leave no room for them; what was charged before is given back.
        """
        self._size += count
        if self._is_over or self._size <= FREE_BYTES:
            return
        more = self._size - self._charged
        if self._bodies.charged + more > self._bodies.most:
            self.give_back()
            raise CrowdedError(
                f"the bodies of other requests take the {megabytes(self._bodies.most)} that this "
                "server has for them; try again later.",
                retry_after_s=_RETRY_S,
            )
        self._bodies.charged += more
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
        self._bodies.charged -= self._charged
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
        size: of the answer, in bytes.

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
