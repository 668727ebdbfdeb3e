"""How much of all bodies is in memory at a time, and how many large ones are worked on."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from depthflux.contract import HOSTED_MODEL
from depthflux.errors import BusyError
from depthflux.server.app import make_app
from depthflux.server.board import Board
from depthflux.server.bodies import (
    FREE_BYTES,
    LARGE_BYTES,
    MOST_BYTES,
    MOST_LARGE,
    Bodies,
    Body,
    Charging,
    give_back,
    making_answer,
    take_turn,
)
from depthflux.server.database import FILE_NAME, Database
from depthflux.server.errors import CrowdedError
from depthflux.server.judging import Judged, Judging
from depthflux.server.keys import Keys
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.service import Service
from depthflux.server.settings import ServerSettings
from depthflux.settings import EngineSettings

LARGE = LARGE_BYTES + 1


def test_bodies_are_charged_as_they_come_and_no_further() -> None:
    bodies = Bodies(most=1_000_000)
    first, second = Body(bodies), Body(bodies)
    first.add(400_000)
    second.add(600_000)

    with pytest.raises(CrowdedError, match="the bodies of other requests") as caught:
        first.add(1)

    assert isinstance(caught.value, BusyError)
    assert (caught.value.http_status, caught.value.retry_after_s > 0) == (503, True)
    # What was refused is not kept, so it is not charged.
    assert bodies.charged == 600_000
    second.give_back()
    assert bodies.charged == 0


def test_of_several_keys_one_has_half_of_the_room_and_others_the_rest() -> None:
    bodies = Bodies(most=1_000_000, has_several_keys=True)
    first, second, other = Body(bodies), Body(bodies), Body(bodies)
    for body, owner in ((first, "one"), (second, "one"), (other, "another")):
        body.own(owner)
    first.add(400_000)

    with pytest.raises(CrowdedError, match="other requests of this API key"):
        second.add(100_001)

    other.add(500_000)
    first.add(100_000)
    assert bodies.charged == 1_000_000
    first.give_back()
    third = Body(bodies)
    third.own("one")
    third.add(500_000)
    assert bodies.charged == 1_000_000


def test_one_key_has_all_of_the_room() -> None:
    bodies = Bodies(most=1_000_000)
    body = Body(bodies)
    body.own("one")

    body.add(1_000_000)

    assert bodies.charged == 1_000_000


def test_what_was_guessed_too_high_is_given_back() -> None:
    bodies = Bodies(most=1_000_000)
    body = Body(bodies)

    body.add(800_000)
    body.add(-600_000)
    large = bodies.charged
    body.add(-150_000)

    assert (large, bodies.charged) == (200_000, 0)


@pytest.mark.parametrize("megabytes", [32, 400])
def test_there_is_room_for_two_of_the_largest_bodies_however_large_pictures_may_be(
    database: Database, media: Media, tmp_path: Path, megabytes: int
) -> None:
    engine_settings = EngineSettings(max_image_bytes=megabytes * 2**20)
    service = Service(
        ServerSettings(data_dir=tmp_path), engine_settings, database, media, Board(), Metrics()
    )

    charging = next(
        one for one in make_app(service, Keys([])).user_middleware if one.cls is Charging
    )

    # As base64, and its fields.
    largest = megabytes * 2**20 * 4 // 3 + 2**20
    most = charging.kwargs["bodies"].most
    assert most == max(MOST_BYTES, 2 * largest)


def test_small_bodies_are_free_and_growing_ones_are_charged_whole() -> None:
    bodies = Bodies(most=FREE_BYTES + 1)
    small = [Body(bodies) for _ in range(1000)]
    for body in small:
        body.add(FREE_BYTES)
    free = bodies.charged

    small[0].add(1)

    assert (free, bodies.charged) == (0, FREE_BYTES + 1)
    with pytest.raises(CrowdedError):
        small[1].add(1)


def test_giving_back_twice_is_giving_back_once() -> None:
    bodies = Bodies(most=1_000_000)
    one, other = Body(bodies), Body(bodies)
    one.add(100_000)
    other.add(200_000)

    one.give_back()
    one.give_back()
    one.add(300_000)

    assert bodies.charged == 200_000


# Around an application --------------------------------------------------------------------------

Answer = Callable[[Request], Awaitable[None]]


def pieces(*sizes: int) -> Receive:
    """A client that sends so many bytes at a time, then hangs up."""
    left = list(sizes)

    async def receive() -> Message:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": bytes(left.pop(0)), "more_body": True}

    return receive


async def serve(bodies: Bodies, receive: Receive, answer: Answer) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(Request(scope, receive, send))

    async def send(message: Message) -> None:
        return

    await Charging(app, bodies)({"type": "http", "headers": []}, receive, send)


async def read(request: Request) -> None:
    async for _ in request.stream():
        pass


@pytest.mark.parametrize("how", ["answered", "hung up", "failed", "cancelled"])
def test_a_body_is_given_back_however_its_request_ends(how: str) -> None:
    bodies = Bodies()
    charged = 0

    async def answer(request: Request) -> None:
        nonlocal charged
        await request.receive()
        charged = bodies.charged
        await take_turn(request)
        if how == "failed":
            raise KeyError
        if how == "hung up":
            await read(request)
        if how == "cancelled":
            await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(serve(bodies, pieces(LARGE), answer))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # All turns are there again.
        async with asyncio.timeout(1):
            for _ in range(MOST_LARGE):
                await bodies.turns.acquire()

    asyncio.run(run())

    assert (charged, bodies.charged) == (LARGE, 0)


def test_large_bodies_are_worked_on_a_few_at_a_time_and_small_ones_at_once() -> None:
    bodies = Bodies()
    at_a_time = most = small = 0

    async def work(request: Request) -> None:
        nonlocal at_a_time, most
        await request.receive()
        await take_turn(request)
        at_a_time += 1
        most = max(most, at_a_time)
        await asyncio.sleep(0.01)
        at_a_time -= 1

    async def pass_by(request: Request) -> None:
        nonlocal small
        await request.receive()
        await take_turn(request)
        small += at_a_time == MOST_LARGE

    async def run() -> None:
        large = [asyncio.create_task(serve(bodies, pieces(LARGE), work)) for _ in range(8)]
        await asyncio.sleep(0.005)
        await serve(bodies, pieces(LARGE_BYTES), pass_by)
        await asyncio.gather(*large)

    asyncio.run(run())

    assert (most, small) == (MOST_LARGE, 1)


def test_a_route_that_is_done_with_a_body_lets_the_next_one_have_its_turn() -> None:
    bodies = Bodies()
    charged = []

    async def wait_long(request: Request) -> None:
        await request.receive()
        await take_turn(request)
        give_back(request)
        charged.append(bodies.charged)
        await asyncio.sleep(0.05)

    async def run() -> None:
        async with asyncio.timeout(1):
            await asyncio.gather(
                *(serve(bodies, pieces(LARGE), wait_long) for _ in range(MOST_LARGE + 3))
            )

    asyncio.run(run())

    assert len(charged) == MOST_LARGE + 3
    assert bodies.charged == 0


def test_a_large_answer_is_charged_until_it_has_been_sent_though_its_body_was_given_back() -> None:
    bodies = Bodies(most=2 * LARGE)
    charged = []

    async def make(request: Request) -> None:
        await request.receive()
        give_back(request)
        async with making_answer(request, LARGE):
            charged.append(bodies.charged)
        charged.append(bodies.charged)
        await asyncio.sleep(0.01)

    async def run() -> list[BaseException | None]:
        return await asyncio.gather(
            *(serve(bodies, pieces(10), make) for _ in range(3)), return_exceptions=True
        )

    results = asyncio.run(run())

    assert [type(one) for one in results] == [type(None), type(None), CrowdedError]
    assert max(charged) == 2 * LARGE
    assert bodies.charged == 0


def noise(side: int) -> bytes:
    """A picture that cannot be packed."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(buffer, format="PNG")
    return buffer.getvalue()


