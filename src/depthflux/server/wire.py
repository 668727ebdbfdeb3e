"""A connection: what a client takes too long for, or sends too much of, ends here.

uvicorn waits for ever, for as much as comes. Here each connection is given a Patience:

    its line and headers    whole within seconds, and not too many     else 408, 414, 431
    its body                no silence, and a mean rate                else 408
    its answer              is taken                                   else the connection ends
    further requests on it  few at a time                              else it ends after them

Only the client's time counts, never the application's: while a request is worked on, or its body
is not asked for, no clock runs. What is refused here looks like every other refusal.

Knows nothing of routes; heads reads requests, crowd knows of all connections together.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from depthflux.server.app import HEADERS
from depthflux.server.crowd import Crowd, Waiting
from depthflux.server.heads import Heads
from depthflux.server.metrics import Metrics
from depthflux.server.routes.telling import refusal
from depthflux.server.sending import IS_GONE

#: When to come again where every connection is busy, in seconds.
_FULL_RETRY_S = "1"


class Flow(FlowControl):
    """uvicorn's, which also knows how long nothing was asked for.

    Attributes:
        paused_s: how long the application has not asked for bytes, in seconds.
    """

    def __init__(
        self, transport: asyncio.Transport, pipeline: deque[Any], clock: Callable[[], float]
    ) -> None:
        super().__init__(transport)
        self._pipeline, self._clock = pipeline, clock
        self.paused_s = self._paused_at = 0.0

    def pause_reading(self) -> None:
        """Ask for no more bytes."""
        if not self.read_paused:
            self._paused_at = self._clock()
        super().pause_reading()

    def resume_reading(self) -> None:
        """Ask for more bytes; not while requests wait here, which would only be more of them."""
        if self.read_paused and not self._pipeline:
            self.paused_s += self._clock() - self._paused_at
            super().resume_reading()


class Answering(asyncio.Transport):
    """What an answer is written to: where it ends the connection, that is its protocol's doing."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        super().__init__()
        self._transport, self._end = transport, end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether the connection is about to end."""
        return self._transport.is_closing()

    def close(self) -> None:
        """End the connection."""
        self._end()


class Connection(Heads):
    """One connection, from its first byte to its last."""

    flow: Flow

    def __init__(
        self,
        crowd: Crowd,
        metrics: Metrics,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(crowd.patience, config, server_state, app_state, loop)
        self._crowd, self._metrics = crowd, metrics
        #: What is answered now; uvicorn's own `cycle` is the latest request, which may wait.
        self._running: RequestResponseCycle | None = None
        #: Whether nothing that comes is listened to, and whether a refusal was sent.
        self._is_deaf = self._is_refused = False
        #: Whether the connection ends once the rest of a body has come.
        self._ends_with_body = False
        self._waiting: Waiting | None = None
        #: When the server began to wait, when it last saw a body grow, and how far it had then.
        self._since = self._heard = self._answered = self._paused_before = 0.0
        self._heard_size = -1
        #: When it was looked how much of an answer is not taken, and how much it was.
        self._unread: tuple[float, int] | None = None

    # What the transport calls ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or be refused where everybody is busy."""
        super().connection_made(transport)
        # Paused from the first byte on that waits here to the last: only then is an answer taken.
        transport.set_write_buffer_limits(high=0)
        self.flow = Flow(transport, self.pipeline, self.loop.time)
        self._since = self.loop.time()
        if self._crowd.join(self):
            self._settle()
        else:
            text = "every connection that this server has is busy; try again."
            self._refuse(503, text, {"Retry-After": _FULL_RETRY_S})

    def connection_lost(self, exc: Exception | None) -> None:
        """End; whatever is still worked on is told."""
        super().connection_lost(exc)
        self._crowd.leave(self)
        _tell(self._running)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, unless it comes too late."""
        self._unset_keepalive_if_required()
        if self._is_deaf:
            return
        if self._waiting is Waiting.HEAD and self._is_idle:
            self._since = self.loop.time()
        self.parse(data)
        if self.problem is not None:
            self._refuse(*self.problem)
        self._settle()

    def pause_writing(self) -> None:
        """Something of an answer waits to be taken."""
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        """The client has taken all of it, or the system has for it."""
        super().resume_writing()
        self._unread = None
        self._settle()

    # Requests and answers -------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        """A request's head is whole; only few may wait behind others."""
        if len(self.pipeline) >= self.patience.pipelined:
            # Never said: who has others before this one hears their answers, and then the end.
            self.deny(429, "too many requests at a time on one connection.")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        super().on_message_complete()
        if self._ends_with_body:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """A request is given to the application: from now on its body is waited for."""
        self._running = cycle
        cycle.transport = Answering(self.transport, self._end_after_answer)
        # Weakly: a cycle that holds itself is not freed with its answer.
        known = weakref.ref(cycle)
        scope = cast(dict[str, Any], cycle.scope)
        scope[IS_GONE] = lambda: (one := known()) is None or one.disconnected
        self._since = self._heard = self.loop.time()
        self._heard_size, self._paused_before = -1, self.flow.paused_s
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """A request is answered."""
        super().on_response_complete()
        self._answered = self.loop.time()
        self._settle()

    def _end_after_answer(self) -> None:
        """End the connection; where the answer came early, only when the request has, too.

        To close upon bytes that still come would destroy the answer on its way.
        """
        if self.awaits_head or self._is_deaf or self.cycle is not self._running:
            self.transport.close()
        else:
            self._ends_with_body = True
            self.transport.write_eof()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing has come since the last request; uvicorn ends such a connection soon."""
        return self.has_asked and not self.unparsed

    def _settle(self) -> None:
        """Say what the server waits for now."""
        waiting: Waiting | None = None
        if self.flow.write_paused:
            waiting = Waiting.READER
        elif self.pipeline or self._is_deaf:
            pass  # somebody before is being answered
        elif not self.awaits_head:
            waiting = Waiting.BODY
        elif not self.has_asked or self.cycle.response_complete:
            waiting = Waiting.HEAD
        if waiting is not self._waiting:
            self._waiting = waiting
            self._crowd.place(self, waiting)
            if waiting is Waiting.HEAD:
                self._since = self.loop.time()

    # Refusing -------------------------------------------------------------------------------

    def _refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Answer in the application's place, after others that wait, and listen no more."""
        self._is_deaf = True
        if self._is_behind_others():
            return
        if not self.awaits_head:
            # The request itself is with the application.
            _tell(self.cycle)
            if self.cycle.response_started:
                self.transport.close()
                return
        self._since, self._is_refused = self.loop.time(), True
        self._crowd.see_off(self)
        self.transport.write(self._refusal(status, message, headers))
        # Its last bytes are still passed over: to close upon them would destroy the answer.
        self.transport.write_eof()

    def _is_behind_others(self) -> bool:
        """Whether earlier requests are not answered yet: then the last of them ends all."""
        if not self.awaits_head:
            if not self.pipeline:
                return False
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is None or last.response_complete:
            return False
        last.keep_alive = False
        return True

    def _refusal(self, status: int, message: str, headers: dict[str, str] | None) -> bytes:
        """The whole answer; counted."""
        self._metrics.http_requests.labels("none", "other", str(status)).inc()
        answer = refusal(status, message, headers)
        said = [*self.server_state.default_headers, *answer.raw_headers, *HEADERS]
        lines = [name + b": " + value + b"\r\n" for name, value in said]
        body = b"" if self.parser.get_method() == b"HEAD" else bytes(answer.body)
        return b"".join([STATUS_LINE[status], *lines, b"connection: close\r\n\r\n", body])

    # Looking, once a second -----------------------------------------------------------------

    def look(self, now: float) -> None:
        """End what has been waited for too long."""
        if self._is_refused:
            if now - self._since > self.patience.leaving_s:
                self.transport.abort()
        elif self.transport.is_closing() or self.flow.write_paused:
            self._look_at_reader(now)
        elif self._waiting is Waiting.HEAD:
            self._look_at_head(now)
        elif self._waiting is Waiting.BODY:
            self._look_at_body(now)

    def give_way(self) -> None:
        """End at once, in favour of another one."""
        self.transport.abort()

    def _look_at_head(self, now: float) -> None:
        if self._is_idle or now - self._since <= self.patience.head_s:
            return
        if self.unparsed:
            seconds = f"{self.patience.head_s:g}"
            self._refuse(408, f"the request's headers did not come within {seconds} s.")
        else:
            self.transport.abort()

    def _look_at_body(self, now: float) -> None:
        cycle, patience = self.cycle, self.patience
        if cycle.response_complete:
            if now - self._answered > patience.rest_s:
                self.transport.abort()
            return
        if cycle.waiting_for_100_continue:
            self._since = now  # the client is not asked to begin yet
        is_asked = not (cycle.waiting_for_100_continue or self.flow.read_paused)
        if not is_asked or self.body_size != self._heard_size:
            self._heard, self._heard_size = now, self.body_size
        if not is_asked:
            return
        waited = now - self._since - (self.flow.paused_s - self._paused_before)
        least = patience.bytes_per_s
        if now - self._heard > patience.silence_s:
            self._refuse(408, f"nothing of the body came for {patience.silence_s:g} s.")
        elif waited > patience.grace_s and self.body_size < least * waited:
            self._refuse(408, f"the body came with less than {least} bytes a second.")

    def _look_at_reader(self, now: float) -> None:
        """End the connection where what waits for the client hardly becomes less.

        Meanwhile nothing is added to it: either the application waits, or the end is near.
        """
        size = self.transport.get_write_buffer_size()
        since, before = self._unread or (now, size)
        if (is_over := now - since > self.patience.unread_s) or self._unread is None:
            self._unread = now, size
        if is_over and before - size < self.patience.bytes_per_s * (now - since):
            self.transport.abort()


def _tell(cycle: RequestResponseCycle | None) -> None:
    """Let the application know that its client is gone."""
    if cycle is not None and not cycle.response_complete:
        cycle.disconnected, cycle.waiting_for_100_continue = True, False
        cycle.message_event.set()


def connections(crowd: Crowd, metrics: Metrics) -> type[Connection]:
    """The class of a server's connections, as uvicorn wants it.

    Args:
        crowd: where they are counted.
        metrics: where refusals are.
    """

    class Ours(Connection):
        def __init__(
            self,
            config: uvicorn.Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(crowd, metrics, config, server_state, app_state, _loop)

    return Ours
