"""A stored prediction as clients see it, above all the strictest of the old ones."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict
from store_fixtures import Store

from depthflux.server.answers import (
    envelope,
    file_url,
    given_input,
    origin_of,
    rfc3339,
    served,
    still_running,
)
from depthflux.server.database import Database
from depthflux.server.documents import ServedPrediction
from depthflux.server.jobs import Done
from depthflux.server.media import Media
from depthflux.server.rows import Stored, output_names

BASE = "http://127.0.0.1:8000/api/v2"


class Urls(BaseModel):
    get: str


class OldPrediction(BaseModel):
    """What version 0.0.5 of the hosted service's Python client demands of `data`.

    Strict, so that nothing is turned into something else on the way; the time aside, which comes
    as a text.
    """

    model_config = ConfigDict(strict=True)

    id: str
    model: str
    outputs: list[str]
    urls: Urls
    has_nsfw_contents: list[bool]
    status: Literal["created", "processing", "completed", "failed"]
    created_at: str
    error: str
    executionTime: int  # noqa: N815 - hosted name


@pytest.fixture
def one_store(database: Database) -> Store:
    return Store(database)


def complete(store: Store, media: Media, **changes: Any) -> Stored:
    """A completed prediction whose pictures lie where they should."""
    one = store.running(**changes)
    names = output_names(one)
    for name in names:
        media.write_output(name, f"the bytes of {name}".encode())
    done = Done(
        model="depthflux/demo",
        outputs=names,
        flags=[False] * len(names),
        timings={"inference": 1234, "decode": 7},
    )
    assert store.jobs.complete(one.id, "worker", done)
    return store.read(one.id)


def show(one: Stored, media: Media, **options: Any) -> ServedPrediction:
    return served(one, base=BASE, media=media, model="", **options)


def in_state(store: Store, media: Media, state: str) -> Stored:
    if state == "completed":
        return complete(store, media, num_images=2)
    if state == "waits again":
        store.running()
        store.jobs.release("worker", most_attempts=3)
        return store.predictions.page("", page=1, size=1).items[0]
    return {"created": store.submit, "processing": store.running, "failed": store.failed}[state]()


STATES = ["created", "processing", "waits again", "completed", "failed"]


@pytest.mark.parametrize("with_input", [False, True], ids=["without input", "with input"])
@pytest.mark.parametrize("state", STATES)
def test_in_every_state_the_strictest_old_client_takes_the_document(
    one_store: Store, media: Media, state: str, with_input: bool
) -> None:
    one = in_state(one_store, media, state)

    document = envelope(show(one, media, progress=(1, 28), with_input=with_input))

    assert (document["code"], document["message"]) == (200, "success")
    old = OldPrediction.model_validate(document["data"])
    assert re.fullmatch(r"[0-9a-f]{32}", old.id)
    assert datetime.fromisoformat(old.created_at).tzinfo is not None
    assert old.created_at.endswith("Z")
    assert old.urls.get == f"{BASE}/predictions/{one.id}/result"


@pytest.mark.parametrize("state", STATES)
def test_nothing_in_a_document_is_null(one_store: Store, media: Media, state: str) -> None:
    one = in_state(one_store, media, state)

    document = json.dumps(envelope(show(one, media, progress=(1, 28), with_input=True)))

    assert "null" not in document


def test_one_that_waits_has_empty_lists_and_noughts(one_store: Store, media: Media) -> None:
    data = envelope(show(one_store.submit(), media))["data"]

    assert set(data) == {
        *("id", "model", "outputs", "urls", "has_nsfw_contents"),
        *("status", "created_at", "error", "executionTime", "timings"),
    }
    assert (data["outputs"], data["has_nsfw_contents"], data["error"]) == ([], [], "")
    assert (data["executionTime"], data["timings"]) == (0, {"inference": 0})
    assert data["model"] == "wavespeed-ai/flux-control-lora-depth"


def test_one_that_is_completed_has_its_pictures_addresses_and_times(
    one_store: Store, media: Media
) -> None:
    one = complete(one_store, media, num_images=2, output_format="jpeg")

    data = envelope(show(one, media))["data"]

    assert data["outputs"] == [
        f"http://127.0.0.1:8000/media/{one.secret}-0.jpeg",
        f"http://127.0.0.1:8000/media/{one.secret}-1.jpeg",
    ]
    assert (data["executionTime"], data["timings"]) == (1234, {"inference": 1234, "decode": 7})
    assert data["has_nsfw_contents"] == [False, False]
    assert data["model"] == "depthflux/demo"
    assert "code" not in data


def test_one_that_failed_says_why_and_with_which_code(one_store: Store, media: Media) -> None:
    data = envelope(show(one_store.failed(), media))["data"]

    assert (data["status"], data["error"], data["code"]) == ("failed", "it went wrong", 1403)


def test_the_loaded_model_is_named_until_another_one_has_computed_it(
    one_store: Store, media: Media
) -> None:
    waiting = served(one_store.submit(), base=BASE, media=media, model="depthflux/loaded")
    one_store.jobs.claim("worker")
    one_store.jobs.release("worker", most_attempts=1)
    done = served(complete(one_store, media), base=BASE, media=media, model="depthflux/loaded")

    assert (waiting.model, done.model) == ("depthflux/loaded", "depthflux/demo")


def test_pictures_as_base64_are_naked_and_whole(one_store: Store, media: Media) -> None:
    one = complete(one_store, media, num_images=2, enable_base64_output=True)

    outputs = show(one, media).outputs

    assert [base64.b64decode(text, validate=True).decode() for text in outputs] == [
        f"the bytes of {name}" for name in output_names(one)
    ]


def test_pictures_as_base64_that_are_gone_are_said_to_be(one_store: Store, media: Media) -> None:
    one = complete(one_store, media, enable_base64_output=True)
    media.remove_outputs(one.outputs)

    with pytest.raises(FileNotFoundError):
        show(one, media)

    assert one_store.read(one.id) == one


def test_progress_is_shown_where_it_is_asked_for(one_store: Store, media: Media) -> None:
    one = one_store.running()

    shown = envelope(show(one, media, progress=(7, 28)))["data"]

    assert shown["progress"] == {"step": 7, "total": 28}
    assert "progress" not in envelope(show(one, media))["data"]


# What was asked for -----------------------------------------------------------------------------


def test_the_input_is_the_request_with_its_seed_and_without_its_webhook(
    one_store: Store, media: Media
) -> None:
    one = one_store.submit(
        num_images=2, webhook_url="https://receiver.example/?token=secret", control_scale=0.5
    )

    given = given_input(one, BASE)

    assert given["control_image"] == "https://pictures.example/a.png"
    assert (given["num_images"], given["seed"], given["control_scale"]) == (2, 1, 0.5)
    assert given["prompt"] == "a room"
    assert "webhook_url" not in given
    assert "secret" not in json.dumps(envelope(show(one, media, with_input=True)))


def test_a_picture_that_is_here_has_its_address_in_the_input(one_store: Store) -> None:
    name = "u" * 32 + ".png"
    one = one_store.submit(control_file=name, control_url="")

    assert given_input(one, BASE)["control_image"] == f"http://127.0.0.1:8000/media/{name}"


def test_nothing_that_only_the_server_knows_is_in_a_document(
    one_store: Store, media: Media
) -> None:
    one = one_store.running("the-owner", lease="the-lease")

    document = json.dumps(envelope(show(one, media, with_input=True)))

    for word in ("the-owner", "the-lease", one.secret, "attempts"):
        assert word not in document


# Sync mode --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited_s", "said"),
    [(90.0, "90"), (0.5, "0.5"), (3600.0, "3600")],
)
def test_waiting_that_was_too_short_is_said_in_the_words_that_clients_look_for(
    one_store: Store, media: Media, waited_s: float, said: str
) -> None:
    shown = still_running(show(one_store.submit(), media), waited_s)

    data = envelope(shown)["data"]
    assert (data["status"], data["code"]) == ("processing", 5004)
    assert data["error"] == (
        f"Sync mode timed out after {said} seconds. "
        "The prediction is still processing asynchronously."
    )
    assert data["urls"]["get"].startswith(BASE)
    OldPrediction.model_validate(data)


# Addresses and times ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "origin"),
    [
        ("http://127.0.0.1:8000/api/v3", "http://127.0.0.1:8000"),
        ("https://pictures.example.org/api/v2", "https://pictures.example.org"),
        ("http://[::1]:80/api/v3", "http://[::1]:80"),
    ],
)
def test_pictures_have_the_origin_that_the_client_used(base: str, origin: str) -> None:
    assert origin_of(base) == origin
    assert file_url(base, "a.png") == f"{origin}/media/a.png"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000_999, "2023-11-14T22:13:20.999Z"),
        (1_700_000_000_000, "2023-11-14T22:13:20.000Z"),
    ],
)
def test_times_are_said_to_the_millisecond_in_utc(milliseconds: int, text: str) -> None:
    assert rfc3339(milliseconds) == text
    moment = datetime.fromisoformat(text)
    assert round(1000 * moment.timestamp()) == milliseconds
    assert moment.tzinfo == UTC