def as_text(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def test_a_picture_is_not_kept_in_memory_while_its_end_is_waited_for(
    database: Database, media: Media, tmp_path: Path
) -> None:
    settings = ServerSettings(data_dir=tmp_path, sync_timeout_s=60)
    service = Service(settings, EngineSettings(), database, media, Board(), Metrics())
    app = make_app(service, Keys([]))
    bodies = next(one for one in app.user_middleware if one.cls is Charging).kwargs["bodies"]
    picture = as_text(noise(1200))

    async def run() -> tuple[int, int, int]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000"
        ) as client:
            body = {"prompt": "a", "control_image": picture, "enable_sync_mode": True}
            content = json.dumps(body).encode()
            headers = {"Content-Type": "application/json"}
            tracemalloc.start()
            asking = [
                asyncio.create_task(
                    client.post(f"/api/v3/{HOSTED_MODEL}", content=content, headers=headers)
                )
                for _ in range(3)
            ]
            async with asyncio.timeout(10):
                while service.predictions.counts() != {"created": 3}:
                    await asyncio.sleep(0.02)
                # Until what they are answered with is being waited for.
                await asyncio.sleep(0.2)
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            waiting, charged = sum(not one.done() for one in asking), bodies.charged
            service.end_waiting()
            for one in asking:
                assert (await one).json()["data"]["status"] == "processing"
            return held, waiting, charged

    held, waiting, charged = asyncio.run(run())

    assert (waiting, charged) == (3, 0)
    assert held < len(picture)


