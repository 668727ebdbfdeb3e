"""A moderate mix of everything that clients do, each kind at its own rate.

It keeps as many predictions as `_KEPT` and deletes older ones, so that the store ends up no larger
than it was after some minutes; uploads stay, as they would for a week.

Knows nothing of memory.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from soak_server.calls import Calls, path_of
from soak_server.receiver import Receiver
from soak_server.wire import JSON
from stand_in.running import SUBMIT

#: Predictions that are not deleted yet, and how many more there are when some are.
_KEPT, _BATCH = 300, 12
#: One kind's requests on their way; a further one is left out and counted.
_MOST_AT_ONCE = 8
#: When a prediction that takes seconds is cancelled, after it was submitted.
_CANCEL_AFTER_S = 0.2
#: How long the last webhooks may take.
_LAST_WEBHOOKS_S = 20.0

_PREDICTIONS = "/api/v3/predictions"

#: What is refused: method, path, body, media type, the status that says so.
_BAD: tuple[tuple[str, str, bytes, str, int], ...] = (
    ("GET", "/nothing/here", b"", JSON, 404),
    ("GET", f"{_PREDICTIONS}/{'0' * 32}/result", b"", JSON, 404),
    ("DELETE", SUBMIT, b"", JSON, 405),
    ("POST", SUBMIT, b'{"prompt": ', JSON, 400),
    ("POST", SUBMIT, b'{"prompt": "paint", "size": "7*7"}', JSON, 400),
    ("POST", SUBMIT, b'{"prompt": "paint", "control_image": "bm90IGEgcGljdHVyZQ=="}', JSON, 400),
    ("POST", SUBMIT, b"prompt=paint", "application/x-www-form-urlencoded", 415),
    ("POST", "/api/v3/media/upload/binary", b"no form", "text/plain", 415),
    ("GET", f"{_PREDICTIONS}?page_size=1000", b"", JSON, 400),
    ("GET", "/media/" + "a" * 43 + ".png", b"", JSON, 404),
)


class Mixed:
    """The mix.

    Attributes:
        left_out: requests that were due while too many of their kind were on their way.
    """

    def __init__(self, calls: Calls, receiver: Receiver) -> None:
        """Send nothing yet."""
        self._calls, self._receiver = calls, receiver
        self._random = random.Random(1)
        self._images: deque[str] = deque(maxlen=16)
        self._ids: deque[str] = deque()
        self._told: list[str] = []
        self._bad = itertools.cycle(_BAD)
        self.left_out = 0

    async def run(self, seconds: float) -> None:
        """Send all of it for so long; return when the last answers and webhooks have come."""
        end_s = time.perf_counter() + seconds
        if (address := await self._calls.upload()) is not None:
            self._images.append(address)
            async with asyncio.TaskGroup() as kinds:
                for per_second, act in self._kinds():
                    kinds.create_task(self._repeat(1 / per_second, act, end_s))
        await self._see_webhooks()

    def _kinds(self) -> Iterator[tuple[float, Callable[[], Awaitable[None]]]]:
        """How often a second each is done."""
        yield 3.0, self._paint
        yield 1.0, self._paint_in_sync_mode
        yield 1.0, self._paint_and_be_told
        yield 0.5, self._cancel
        yield 0.5, self._repeat_under_one_key
        yield 1.0, self._upload
        yield 0.5, self._upload_by_ticket
        yield 10.0, self._poll
        yield 1.0, self._list
        yield 1.0, self._delete
        yield 2.0, self._ask_badly
        yield 0.2, self._look_at_health

    async def _repeat(
        self, every_s: float, act: Callable[[], Awaitable[None]], end_s: float
    ) -> None:
        """Begin one at fixed times, whether or not the earlier ones have ended."""
        running: set[asyncio.Task[None]] = set()

        async def once() -> None:
            await act()

        due_s = time.perf_counter() + every_s
        while due_s < end_s:
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            due_s += every_s
            if len(running) < _MOST_AT_ONCE:
                task = asyncio.create_task(once())
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                self.left_out += 1
        await asyncio.gather(*running)

    async def _paint(self) -> None:
        image = self._random.choice(self._images)
        data = await self._submit("submit_url", image)
        if data and (ended := await self._calls.end_of("client_poll", data["id"])):
            await self._calls.download(ended)

    async def _paint_in_sync_mode(self) -> None:
        data = await self._submit("sync_inline", self._calls.inline, enable_sync_mode=True)
        self._calls.require("sync_inline", data)

    async def _paint_and_be_told(self) -> None:
        query = f"?webhook={self._receiver.url}"
        data = await self._submit("submit_webhook", self._calls.inline, query=query)
        if data is not None:
            self._told.append(data["id"])

    async def _cancel(self) -> None:
        many = {"prompt": "slow 5", "num_inference_steps": 50}
        data = await self._submit("submit_slow", self._random.choice(self._images), **many)
        if data is None:
            return
        await asyncio.sleep(_CANCEL_AFTER_S)
        await self._calls.ask("cancel", "POST", f"{_PREDICTIONS}/{data['id']}/cancel")
        await self._calls.end_of("cancelled_poll", data["id"], status="failed")

    async def _repeat_under_one_key(self) -> None:
        image, key = self._random.choice(self._images), f"{self._random.getrandbits(64):x}"
        headers = f"Idempotency-Key: {key}\r\n"
        first = await self._submit("submit_keyed", image, headers=headers)
        again = await self._calls.submit("submit_repeated", image, headers=headers)
        if first and again and first["id"] != again["id"]:
            self._calls.tally.fail("submit_repeated", "another prediction than the first")

    async def _upload(self) -> None:
        if (address := await self._calls.upload()) is not None:
            self._images.append(address)

    async def _upload_by_ticket(self) -> None:
        picture = self._calls.picture
        asked = json.dumps({"filename": "a.png", "size": len(picture)}).encode()
        answer = await self._calls.ask("ticket", "POST", "/api/v3/media/uploads", asked)
        if answer is None:
            return
        data = json.loads(answer.body)["data"]
        path, kind = path_of(data["upload"]["url"]), "application/octet-stream"
        if await self._calls.ask("ticket_put", "PUT", path, picture, media_type=kind):
            self._images.append(data["download_url"])

    async def _poll(self) -> None:
        if self._ids:
            # The newest ones are never being deleted.
            recent = len(self._ids) - min(len(self._ids), 100)
            await self._calls.poll(
                "poll", self._ids[self._random.randrange(recent, len(self._ids))]
            )

    async def _list(self) -> None:
        await self._calls.ask("list", "GET", f"{_PREDICTIONS}?page_size=100")

    async def _delete(self) -> None:
        if len(self._ids) < _KEPT + _BATCH:
            return
        one, *several = (self._ids.popleft() for _ in range(_BATCH))
        await self._calls.ask("delete", "DELETE", f"{_PREDICTIONS}/{one}")
        body = json.dumps({"ids": several}).encode()
        await self._calls.ask("delete_several", "POST", f"{_PREDICTIONS}/delete", body)

    async def _ask_badly(self) -> None:
        method, path, body, kind, status = next(self._bad)
        await self._calls.ask("refused", method, path, body, media_type=kind, expected=status)

    async def _look_at_health(self) -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            await self._calls.ask("health", "GET", path)

    async def _submit(self, kind: str, image: str, **more: Any) -> dict[str, Any] | None:
        data = await self._calls.submit(kind, image, **more)
        if data is not None:
            self._ids.append(data["id"])
        return data

    async def _see_webhooks(self) -> None:
        """See that every prediction that was to be told of was told of, once."""
        end_s = time.perf_counter() + _LAST_WEBHOOKS_S
        told = self._receiver.told
        while any(not told[id] for id in self._told) and time.perf_counter() < end_s:
            await asyncio.sleep(0.1)
        for id in self._told:
            if told[id] == 1:
                self._calls.tally.done["webhook"] += 1
            else:
                self._calls.tally.fail("webhook", f"came {told[id]} times")
