"""Attack 16: secrets in logs, answers, counters and the store, whatever is made to fail."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from depthflux.logs import log_to_standard_error
from depthflux.server.keys import Keys
from depthflux.server.settings import ServerSettings
from depthflux.server.webhooks import Post
from stand_in.running import PICTURE, SUBMIT, StandInServer

KEY, WRONG = "the-right-key-0123456789", "the-wrong-key-0123456789"
PASSWORD, QUERY, WORD = "a-password-of-urls", "a-signature-of-urls", "a-word-in-a-path"
SECRETS = (KEY, WRONG, PASSWORD, QUERY)
#: Nobody listens there.
DEAD = "http://127.0.0.1:9"
#: What is kept because it is still needed: the picture is fetched, the webhook told, later.
KEPT = {("predictions", name) for name in ("control_url", "webhook_url", "request")}
#: What no client has any business with.
INSIDE = (
    "Traceback",
    'File "',
    ".py",
    "sqlalchemy",
    "sqlite",
    "site-packages",
    "KeyError",
    "RuntimeError",
    "a secret detail",
    "RAISE",
    "predictions (",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server of its own: some attacks break its store for a while."""
    folder = tmp_path_factory.mktemp("secrets") / "data"
    engine = {"allow_private_addresses": "true"}
    with StandInServer(folder, keys=(KEY,), engine=engine, sync_timeout_s=20) as server:
        yield server


def post(server: StandInServer, **fields: Any) -> httpx.Response:
    body = {"prompt": "paint", "control_image": PICTURE, "size": "512*512", "seed": 1}
    return server.client.post(SUBMIT, json=body | fields)


def leaks(text: str, words: tuple[str, ...] = SECRETS) -> list[str]:
    return [word for word in words if word in text]


def stored(server: StandInServer) -> list[tuple[str, str, str]]:
    """Every text of the store: its table, its column, itself."""
    found = []
    with sqlite3.connect(f"file:{server.data_dir}/depthflux.sqlite3?mode=ro", uri=True) as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master")]
        for table in tables:
            if not store.execute(f"PRAGMA table_info('{table}')").fetchall():
                continue
            cursor = store.execute(f"SELECT * FROM '{table}'")  # noqa: S608 - its own tables
            names = [column[0] for column in cursor.description]
            found += [
                (table, name, value)
                for row in cursor
                for name, value in zip(names, row, strict=True)
                if isinstance(value, str)
            ]
    store.close()
    return found


@pytest.mark.parametrize("word", ["bug", "memory", "flagged", "quote inner words"])
def test_what_fails_inside_tells_a_client_a_word_and_nothing_else(
    word: str, running: StandInServer
) -> None:
    over = post(running, prompt=word, enable_sync_mode=True)

    assert leaks(over.text, (*SECRETS, *INSIDE)) == []
    if word == "bug":
        found = over.json()["data"]["error"].rpartition("names error ")[2].rstrip(".")
        assert len(found) == 8
        assert f"error {found} in prediction" in running.log.read_text()
        assert "a secret detail of the inside" in running.log.read_text()


def test_a_worker_that_crashes_tells_no_more(running: StandInServer, tmp_path: Path) -> None:
    over = post(running, prompt=f"crash-once {tmp_path / 'once'}", enable_sync_mode=True)
    running.until(lambda: running.client.get("/readyz").status_code == 200 or None)

    assert leaks(over.text, INSIDE) == []


ADDRESSES = {
    "unreachable": f"{DEAD}/{WORD}.png?X-Amz-Signature={QUERY}",
    "a-password": f"http://me:{PASSWORD}@127.0.0.1:9/x.png?{QUERY}",
    "a-password-with-a-space": f"http://me:{PASSWORD} @127.0.0.1:9/x.png",
    "a-password-without-a-host": f"https://me:{PASSWORD}@",
    "another-scheme": f"ftp://me:{PASSWORD}@127.0.0.1/x.png?{QUERY}",
    "no-scheme": f"//me:{PASSWORD}@127.0.0.1/x.png?{QUERY}",
    "a-port-that-is-none": f"http://me:{PASSWORD}@127.0.0.1:port/x.png",
    "a-backslash": f"http://127.0.0.1\\@me:{PASSWORD}@127.0.0.1/x.png",
    "a-fragment": f"{DEAD}/x.png#{QUERY}",
}
FIELDS = pytest.mark.parametrize("field", ["control_image", "webhook_url", "loras"])


@FIELDS
@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_is_named_without_what_is_secret_in_it(
    field: str, address: str, running: StandInServer
) -> None:
    value = [{"path": address}] if field == "loras" else address

    answer = post(running, **{field: value}, enable_sync_mode=True)

    data = answer.json().get("data") or {}
    said = answer.json()["message"] + str(data.get("error", ""))
    assert leaks(said) == []


def test_a_webhook_in_the_query_that_is_refused_is_not_repeated(running: StandInServer) -> None:
    url = f"https://me:{PASSWORD}@example.org/x?{QUERY}"

    answer = running.client.post(SUBMIT, params={"webhook": url}, json={"prompt": "x"})

    assert answer.status_code == 400
    assert leaks(answer.text) == []