# Whose a request is ----------------------------------------------------------------------------

KEYS = ("first-key-0123456789", "second-key-0123456789")


def full_for_one(monkeypatch: pytest.MonkeyPatch, service: Service, keys: Keys) -> FastAPI:
    """An application where the first key has taken its half."""
    bodies = Bodies(most=2_000_000, has_several_keys=True)
    monkeypatch.setattr("depthflux.server.app.Bodies", lambda **_: bodies)
    taken = Body(bodies)
    taken.own(keys.owner(f"Bearer {KEYS[0]}") or "")
    taken.add(1_000_000)
    return make_app(service, keys)


@pytest.mark.parametrize("key", KEYS)
def test_bodies_count_as_their_key_s_whether_the_key_or_a_ticket_is_told(
    monkeypatch: pytest.MonkeyPatch, database: Database, media: Media, tmp_path: Path, key: str
) -> None:
    settings = ServerSettings(data_dir=tmp_path)
    service = Service(settings, EngineSettings(), database, media, Board(), Metrics())
    app = full_for_one(monkeypatch, service, Keys(KEYS))
    picture = noise(200)

    async def run() -> list[int]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1:8000",
            headers={"Authorization": f"Bearer {key}"},
        ) as client:
            requests = [await make(client, picture) for make in (submission, upload, redemption)]
            return [(await client.send(one)).status_code for one in requests]

    codes = asyncio.run(run())

    assert codes == [503 if key == KEYS[0] else 200] * 3
    # Submissions alone are counted as refused.
    assert service.metrics.refusals._value.get() == (1 if key == KEYS[0] else 0)


# Turns end before the writing begins ------------------------------------------------------------

Prepare = Callable[[httpx.AsyncClient, bytes], Awaitable[httpx.Request]]


async def submission(client: httpx.AsyncClient, picture: bytes) -> httpx.Request:
    body = {"prompt": "a", "control_image": as_text(picture)}
    return client.build_request("POST", f"/api/v3/{HOSTED_MODEL}", json=body)


async def upload(client: httpx.AsyncClient, picture: bytes) -> httpx.Request:
    files = {"file": ("a.png", picture)}
    return client.build_request("POST", "/api/v3/media/upload/binary", files=files)


async def redemption(client: httpx.AsyncClient, picture: bytes) -> httpx.Request:
    query = {"filename": "a.png", "size": len(picture)}
    promised = await client.post("/api/v3/media/uploads", json=query)
    address = promised.json()["data"]["upload"]["url"]
    return client.build_request("PUT", address, content=picture)


class Watched(Judging):
    """Judges, a moment longer than it takes; counts how many it judges at a time."""

    now = most = count = 0
    _changing = threading.Lock()

    def picture(self, data: bytes, *, field: str = "file") -> Judged:
        with self._changing:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        try:
            return super().picture(data, field=field)
        finally:
            with self._changing:
                self.now -= 1
                self.count += 1


@pytest.fixture
def watched(database: Database, media: Media, tmp_path: Path) -> Service:
    """A service that watches what is judged."""
    settings = ServerSettings(data_dir=tmp_path)
    service = Service(settings, EngineSettings(), database, media, Board(), Metrics())
    service.judging = Watched(
        settings, EngineSettings(), service.limits, media, service.predictions
    )
    return service


def asking(service: Service) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(service, Keys([])))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=30)


@pytest.mark.parametrize("prepare", [submission, upload, redemption])
def test_large_bodies_are_judged_a_few_at_a_time_and_none_waits_for_the_store_with_its_turn(
    watched: Service, tmp_path: Path, prepare: Prepare
) -> None:
    picture, count = noise(700), MOST_LARGE + 3
    judging = watched.judging
    assert isinstance(judging, Watched)
    assert len(picture) > LARGE_BYTES

    async def run() -> list[int]:
        async with asking(watched) as client:
            requests = [await prepare(client, picture) for _ in range(count)]
            other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                going_on = [asyncio.create_task(client.send(one)) for one in requests]
                # Well before the store would be given up.
                async with asyncio.timeout(15):
                    while judging.count < count:
                        await asyncio.sleep(0.02)
            finally:
                other.close()
            return [(await one).status_code for one in going_on]

    codes = asyncio.run(run())

    assert codes == [200] * count
    assert judging.most == MOST_LARGE
