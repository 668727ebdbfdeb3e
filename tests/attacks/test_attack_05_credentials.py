"""Attack 5: having credentials sent on. What the server knows goes nowhere that a request names."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hub_server import running_hub

from depthflux.model.catalogue import Entry, WantedFile
from depthflux.model.download import pull
from stand_in.running import StandInServer

KEY = "a-key-of-these-tests-0123456789"
TOKEN = "hf_a-token-of-these-tests"
SECRETS = (KEY, TOKEN, "netrc-password", "proxy-password")
GATED = Entry(
    name="gated",
    title="weights behind a gate",
    repository="someone/gated",
    folder="Gated",
    files=(WantedFile("model.safetensors"),),
    licence="A Licence",
    commercial=False,
    gated=True,
)


class Listener:
    """Answers on 127.0.0.1 and remembers what was asked.

    Attributes:
        url: where it listens.
        asked: method, path and headers of every request.
        location: where requests are sent on to; empty for a picture.
    """

    def __init__(self, location: str = "", host: str = "127.0.0.1") -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.location = location
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                listener.asked.append((self.command, self.path, headers))
                self.rfile.read(int(headers.get("content-length", 0)))
                self.send_response(307 if listener.location else 200)
                self.send_header("Set-Cookie", "session=stolen; Path=/")
                self.send_header("WWW-Authenticate", 'Basic realm="give me"')
                if listener.location:
                    self.send_header("Location", listener.location)
                body = b"" if listener.location else PICTURE
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_CONNECT = do_GET  # noqa: N815 - the server's own names for them

            def log_message(self, *_: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


PICTURE = Path("examples/one-object.png").read_bytes()


@pytest.fixture(scope="module")
def listeners() -> Iterator[tuple[Listener, Listener, Listener]]:
    """One that sends on, the one behind it under another name, and a proxy."""
    last, proxy = Listener(host="localhost"), Listener()
    first = Listener(location=f"{last.url}/last")
    yield first, last, proxy
    for listener in (first, last, proxy):
        listener.close()


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, listeners: tuple[Listener, Listener, Listener]
) -> Iterator[StandInServer]:
    """A server whose environment holds every credential that HTTP libraries look for."""
    folder = tmp_path_factory.mktemp("credentials")
    netrc = folder / "netrc"
    netrc.write_text("default login me password netrc-password\n")
    netrc.chmod(0o600)
    proxy = listeners[2].url.replace("http://", "http://me:proxy-password@")
    server = StandInServer(folder / "data", engine={"allow_private_addresses": "true"})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, proxy)
            patch.setenv(name.lower(), proxy)
        patch.delenv("NO_PROXY", raising=False)
        patch.delenv("no_proxy", raising=False)
        patch.setenv("NETRC", str(netrc))
        patch.setenv("DEPTHFLUX_API_KEYS", KEY)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        server.start(ready=False)
    server.client.close()
    server.client = httpx.Client(
        base_url=server.address,
        timeout=120,
        trust_env=False,
        headers={"Authorization": f"Bearer {KEY}", "Cookie": f"me={KEY}"},
    )
    server.until(lambda: server.client.get("/readyz").status_code == 200 or None)
    yield server
    server.client.close()
    server.kill()


@pytest.fixture
def told(
    running: StandInServer, listeners: tuple[Listener, Listener, Listener]
) -> tuple[Listener, Listener, Listener]:
    """The listeners, after a prediction whose picture and webhook lie behind one that sends on."""
    first, last, proxy = listeners
    first.asked.clear()
    last.asked.clear()
    done = running.submit(control_image=f"{first.url}/picture", webhook_url=f"{first.url}/webhook")
    running.wait(done["id"])
    # What became of it is in the log; where it was sent elsewhere, that one knows.
    elsewhere = (last, proxy)
    running.until(
        lambda: (
            f"webhook of {done['id']}" in running.log.read_text()
            or any(method == "POST" for one in elsewhere for method, _, _ in one.asked)
            or None
        )
    )
    return first, last, proxy


def test_fetching_and_telling_carry_no_credential(
    told: tuple[Listener, Listener, Listener],
) -> None:
    first, last, proxy = told

    assert {method for method, _, _ in first.asked} == {"GET", "POST"}
    for _, path, headers in [*first.asked, *last.asked, *proxy.asked]:
        assert not {"authorization", "proxy-authorization", "cookie", "referer"} & headers.keys()
        assert not [secret for secret in SECRETS if secret in f"{path} {headers}"]


def test_a_redirect_of_a_webhook_is_not_followed(
    told: tuple[Listener, Listener, Listener],
) -> None:
    """The picture's is, to the same place: the webhook's body is signed for its receiver alone."""
    _, last, _ = told

    assert [(method, path) for method, path, _ in last.asked] == [("GET", "/last")]


def test_no_proxy_of_the_environment_is_used(told: tuple[Listener, Listener, Listener]) -> None:
    assert told[2].asked == []


def test_no_process_of_the_server_is_given_its_keys_or_tokens(running: StandInServer) -> None:
    running.wait(running.submit()["id"])
    children = descendants(running.pid)

    assert running.worker_pids()
    for pid in children:
        words = (
            Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        assert not [secret for secret in (KEY, TOKEN) if secret.encode() in words]
    worker = Path(f"/proc/{running.worker_pids()[0]}/environ").read_bytes().split(b"\0")
    assert b"HF_HUB_OFFLINE=1" in worker


def test_a_hubs_token_does_not_follow_a_redirect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to another name nor to another port of the same one."""
    content = bytes(range(256)) * 12
    for number, host in enumerate(("localhost", "127.0.0.1")):
        with running_hub(monkeypatch, tmp_path) as hub:
            hub.files_url = hub.files_url.replace("localhost", host)
            hub.add(GATED.repository, {"model.safetensors": content}, token=TOKEN)
            monkeypatch.setenv("HF_TOKEN", TOKEN)

            pull([GATED], tmp_path / str(number), on_bytes=lambda *_: None)

            given = [r.headers.get("authorization") for r in hub.requests if "gated" in r.path]
            assert set(given) == {f"Bearer {TOKEN}"}
            assert hub.elsewhere
            assert TOKEN not in json.dumps([request.headers for request in hub.elsewhere])


def test_a_key_is_given_by_the_environment_or_a_file_and_never_by_an_option() -> None:
    """A command line is for everybody on the machine to read."""
    shown = subprocess.run(
        [Path(sys.executable).with_name("depthflux"), "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    ).stdout

    options = {word for word in shown.split() if word.startswith("--") and "key" in word}
    assert options == {"--api-keys-file", "--key-requests-per-minute", "--key-max-active"}


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found
