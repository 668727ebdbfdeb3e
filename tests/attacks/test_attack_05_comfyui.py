"""Attack 5, the nodes for ComfyUI: a graph from a stranger sends nothing anywhere.

Graphs are shared, and run as they come: whatever address one names, only this machine and the
address of ComfyUI's environment are asked, and the API key follows no redirect, no cookie, no proxy
and no name that leads elsewhere.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from installed_nodes import InstalledNodes
from PIL import Image
from scripted_server import Asked, Reply, ScriptedServer

KEY = "a-key-of-these-tests-0123456789"
ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"
#: Not this machine's, and nobody's: RFC 5737.
FOREIGN = "203.0.113.7"
ELSEWHERE = [
    "https://example.com",
    f"http://{FOREIGN}:8000",
    "http://10.0.0.1",
    "http://192.168.1.1:8000",
    "http://169.254.169.254",
    "http://0.0.0.0:8000",
    "http://[::]:8000",
    "http://127.0.0.1.example.com",
    "http://localhost.example.com",
    "http://127.1:8000",
    "http://2130706433:8000",
    "http://0x7f.0.0.1:8000",
    "http://example.com#@127.0.0.1:8000",
    "http://127.0.0.1:8000@example.com",
    "http://example.com\\@127.0.0.1",
    "http://user:password@127.0.0.1:8000",
    "http://127.0.0.1:8000/admin",
    "http://127.0.0.1:8000?x=",
    "http://127.0.0.1:8000?",
    "http://127.0.0.1:8000#",
    "http://127.0.0.1:8000/?",
    "http://127.0.0.1:0",
    "http://127.0.0.1:+80",
    "http://127.0.0.1:",
    "http://127.0.0.1:80 80",
    "http://[::1]x",
    "http://[::1]:8000:1",
    "http://[127.0.0.1]",
    "http:user:password@127.0.0.1",
    "//user:password@127.0.0.1",
    "user:password@127.0.0.1:80",
    "http://user:pass?password@127.0.0.1",
    "http://user:pass#password/@127.0.0.1",
    "http://user:pa/password@127.0.0.1",
    "http://user:p password@127.0.0.1",
    "http://127.0.0.1#token=password",
    "http://127.0.0.1:8000\r\nX: y",
    "http://127.0.0.1:99999",
    "file:///etc/passwd",
    "ftp://127.0.0.1",
    "unix:/var/run/docker.sock",
    "127.0.0.1:8000",
    "http://",
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> InstalledNodes:
    return InstalledNodes(tmp_path_factory.mktemp("comfyui") / "ComfyUI")


@pytest.fixture
def thief() -> Iterator[ScriptedServer]:
    """Another port of this machine, which answers whatever it is asked."""
    with ScriptedServer(
        Reply({"data": {"id": ID, "status": "failed", "error": "stolen"}})
    ) as other:
        yield other


@pytest.fixture(autouse=True)
def _with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_API_KEY", KEY)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_no_address_of_a_graph_leads_off_this_machine(address: str, nodes: InstalledNodes) -> None:
    engine = nodes.classes["DepthfluxEngine"]

    said = engine.VALIDATE_INPUTS(address=address)
    with pytest.raises(nodes.error, match="is not asked, since a graph can come from anybody"):
        nodes.engine(address)
    with pytest.raises(nodes.error, match="is not asked"):
        # What another node hands on has passed by Depthflux Engine.
        nodes.module("engines").engine_for(nodes.module("engines").EngineChoice("auto", address))

    assert "is not asked" in said
    assert "password" not in said
    assert said.isprintable()


def test_the_environment_s_own_address_is_asked_and_no_other_that_resembles_it(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", "https://gpu.example.org/depthflux/")
    read = nodes.module("addresses").read_address

    assert read("https://gpu.example.org/depthflux").host == "gpu.example.org"
    for other in ("http://gpu.example.org/depthflux", "https://gpu.example.org", "https://b.org"):
        with pytest.raises(nodes.error, match="is not asked"):
            read(other)


def test_a_name_that_leads_off_this_machine_gets_nothing(
    nodes: InstalledNodes, thief: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a network whose name server has an answer for localhost.
    address = nodes.module("addresses").read_address(f"http://localhost:{thief.port}")
    assert not address.may_reach(FOREIGN)
    monkeypatch.setattr(type(address), "may_reach", lambda *_: False)

    with pytest.raises(nodes.error, match=r"leads to 127\.0\.0\.1, which is not this machine"):
        nodes.generate(address.text)

    assert thief.asked == []


def test_the_key_goes_to_the_environment_s_address_alone(
    nodes: InstalledNodes, thief: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(Reply({}, status=404)) as own:
        monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", own.url)
        for address in (own.url, thief.url):
            with pytest.raises(nodes.error):
                nodes.generate(address)

    assert [asked.headers["authorization"] for asked in own.asked] == [f"Bearer {KEY}"]
    assert thief.asked
    assert all("authorization" not in asked.headers for asked in thief.asked)
    assert all(KEY.encode() not in asked.body for asked in thief.asked)


@pytest.mark.parametrize("spelling", ["http://localhost:{}", "HTTP://127.0.0.1:{}/"])
def test_the_key_s_address_is_compared_in_parts(
    spelling: str, nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(Reply({}, status=404)) as own:
        monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", own.url)
        with pytest.raises(nodes.error, match=r"refuses \(404\)"):
            nodes.generate(spelling.format(own.port))

    assert [asked.headers["authorization"] for asked in own.asked] == [f"Bearer {KEY}"]


def test_without_an_address_of_the_environment_the_key_goes_to_the_usual_one_alone(
    nodes: InstalledNodes, thief: ScriptedServer
) -> None:
    addresses = nodes.module("addresses")
    usual = ("http://127.0.0.1:8000", "http://localhost:8000/", "http://[::1]:8000")
    others = ("http://127.0.0.1:8001", "http://127.0.0.2:8000", "https://127.0.0.1:8000")

    with pytest.raises(nodes.error, match="stolen"):
        nodes.generate(thief.url)

    assert thief.asked
    assert all("authorization" not in asked.headers for asked in thief.asked)
    assert [addresses.key_for(addresses.read_address(one)) for one in usual] == [KEY] * 3
    assert [addresses.key_for(addresses.read_address(one)) for one in others] == [""] * 3


def test_the_environment_s_address_of_this_machine_still_has_to_lead_there(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", "http://127.0.0.1:8000")
    read = nodes.module("addresses").read_address

    assert not read("http://localhost:8000").may_reach(FOREIGN)
    assert read("http://localhost:8000").may_reach("127.0.0.1")


@pytest.mark.parametrize(
    "value",
    [
        "gpu.example.org:8000",
        "https://gpü.example",
        "https://user:secret-word@gpu.example.org",
        "https://gpu.example.org/?secret-word",
        "https://gpu.example.org:99999",
        "ftp://gpu.example.org",
        "https://gpu.example.org/a b",
    ],
)
def test_an_address_of_the_environment_that_is_none_is_said_and_not_repeated(
    value: str, nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", value)

    for ask in (
        lambda: nodes.module("engines").engine_for(None),
        lambda: nodes.generate("http://127.0.0.1:8000"),
    ):
        with pytest.raises(nodes.error, match="DEPTHFLUX_COMFYUI_ADDRESS of ComfyUI's") as caught:
            ask()
        assert "is no address" in str(caught.value)
        assert "secret-word" not in str(caught.value)
        assert "gpu.example.org:" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, nodes: InstalledNodes, thief: ScriptedServer) -> None:
    with (
        ScriptedServer(Reply(b"", status, {"Location": f"{thief.url}/stolen"})) as side,
        pytest.raises(nodes.error, match="answers with a redirect, and none is followed"),
    ):
        nodes.generate(side.url)

    assert len(side.asked) == 1
    assert thief.asked == []


def test_no_proxy_no_cookie_and_no_address_of_an_answer_is_used(
    nodes: InstalledNodes, thief: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, thief.url)
    data = {
        "id": ID,
        "status": "completed",
        "outputs": [f"{thief.url}/picture.png"],
        "urls": {"get": f"{thief.url}/result"},
    }
    tempting = {"Set-Cookie": "session=stolen; Path=/", "Refresh": f"0; url={thief.url}"}
    with ScriptedServer(Reply({"data": data}, headers=tempting)) as side:
        with pytest.raises(nodes.error, match="no PNG"):
            nodes.generate(side.url)
        asked = list(side.asked)

    assert thief.asked == []
    assert len(asked) >= 2
    assert all("cookie" not in one.headers for one in asked)


@pytest.mark.parametrize("id", ["../../admin", f"{ID}/../x", ID.upper(), f"{ID}\n", 7, None, ""])
def test_an_id_of_an_answer_is_never_a_path(
    id: Any, nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.module("served"), "AWAY_S", 0)
    with ScriptedServer(Reply({"data": {"id": id, "status": "failed"}})) as side:
        with pytest.raises(nodes.error, match="answers without an id"):
            nodes.generate(side.url)
        paths = [asked.path for asked in side.asked]

    assert paths == ["/api/v3/wavespeed-ai/flux-control-lora-depth"]


def test_the_key_crosses_no_internet_unencrypted(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", "http://gpu.example.org")
    exchange = nodes.module("exchange")
    address = nodes.module("addresses").read_address("http://gpu.example.org")

    class Connected:
        def getpeername(self) -> tuple[str, int]:
            return "93.184.216.34", 80

    with pytest.raises(nodes.error, match="would cross the internet unencrypted; use https"):
        exchange._headers(address, Connected(), has_body=False)


@pytest.mark.parametrize(
    "key", ["two words-0123456789", "line\nbreak-0123456789", "schlüssel-0123"]
)
def test_a_key_that_is_none_is_not_repeated(
    key: str, nodes: InstalledNodes, thief: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_API_KEY", key)

    with pytest.raises(nodes.error, match="DEPTHFLUX_COMFYUI_API_KEY is no API key") as caught:
        nodes.generate(thief.url)

    assert key not in str(caught.value)
    assert thief.asked == []


def test_the_key_is_in_no_widget_no_answer_and_no_error(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def echo(asked: Asked) -> Reply:
        return Reply({"message": f"no such key: {asked.headers['authorization']}"}, status=401)

    with ScriptedServer(echo) as side:
        monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", side.url)
        with pytest.raises(nodes.error, match="no such key: Bearer …") as caught:
            nodes.generate(side.url)

    widgets = [kind.INPUT_TYPES() for kind in nodes.classes.values()]
    assert KEY not in str(caught.value)
    assert KEY not in repr(widgets)
    assert "api_key" not in repr(widgets)


def test_a_key_that_json_spells_otherwise_is_not_shown_either(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = 'a"key\\of-these/tests-0123456789'
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_API_KEY", key)

    def echo(asked: Asked) -> Reply:
        told = "".join(f"\\u{ord(letter):04x}" for letter in asked.headers["authorization"])
        return Reply(f'{{"message": "no such key: {told}"}}'.encode(), status=400)

    with ScriptedServer(echo) as side:
        monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", side.url)
        with pytest.raises(nodes.error, match="no such key: Bearer …") as caught:
            nodes.generate(side.url)

    assert "these" not in str(caught.value)


def test_a_server_that_drips_is_cut_off(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = nodes.module("exchange")
    with ScriptedServer(Reply(b" " * 40, drips_s=0.1)) as side:
        address = nodes.module("addresses").read_address(side.url)
        with pytest.raises(nodes.error, match=r"cut off|does not answer"):
            exchange.ask(address, exchange.Request("GET", "/"), exchange_s=0.5)


def test_an_answer_is_not_read_for_ever(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = nodes.module("exchange")
    monkeypatch.setattr(exchange, "MOST_ANSWERED_BYTES", 1000)
    with (
        ScriptedServer(Reply(b"x" * 100_000)) as side,
        pytest.raises(nodes.error, match="answered with more than 1000 bytes"),
    ):
        nodes.generate(side.url)


@pytest.mark.parametrize("format", ["JPEG", "GIF", "PPM", "TIFF", "BMP", "WEBP", "EPS"])
def test_no_decoder_but_png_s_is_given_what_a_server_sends(
    format: str, nodes: InstalledNodes
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 512)).save(buffer, format=format)

    with pytest.raises(nodes.error, match="something that is no PNG"):
        nodes.module("pictures").pixels_of(buffer.getvalue(), (512, 512))


def test_a_picture_of_another_size_is_not_unpacked(nodes: InstalledNodes) -> None:
    pictures = nodes.module("pictures")

    with pytest.raises(nodes.error, match="no PNG"):
        pictures.pixels_of(b"<svg>", (512, 512))
    with pytest.raises(nodes.error, match=r"a picture of 8000\*8000 instead of 512\*512"):
        pictures.pixels_of(_header_of_png(8_000), (512, 512))


def _header_of_png(side: int) -> bytes:
    """A PNG that says it has so many pixels a side, and has none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        sum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
