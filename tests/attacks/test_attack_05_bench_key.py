"""Attack 5, the benchmark's client: the hosted API's key goes to the base address and nowhere else.

The side that is asked answers with what has made clients send their credentials on: redirects,
addresses of its own choice for states, uploads and pictures, ids that are paths, cookies, a
question for a password. Beside it the environment names proxies and a netrc.
"""

from __future__ import annotations

import html
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image
from scripted_server import Asked, Reply, ScriptedServer

from depthflux.bench.hosted.client import Exchange, HostedClient
from depthflux.bench.hosted.errors import HostedError, UnreachableError
from depthflux.bench.hosted.surroundings import Surroundings
from depthflux.errors import DepthFluxError, SettingsError

KEY = "a-key-of-these-tests-0123456789"
ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"
FIELDS = {"prompt": "a winter garden", "control_image": "https://cdn.example/a.png"}
TEMPTING = {
    "Set-Cookie": "session=stolen; Path=/",
    "WWW-Authenticate": 'Basic realm="give me"',
}
OURS = {
    ("POST", "/api/v3/wavespeed-ai/flux-control-lora-depth"),
    ("GET", f"/api/v3/predictions/{ID}/result"),
    ("POST", "/api/v3/media/uploads"),
}


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, "PNG")
    return buffer.getvalue()


class Tempter:
    """The side that is asked, on one port, and the places that it would have the key sent to.

    Attributes:
        side: asked by the client.
        thief: another port of this machine, named by every answer.
        proxy: named by the environment.
        exchanges: what the client told of its requests.
    """

    def __init__(self, stack: ExitStack, name_proxy: Callable[[str], None]) -> None:
        self.thief = stack.enter_context(ScriptedServer(Reply(png(), headers=TEMPTING)))
        self.proxy = stack.enter_context(ScriptedServer(Reply(status=407, headers=TEMPTING)))
        name_proxy(self.proxy.url)
        self.side = stack.enter_context(ScriptedServer(self.answer))
        self.exchanges: list[Exchange] = []
        self.redirects_by = 0
        self.id = ID
        self.client = HostedClient(
            self.side.url,
            KEY,
            version="v3",
            allow_private=True,
            on_exchange=self.exchanges.append,
            sleep=lambda _: None,
        )
        stack.callback(self.client.close)

    def answer(self, asked: Asked) -> Reply:
        """Everything leads to the thief, or to a place of the side that is no part of the API."""
        if self.redirects_by:
            headers = {**TEMPTING, "Location": f"{self.thief.url}{asked.path}"}
            return Reply(status=self.redirects_by, headers=headers)
        if asked.path.endswith((".png", "/put")):
            return Reply(png(), headers=TEMPTING)
        here, there = self.side.url, self.thief.url
        data = {
            "id": self.id,
            "status": "completed",
            "model": f"echo {KEY}",
            "error": f"echo Bearer {KEY}",
            "urls": {"get": f"{there}/state"},
            "outputs": [f"{there}/1.png", f"{here}/media/2.png"],
            "upload": {"url": f"{there}/put"},
            "download_url": f"{there}/a.png",
        }
        return Reply({"code": 200, "data": data}, headers=TEMPTING)

    def everything(self) -> list[Asked]:
        """All requests, wherever they arrived."""
        return [*self.side.asked, *self.thief.asked, *self.proxy.asked]


