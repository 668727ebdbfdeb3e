"""docs/http-api.md is part of the contract: what it shows runs, what it lists is what there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, get_args

import httpx
import pytest
from PIL import Image

import depthflux.errors
import depthflux.server.answers
import depthflux.server.errors
import depthflux.server.rows
import depthflux.server.worker
from depthflux.errors import DepthFluxError
from depthflux.server.documents import Readiness, ServedPrediction
from depthflux.server.settings import ServerSettings
from depthflux.server.webhooks import PAUSES_S
from stand_in.running import PICTURE, SUBMIT, StandInServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
#: What the page's examples are written for.
ADDRESS = "http://127.0.0.1:8000"
KEY = "a-key-of-these-tests"
#: Where classes and constants of the page's tables are declared.
ROOMS = (
    depthflux.errors,
    depthflux.server.errors,
    depthflux.server.worker,
    depthflux.server.rows,
    depthflux.server.answers,
)


def blocks(language: str) -> list[str]:
    return [block for name, block in BLOCKS if name == language]


def table(head: str) -> list[list[str]]:
    """The rows of the table whose head begins so, as cells without their backticks."""
    (body,) = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    return [
        [cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in body.splitlines()
    ]


def declared(name: str) -> Any:
    """The class or constant that a table names."""
    found = [vars(room)[name] for room in ROOMS if name in vars(room)]
    assert found, name
    return found[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """With one key, and free to tell receivers on this machine."""
    folder = tmp_path_factory.mktemp("page") / "data"
    options = {"allow_private_addresses": "true"}
    with StandInServer(folder, keys=(KEY,), engine=options) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: StandInServer) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


class Shell:
    """The page's shell examples, run one after the other as a reader would."""

    def __init__(self, folder: Path, server: StandInServer) -> None:
        (folder / "examples").symlink_to(ROOT / "examples")
        self.folder = folder
        marked = "".join(
            f"printf '\\n=== {number}\\n'\n{block}" for number, block in enumerate(blocks("sh"))
        )
        # The page says python3; whatever Python a reader has will do.
        (folder / "python3").symlink_to(sys.executable)
        self.run = subprocess.run(
            ["sh", "-e", "-c", marked.replace(ADDRESS, server.address)],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
                "WAVESPEED_API_KEY": KEY,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def said(self, mark: str) -> str:
        """What the one example printed in which this stands."""
        (number,) = (n for n, block in enumerate(blocks("sh")) if mark in block)
        return re.split(r"^=== \d+\n", self.run.stdout, flags=re.M)[number + 1].strip()


@pytest.fixture(scope="module")
def shell(server: StandInServer, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("reader"), server)


# What it shows ----------------------------------------------------------------------------------


def test_every_shell_example_runs(shell: Shell) -> None:
    assert shell.run.returncode == 0, shell.run.stderr
    assert sum(block.count("curl") for block in blocks("sh")) >= 15


def test_the_hosted_endpoint_s_own_example_is_accepted(shell: Shell) -> None:
    answer = json.loads(shell.said("A dreamy anime girl"))

    assert (answer["code"], answer["data"]["status"]) == (200, "created")
    assert "/api/v2/predictions/" in answer["data"]["urls"]["get"]


def test_an_uploaded_picture_comes_back_painted(shell: Shell) -> None:
    for name in ("picture.png", "inline.png"):
        with Image.open(shell.folder / name) as picture:
            assert (picture.format, picture.size) == ("PNG", (512, 512))


def test_sync_mode_answers_with_the_end(shell: Shell) -> None:
    (block,) = (block for block in blocks("sh") if "sync_mode" in block and "base64" not in block)

    answer = json.loads(shell.said(block))
    assert answer["data"]["status"] == "completed"
    assert set(answer["data"]) >= set(json.loads(blocks("json")[0])["data"])


def test_two_submissions_under_one_word_are_one_prediction(shell: Shell) -> None:
    first, second = shell.said("Idempotency-Key: order-1042").splitlines()

    assert first == second
    assert re.fullmatch("[0-9a-f]{32}", first)


def test_what_has_ended_stays_when_it_is_cancelled_and_is_gone_when_deleted(shell: Shell) -> None:
    assert json.loads(shell.said("/cancel"))["data"]["status"] == "completed"
    listed, deleted, counted = map(json.loads, _documents(shell.said('"page_size": 10')))
    assert {one["status"] for one in listed["data"]["items"]} == {"completed"}
    assert deleted["data"]["status"] == "deleted"
    assert counted["data"] == {"deleted_count": 0}


def test_health_and_counters_answer(shell: Shell) -> None:
    assert shell.said("/livez").startswith("ok\n")
    assert '"status":"ready"' in shell.said("/readyz")
    assert "depthflux_workers_ready 1.0" in shell.said("/metrics")


def test_other_names_and_other_sites_pages_are_refused(shell: Shell) -> None:
    name, page = map(json.loads, _documents(shell.said("evil.example")))

    assert (name["code"], page["code"]) == (421, 403)
    assert "allowed_hosts" in name["message"]


def _documents(text: str) -> list[str]:
    """JSON documents that were printed one behind the other."""
    return text.replace("}{", "}\n{").splitlines()


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks."""

    received: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(({name.lower(): v for name, v in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def webhook(server: StandInServer) -> Iterator[tuple[dict[str, str], bytes]]:
    """Headers and body of a webhook that the server has sent."""
    received: list[tuple[dict[str, str], bytes]] = []
    handler = type("Here", (Receiver,), {"received": received})
    host = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=host.serve_forever, args=(0.01,), daemon=True).start()
    server.submit(webhook_url=f"http://127.0.0.1:{host.server_port}/told")
    yield server.until(lambda: received[0] if received else None)
    host.shutdown()
    host.server_close()


def test_the_page_s_verification_accepts_what_the_server_sends_and_nothing_else(
    server: StandInServer, webhook: tuple[dict[str, str], bytes]
) -> None:
    (source,) = (block for block in blocks("python") if "is_genuine" in block)
    example = types.ModuleType("example")
    exec(source, vars(example))  # noqa: S102 - the page's own example
    headers, body = webhook
    secret = server.client.get("/api/v3/webhook/secret").json()["data"]["secret"]

    assert example.is_genuine(headers, body, secret)
    assert not example.is_genuine(headers, body + b" ", secret)
    assert not example.is_genuine(headers, body, "whsec_" + "0" * 64)
    old = headers | {"webhook-timestamp": str(int(time.time()) - 301)}
    assert not example.is_genuine(old, body, secret)


def test_a_webhook_has_the_headers_and_the_form_that_the_page_says(
    webhook: tuple[dict[str, str], bytes],
) -> None:
    headers, body = webhook
    told = json.loads(body)

    assert {name for name, _ in table("header | what it says")} <= set(headers)
    shown = next(one for one in map(json.loads, blocks("json")) if "input" in one)
    assert list(shown) == list(told)
    assert set(shown["input"]) < set(told["input"])


def test_the_pauses_between_a_webhook_s_attempts_are_the_declared_ones() -> None:
    units = ((3600, "h"), (60, "min"), (1, "s"))
    words = [next(f"{p / n:g} {unit}" for n, unit in units if p >= n) for p in PAUSES_S]

    assert f"again in {', '.join(words[:-1])} and {words[-1]};" in re.sub(r"\s+", " ", PAGE)


@pytest.mark.parametrize(
    "block",
    [block for block in blocks("json") if '"message"' in block],
    ids=["envelope", "refusal"],
)
def test_the_documents_that_are_shown_have_the_served_form(
    block: str, server: StandInServer
) -> None:
    shown = json.loads(block)
    if "data" in shown:
        ServedPrediction(**shown["data"])
        served = server.client.get(f"/api/v3/predictions/{server.submit()['id']}/result").json()
        assert set(shown["data"]) == set(served["data"])
    else:
        served = server.client.get("/api/v3/predictions/abc").json()
        assert shown == served


def test_the_clients_examples_are_those_that_the_tests_of_the_clients_run() -> None:
    """They need the clients from their registries; see tests/clients."""
    python = [block for block in blocks("python") if "import wavespeed" in block]
    javascript = blocks("js")

    assert len(python) == len(javascript) == 1
    assert len(python) + 1 == len(blocks("python"))


# What it lists ----------------------------------------------------------------------------------


def test_the_table_of_routes_is_the_served_one(document: dict[str, Any]) -> None:
    listed = [route.split() for route, *_ in table("route | request")]
    expanded = {
        (method, path.replace("{v}", version))
        for method, path in listed
        for version in ("v2", "v3")
    }
    served = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }

    assert expanded == served


@pytest.mark.parametrize(
    ("route", "key"),
    [(row[0], row[3]) for row in table("route | request")],
    ids=lambda value: value,
)
def test_a_route_wants_a_key_where_the_table_says_so(
    route: str, key: str, server: StandInServer
) -> None:
    method, path = route.split()
    path = re.sub(r"\{v\}", "v3", path)

    response = httpx.request(method, server.address + re.sub(r"\{\w+\}", "0", path))
    assert (response.status_code == 401) is (key == "yes")


def test_the_table_of_the_envelope_has_every_field() -> None:
    rows = [name.partition(".")[0] for name, _ in table("field | what it says")]
    fields = list(ServedPrediction.model_fields)

    assert set(fields) == set(rows)
    always = [name for name, field in ServedPrediction.model_fields.items() if field.is_required()]
    assert rows[: len(always)] == always
    assert len(always) == 10


def test_the_table_of_refusals_has_every_class_of_the_server_with_its_status() -> None:
    listed = {(int(status), name) for status, _, name in table("HTTP | when") if name != "-"}
    own = {
        name
        for name, kind in vars(depthflux.server.errors).items()
        if isinstance(kind, type)
        and issubclass(kind, DepthFluxError)
        and kind.__module__ == depthflux.server.errors.__name__
    }

    assert {(declared(name).http_status, name) for _, name in listed} == listed
    # What fails a task stands in the other table; what ends the server is said over no HTTP.
    of_tasks = {name for _, _, name in table("code | when")}
    assert own <= {name for _, name in listed} | of_tasks | {"RefusedError"}


def test_the_table_of_task_codes_has_the_declared_ones() -> None:
    rows = [(int(code), declared(name)) for code, _, name in table("code | when")]
    wanted = [thing if isinstance(thing, int) else thing.hosted_code for _, thing in rows]

    assert [code for code, _ in rows] == wanted
    assert sorted(wanted) == wanted
    assert {1200, 1402, 1403, 1405, 5000, 5003, 5004} <= set(wanted)


def test_the_table_of_settings_is_that_of_the_declarations() -> None:
    """What stands in it is compared by scripts/tables --check, which test_readme.py runs."""
    assert [name for name, *_ in table("setting | default")] == list(ServerSettings.model_fields)


def test_the_limits_that_are_named_are_the_settings_defaults() -> None:
    rows = {limit.split(",")[0]: limit for _, limit, _ in table("what | limit")}

    assert set(rows) == {"max_queued", "key_max_active", "key_requests_per_minute"}
    for name, limit in rows.items():
        default = ServerSettings.model_fields[name].default
        assert f"{name}, {default or 'none'}" in limit


def test_the_table_of_readiness_has_every_state() -> None:
    states = [state for state, *_ in table("`status` of `/readyz`")]

    assert states == list(get_args(Readiness.model_fields["status"].annotation))


def test_the_table_of_counters_is_the_served_one(server: StandInServer) -> None:
    said = httpx.get(f"{server.address}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    served = set(re.findall(r"^# TYPE (\w+) (\w+)$", said, flags=re.M))
    # When a counter began; the client library's own addition.
    served = {(name, kind) for name, kind in served if not name.endswith("_created")}

    assert {(name, kind) for name, kind, *_ in table("name | type")} == served
    for name, kind, labels, _ in table("name | type"):
        shown = re.search(rf"^{name}(?:_count)?(?:{{(.*?)}})? ", said, flags=re.M)
        if shown is not None and kind != "histogram":
            found = set(re.findall(r"(\w+)=\"", shown[1] or ""))
            assert found == set(re.findall(r"\w+", labels))


def test_files_that_it_sends_readers_to_are_there() -> None:
    found = re.findall(r"[\w/]+(?:\.py|/)(?=`)", PAGE.split("## Where to look")[1])

    assert len(found) > 20
    for file in found:
        assert (ROOT / "src" / "depthflux" / file).exists() or (ROOT / file).exists(), file


def test_every_heading_that_the_contents_name_is_there() -> None:
    named = set(re.findall(r"\]\(#([\w-]+)\)", PAGE))
    there = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", PAGE, flags=re.M)
    }

    assert named <= there
    assert there <= named


def test_a_picture_needs_no_key_and_a_prediction_does(server: StandInServer) -> None:
    done = server.wait(server.submit()["id"])

    assert httpx.get(done["outputs"][0]).status_code == 200
    assert httpx.get(done["urls"]["get"]).status_code == 401
    assert httpx.post(server.address + SUBMIT, json={"prompt": PICTURE}).status_code == 401
