"""Room on the disk that is kept for what was accepted."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from depthflux.contract import HOSTED_MODEL
from depthflux.server import disk
from depthflux.server.app import make_app
from depthflux.server.board import Board
from depthflux.server.database import Database
from depthflux.server.disk import require_room
from depthflux.server.errors import StoreError
from depthflux.server.keys import Keys
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.service import Service
from depthflux.server.settings import ServerSettings
from depthflux.settings import EngineSettings


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.fixture
def whole_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as is asked for is kept, however small the disk is."""
    monkeypatch.setattr(disk, "_PART", 1)


def test_with_room_enough_everything_is_taken(tmp_path: Path) -> None:
    require_room(tmp_path)
    require_room(tmp_path, 32 * 2**20)


@pytest.mark.usefixtures("whole_disk")
def test_pictures_are_refused_before_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "KEPT_FROM_PICTURES_BYTES", free(tmp_path))

    with pytest.raises(StoreError, match=r"pictures are taken just now: .* kept") as caught:
        require_room(tmp_path, 2**30)
    require_room(tmp_path)

    assert caught.value.http_status == 503
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.usefixtures("whole_disk")
def test_a_picture_counts_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "KEPT_FROM_PICTURES_BYTES", free(tmp_path) // 2)

    require_room(tmp_path, 1)
    with pytest.raises(StoreError):
        require_room(tmp_path, free(tmp_path) // 2 + 2**30)


@pytest.mark.usefixtures("whole_disk")
def test_at_the_last_nothing_new_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "KEPT_BYTES", free(tmp_path) + 2**30)

    with pytest.raises(StoreError, match="nothing new is taken just now"):
        require_room(tmp_path)


def test_of_a_small_disk_only_a_part_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "KEPT_BYTES", 2**60)
    monkeypatch.setattr(disk, "_PART", 10_000)

    require_room(tmp_path)


# What a server refuses then ---------------------------------------------------------------------

BODY = {"prompt": "a", "control_image": "https://pictures.example/a.png", "size": "512*512"}


def ask(service: Service, path: str, **request: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(service, Keys([])))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8000"
        ) as client:
            return await client.post(f"/api/v3/{path}", **request)

    return asyncio.run(run())


@pytest.fixture
def service(database: Database, media: Media, tmp_path: Path) -> Service:
    settings = ServerSettings(data_dir=tmp_path)
    return Service(settings, EngineSettings(), database, media, Board(), Metrics())


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.usefixtures("whole_disk")
def test_on_a_disk_that_uploads_have_filled_accepted_predictions_still_get_their_pictures(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "KEPT_FROM_PICTURES_BYTES", free(tmp_path) + 2**30)
    inline = {**BODY, "control_image": base64.b64encode(picture()).decode()}

    refused = [
        ask(service, "media/upload/binary", files={"file": ("a.png", picture())}),
        ask(service, "media/uploads", json={"filename": "a.png", "size": 9}),
        ask(service, HOSTED_MODEL, json=inline),
    ]
    taken = ask(service, HOSTED_MODEL, json=BODY)
    service.media.write_output("a" * 32 + "-0.png", picture())

    for response in refused:
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert "pictures are taken just now" in response.json()["message"]
    assert taken.status_code == 200
    assert service.predictions.counts() == {"created": 1}
    assert service.uploads.file_names() == set()
    assert list(service.media.uploads.iterdir()) == []


@pytest.mark.usefixtures("whole_disk")
def test_on_a_full_disk_nothing_new_is_taken_and_a_repeat_is_answered(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = {"Idempotency-Key": "once"}
    first = ask(service, HOSTED_MODEL, json=BODY, headers=once)
    monkeypatch.setattr(disk, "KEPT_BYTES", free(tmp_path) + 2**30)

    refused = ask(service, HOSTED_MODEL, json=BODY)
    again = ask(service, HOSTED_MODEL, json=BODY, headers=once)

    assert refused.status_code == 503
    assert again.json()["data"]["id"] == first.json()["data"]["id"]
    assert service.predictions.counts() == {"created": 1}
