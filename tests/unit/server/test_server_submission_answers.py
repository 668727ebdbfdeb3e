"""Whatever becomes of its answer, an accepted submission is told its id."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import httpx
import pytest
from store_fixtures import DONE

from depthflux.contract import HOSTED_MODEL
from depthflux.server.app import make_app
from depthflux.server.board import Board
from depthflux.server.bodies import Bodies, Body
from depthflux.server.database import Database
from depthflux.server.errors import StoreError
from depthflux.server.jobs import Jobs
from depthflux.server.keys import Keys
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.rows import Stored, output_names
from depthflux.server.service import Service
from depthflux.server.settings import ServerSettings
from depthflux.settings import EngineSettings
from stand_in.running import PICTURE

SYNC = {
    "prompt": "a",
    "control_image": PICTURE,
    "enable_sync_mode": True,
    "enable_base64_output": True,
}


def service_in(folder: Path, database: Database, media: Media, board: Board) -> Service:
    settings = ServerSettings(data_dir=folder, sync_timeout_s=60)
    return Service(settings, EngineSettings(), database, media, board, Metrics())


def asking(service: Service) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(service, Keys([])), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=30)


async def paint(service: Service, database: Database) -> Stored:
    """What a worker does, with pictures of a hundred kilobytes."""
    async with asyncio.timeout(10):
        while (one := Jobs(database).claim("worker")) is None:
            await asyncio.sleep(0.02)
    for name in output_names(one):
        service.media.write_output(name, bytes(100_000))
    done = dataclasses.replace(DONE, outputs=output_names(one))
    assert Jobs(database).complete(one.id, "worker", done)
    service.board.note_end(one.id)
    return one


def test_where_there_is_no_room_for_the_pictures_a_sync_submission_is_told_to_poll(
    monkeypatch: pytest.MonkeyPatch, database: Database, media: Media, tmp_path: Path
) -> None:
    bodies = Bodies(most=1_000_000)
    monkeypatch.setattr("depthflux.server.app.Bodies", lambda **_: bodies)
    service = service_in(tmp_path, database, media, Board())
    others = Body(bodies)
    others.add(990_000)

    async def run() -> tuple[Stored, httpx.Response, httpx.Response, httpx.Response]:
        async with asking(service) as client:
            waiting = asyncio.create_task(client.post(f"/api/v3/{HOSTED_MODEL}", json=SYNC))
            one = await paint(service, database)
            told = await waiting
            assert told.status_code == 200, told.text
            polled = await client.get(told.json()["data"]["urls"]["get"])
            others.give_back()
            return one, told, polled, await client.get(told.json()["data"]["urls"]["get"])

    one, told, polled, later = asyncio.run(run())

    data = told.json()["data"]
    assert told.status_code == 200
    assert (data["id"], data["status"], data["code"]) == (one.id, "processing", 5004)
    assert (data["outputs"], data["has_nsfw_contents"]) == ([], [])
    assert data["error"].startswith("Sync mode timed out after ")
    assert polled.status_code == 503
    assert len(later.json()["data"]["outputs"][0]) > 100_000
    # Nothing that was submitted was refused.
    assert service.metrics.refusals._value.get() == 0


def test_who_finds_no_seat_is_counted(database: Database, media: Media, tmp_path: Path) -> None:
    service = service_in(tmp_path, database, media, Board(most_waiting=0))

    async def run() -> httpx.Response:
        async with asking(service) as client:
            return await client.post(f"/api/v3/{HOSTED_MODEL}", json=SYNC)

    answer = asyncio.run(run())

    assert answer.json()["data"]["code"] == 5004
    counted = service.render_metrics().decode()
    assert "\ndepthflux_sync_waits_refused_total 1.0\n" in counted


def test_where_the_disk_refuses_its_answer_comes_when_the_waiting_has_ended(
    monkeypatch: pytest.MonkeyPatch, database: Database, media: Media, tmp_path: Path
) -> None:
    board = Board()
    service = service_in(tmp_path, database, media, board)
    has_ended = False

    async def wait(id: str, timeout_s: float) -> None:
        """Takes a moment to end, and fails then."""
        nonlocal has_ended
        try:
            await asyncio.sleep(timeout_s)
        finally:
            await asyncio.sleep(0.2)
            has_ended = True
            raise KeyError(id)

    def keep(one: Stored) -> None:
        # By then it is waited.
        time.sleep(0.2)
        raise StoreError("the disk refuses.")

    monkeypatch.setattr(board, "wait", wait)
    monkeypatch.setattr(service.intake, "keep", keep)

    async def run() -> tuple[int, bool]:
        async with asking(service) as client:
            answer = await client.post(f"/api/v3/{HOSTED_MODEL}", json=SYNC)
            return answer.status_code, has_ended

    assert asyncio.run(run()) == (503, True)