@pytest.fixture
def tempter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tempter]:
    """A tempter, in an environment that holds every credential that HTTP libraries look for."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password netrc-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    def name_proxy(url: str) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.lower(), url)

    with ExitStack() as stack:
        yield Tempter(stack, name_proxy)


def holds_key(asked: Asked) -> bool:
    return KEY in f"{asked.path} {asked.headers} {asked.body!r}"


def test_only_addresses_of_the_api_are_asked_with_the_key(tempter: Tempter) -> None:
    tempter.client.upload(png(), "a.png")
    tempter.client.submit(FIELDS)
    for output in tempter.client.poll(ID).outputs:
        tempter.client.download(output)

    with_key = [asked for asked in tempter.everything() if holds_key(asked)]
    assert {(asked.method, asked.path) for asked in with_key} == OURS
    assert all(asked in tempter.side.asked for asked in with_key)
    assert {asked.path for asked in tempter.thief.asked} == {"/put", "/1.png"}
    assert "/media/2.png" in {asked.path for asked in tempter.side.asked}


def test_no_cookie_no_password_and_no_referer_is_sent_anywhere(tempter: Tempter) -> None:
    for _ in range(2):
        tempter.client.upload(png(), "a.png")
        for output in tempter.client.poll(ID).outputs:
            tempter.client.download(output)

    sent = json.dumps([asked.headers for asked in tempter.everything()])
    assert len(tempter.everything()) == 10
    assert "stolen" not in sent
    assert "referer" not in sent
    assert "Basic" not in sent


def calls(client: HostedClient) -> dict[str, Callable[[], Any]]:
    return {
        "upload": lambda: client.upload(png(), "a.png"),
        "submit": lambda: client.submit(FIELDS),
        "poll": lambda: client.poll(ID),
    }


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", ["upload", "submit", "poll"])
def test_a_redirect_of_the_api_is_not_followed(tempter: Tempter, status: int, call: str) -> None:
    tempter.redirects_by = status

    with pytest.raises(HostedError) as caught:
        calls(tempter.client)[call]()

    assert tempter.thief.asked == []
    assert len(tempter.side.asked) == 1
    assert "the API key was not sent there" in str(caught.value)


@pytest.mark.parametrize("id", ["../../../x", "x/../../../x", "x?a=b", "x#", "//x", "x%2f..", "."])
def test_an_id_is_never_a_path(tempter: Tempter, id: str) -> None:
    tempter.id = id

    with pytest.raises(HostedError, match="id"):
        tempter.client.submit(FIELDS)
    with pytest.raises(HostedError):
        tempter.client.poll(id)

    assert {(asked.method, asked.path) for asked in tempter.side.asked} <= OURS


def test_no_proxy_of_the_environment_sees_a_request_over_http(tempter: Tempter) -> None:
    tempter.client.submit(FIELDS)
    tempter.client.download(f"{tempter.thief.url}/1.png")

    assert tempter.proxy.asked == []


def test_a_proxy_of_the_environment_sees_no_key_of_a_request_over_https(tempter: Tempter) -> None:
    with (
        HostedClient("https://api.example", KEY, sleep=lambda _: None) as client,
        pytest.raises(UnreachableError, match="the proxy of the environment refuses"),
    ):
        client.submit(FIELDS)

    assert {asked.method for asked in tempter.proxy.asked} == {"CONNECT"}
    assert not [asked for asked in tempter.proxy.asked if holds_key(asked)]


@pytest.mark.parametrize(
    "base_url",
    ["http://93.184.216.34", "http://api.example", "http://me:pw@api.example", "ftp://api.example"],
)
def test_the_key_does_not_cross_the_internet_unencrypted(base_url: str) -> None:
    public = Surroundings(resolver=lambda host, port: ["93.184.216.34"])

    with pytest.raises(SettingsError) as caught:
        HostedClient(base_url, KEY, surroundings=public)

    assert KEY not in str(caught.value)


def test_a_name_that_turns_public_after_it_was_judged_gets_nothing(
    tempter: Tempter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.1 plays the internet once the client is made."""
    monkeypatch.setattr("depthflux.bench.hosted.keyed.is_public", lambda _: True)

    with pytest.raises(SettingsError, match="unencrypted"):
        tempter.client.submit(FIELDS)

    assert tempter.side.asked == []