@pytest.mark.parametrize(
    "header",
    [f"Bearer {WRONG}", WRONG, f"Basic {WRONG}", f"Bearer {KEY} {WRONG}"],
    ids=["wrong", "bare", "basic", "two"],
)
def test_a_key_that_is_refused_is_not_repeated(header: str, running: StandInServer) -> None:
    answer = httpx.get(
        f"{running.address}/api/v3/predictions", headers={"Authorization": header.encode()}
    )

    assert answer.status_code in (400, 401)
    assert leaks(answer.text + str(answer.headers)) == []


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        (
            "a-rule-of-the-store",
            "CREATE TRIGGER broken BEFORE INSERT ON predictions BEGIN "
            "SELECT RAISE(ABORT, 'an inner detail'); END",
        ),
        ("a-missing-table", "ALTER TABLE idempotency RENAME TO hidden"),
    ],
)
def test_a_store_that_refuses_logs_and_tells_no_request(
    kind: str, statement: str, running: StandInServer
) -> None:
    """SQLAlchemy's errors have the row that was to be written in their text, if they may."""
    undo = {
        "a-rule-of-the-store": "DROP TRIGGER broken",
        "a-missing-table": "ALTER TABLE hidden RENAME TO idempotency",
    }
    private = "a-prompt-for-nobody-else"
    _execute(running, statement)
    try:
        answer = running.client.post(
            SUBMIT,
            headers={"Idempotency-Key": kind},
            json={
                "prompt": private,
                "control_image": f"{DEAD}/x.png?{QUERY}",
                "webhook_url": f"{DEAD}/x?{QUERY}",
            },
        )
    finally:
        _execute(running, undo[kind])

    assert answer.status_code in (500, 503)
    assert leaks(answer.text, (*SECRETS, *INSIDE, "inner detail")) == []
    assert leaks(running.log.read_text(), (*SECRETS, private)) == []


def test_after_all_of_it_no_secret_is_in_the_log_the_counters_or_the_store(
    running: StandInServer,
) -> None:
    address = f"{DEAD}/{WORD}?token={QUERY}"
    done = post(running, control_image=address, webhook_url=address).json()["data"]
    running.wait(done["id"])
    told = f"webhook of {done['id']} to 127.0.0.1:9"
    running.until(lambda: told in running.log.read_text() or None)

    assert leaks(running.log.read_text(), (*SECRETS, WORD)) == []
    assert leaks(running.client.get("/metrics").text, (*SECRETS, WORD, "127.0.0.1")) == []
    texts = stored(running)
    assert [text for table, name, text in texts if (table, name) in KEPT and QUERY in text]
    assert [
        (table, name, text)
        for table, name, text in texts
        if (table, name) not in KEPT and leaks(text)
    ] == []


def test_what_is_kept_is_for_the_servers_user_alone(running: StandInServer) -> None:
    assert running.data_dir.stat().st_mode & 0o077 == 0


def test_a_list_of_predictions_does_not_repeat_webhooks(running: StandInServer) -> None:
    done = post(running, webhook_url=f"{DEAD}/{WORD}?token={QUERY}").json()["data"]
    running.wait(done["id"])

    for path in (f"/api/v3/predictions/{done['id']}", "/api/v3/predictions?page_size=100"):
        items = running.client.get(path).json()["data"].get("items", [])
        mine = [one for one in items if one["id"] == done["id"]]
        assert leaks(str(mine), (QUERY, WORD)) == []


def test_no_object_that_holds_a_secret_prints_it() -> None:
    keys, settings = Keys([KEY]), ServerSettings(api_keys_file=Path("keys.txt"))

    assert leaks(f"{keys!r} {keys} {vars(keys)} {settings!r}") == []
    assert not [name for name in ServerSettings.model_fields if name in ("keys", "api_keys")]
    assert "secret" not in repr(Post.__dataclass_fields__.keys())


def test_the_commands_own_log_has_the_traceback_that_an_error_word_leads_to() -> None:
    """A word that leads nowhere would tempt into telling clients more."""
    runner = CliRunner()
    with runner.isolation() as (_, standard_error, _), log_to_standard_error(logging.INFO):
        try:
            raise RuntimeError("the inner detail\nerror: forged \x1b[2J")
        except RuntimeError as error:
            logging.getLogger("depthflux").error("error 12345678 in \x1b[2J", exc_info=error)
        shown = standard_error.getvalue().decode()

    first, *further = shown.splitlines()
    assert first == r"error: error 12345678 in \x1b[2J"
    assert any("the inner detail" in line for line in further)
    assert [line for line in further if not line.startswith("  | ")] == []
    assert [line for line in further if not line.isprintable()] == []


def _execute(server: StandInServer, statement: str) -> None:
    with sqlite3.connect(server.data_dir / "depthflux.sqlite3", timeout=30) as store:
        store.execute(statement)
    store.close()


@pytest.mark.parametrize(
    "path", ["no-such-lora", "../x", "/etc/passwd", "https://host.example/x.safetensors"]
)
def test_a_refused_lora_does_not_tell_where_the_loras_lie(
    running: StandInServer, path: str
) -> None:
    response = post(running, loras=[{"path": path, "scale": 1.0}])

    assert response.status_code == 400
    assert "loras_dir" in response.json()["message"]
    assert "depthflux/loras" not in response.text
    assert str(Path.home()) not in response.text