def test_nothing_that_is_kept_or_shown_holds_the_key(tempter: Tempter) -> None:
    tempter.client.upload(png(), "a.png")
    predictions = [tempter.client.submit(FIELDS).prediction, tempter.client.poll(ID)]
    said = [repr(tempter.client), *map(repr, predictions)]
    tempter.side.script = lambda _: Reply(
        {"message": f"echo {KEY}", "error": KEY}, status=400, headers={"X-Request-Id": KEY}
    )
    for call in calls(tempter.client).values():
        with pytest.raises(DepthFluxError) as caught:
            call()
        said.append(str(caught.value))

    kept = json.dumps([exchange.as_json() for exchange in tempter.exchanges])
    assert len(tempter.exchanges) == 12
    assert "echo" in kept
    assert KEY not in kept
    assert not [text for text in said if KEY in text]


def escaped(character: str) -> str:
    return f"\\u{ord(character):04x}"


#: How the key may be spelt in an answer's JSON, where a program reads it all the same.
SPELT = {
    "its first letter escaped": escaped(KEY[0]) + KEY[1:],
    "all escaped": "".join(map(escaped, KEY)),
    "escaped in large letters": "".join(map(escaped, KEY)).upper().replace("\\U", "\\u"),
    "escaped twice": "".join(map(escaped, KEY)).replace("\\", "\\\\"),
    "in large letters": KEY.upper(),
    "for an address": "".join(f"%{ord(character):02x}" for character in KEY),
    "for a page": "".join(f"&#{ord(character)};" for character in KEY),
    "for a page, hexadecimal": "".join(f"&#x{ord(character):x};" for character in KEY),
}


def spelt_out(text: str) -> str:
    """A text as whoever reads it may come to see it: all escapes resolved."""
    for _ in range(3):
        text = html.unescape(unquote(text))
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    return text.lower()


@pytest.mark.parametrize("spelt", SPELT.values(), ids=SPELT.keys())
def test_nothing_that_is_kept_or_shown_holds_the_key_however_it_is_escaped(
    tempter: Tempter, spelt: str
) -> None:
    echo = f'"status": "completed", "outputs": ["https://x.example/{spelt}"]'
    taken = f'{{"code": 200, "data": {{"id": "{ID}", "model": "echo {spelt}", {echo}}}}}'
    refused = f'{{"code": 400, "message": "echo {spelt}", "{spelt}": 1}}'
    tempter.side.script = lambda _: Reply(taken.encode(), headers={"X-Request-Id": spelt})
    said = [repr(tempter.client.poll(ID)), repr(tempter.client.submit(FIELDS))]
    for answer in (refused, f"<html>echo {spelt}</html>"):
        tempter.side.script = lambda _, answer=answer: Reply(answer.encode(), status=400)
        with pytest.raises(DepthFluxError) as caught:
            tempter.client.submit(FIELDS)
        said.append(str(caught.value))

    kept = json.dumps([exchange.as_json() for exchange in tempter.exchanges], ensure_ascii=False)
    assert kept.count("echo") >= 4
    assert KEY not in spelt_out(kept)
    assert not [text for text in said if KEY in spelt_out(text)]


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_an_answer_in_another_coding_brings_no_key_either(tempter: Tempter, coding: str) -> None:
    text = f'{{"code": 200, "data": {{"id": "{ID}", "model": "echo {KEY}", "status": "created"}}}}'
    tempter.side.script = lambda _: Reply(text.encode(coding))

    prediction = tempter.client.poll(ID)

    assert "echo" in prediction.model
    assert KEY not in prediction.model
    assert KEY not in json.dumps([exchange.as_json() for exchange in tempter.exchanges])


def test_a_body_of_nothing_but_escapes_is_read_in_time(tempter: Tempter) -> None:
    tempter.side.script = lambda _: Reply(b"\\" * 2**22, status=400)
    start = time.monotonic()

    with pytest.raises(HostedError):
        tempter.client.submit(FIELDS)

    assert time.monotonic() - start < 20
