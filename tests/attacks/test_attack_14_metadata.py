"""Attack 14: what pictures say. Nothing private goes out with them, nothing hostile comes in."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import depthflux
from depthflux.contract import GenerationRequest
from depthflux.engine.provenance import request_from_record
from depthflux.images import ReadLimits, embed, read_image, read_record
from depthflux.server.painting import EnginePainter
from stand_in.running import StandInServer

#: Stands in every place of an upload that holds words.
PRIVATE = "a-private-word-of-this-test"
SECRET = "a-secret-of-this-test"
CAMERA, MAKER, DESCRIPTION, COMMENT = 0x0110, 0x010F, 0x010E, 0x9286
LATITUDE, GPS = 2, 0x8825
#: Most of a record, as bytes, that unpacking one may take in memory.
RECORD_BYTES = 64_000_000


def upload(kind: str) -> bytes:
    """A picture with texts, place, camera, a thumbnail's words and more behind its end."""
    picture, exif, buffer = Image.new("RGB", (512, 512), (90, 90, 90)), Image.Exif(), io.BytesIO()
    for tag in (CAMERA, MAKER, DESCRIPTION):
        exif[tag] = PRIVATE
    exif.get_ifd(0x8769)[COMMENT] = PRIVATE.encode()
    exif.get_ifd(GPS)[1], exif.get_ifd(GPS)[LATITUDE] = "N", (52.0, 31.0, 12.0)
    exif.get_ifd(GPS)[29] = PRIVATE
    options: dict[str, Any] = {"exif": exif, "xmp": f"<x>{PRIVATE}</x>".encode()}
    if kind == "png":
        texts = PngInfo()
        texts.add_text("Author", PRIVATE)
        texts.add_text("parameters", PRIVATE, zip=True)
        texts.add_itxt("XML:com.adobe.xmp", PRIVATE)
        options = {"exif": exif, "pnginfo": texts}
    if kind == "jpeg":
        options["comment"] = PRIVATE.encode()
    picture.save(buffer, kind, **options)
    return buffer.getvalue() + PRIVATE.encode()


def words_of(data: bytes) -> bytes:
    """A picture's bytes, and its record with the control image in it as bytes, too."""
    record = read_record(data)
    inside = record["control_image"]
    assert isinstance(inside, dict)
    return data + json.dumps(record).encode() + base64.b64decode(inside["base64"])


@pytest.fixture(scope="module")
def painter(miniature_8x: Path, tmp_path_factory: pytest.TempPathFactory) -> EnginePainter:
    """The engine as the server's worker has it, of a model in a folder with a telling name."""
    folder = tmp_path_factory.mktemp(f"home-of-{SECRET}")
    (folder / "model").symlink_to(miniature_8x, target_is_directory=True)
    (folder / "loras").mkdir()
    return EnginePainter(
        depthflux.load("reference", model=str(folder / "model"), loras_dir=str(folder / "loras"))
    )


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_nothing_of_an_upload_but_its_pixels_is_in_an_output(
    kind: str, output_format: str, painter: EnginePainter
) -> None:
    source = read_image(upload(kind), limits=painter.limits)
    request = GenerationRequest(
        prompt="x",
        control_image=source,
        preprocess_depth=False,
        size="512*512",
        num_inference_steps=1,
        output_format=output_format,
    )

    (file,) = painter.paint(request, lambda *_: None, lambda: None).files

    assert PRIVATE.encode() in upload(kind)
    assert PRIVATE.encode() not in words_of(file.data)
    shown = Image.open(io.BytesIO(file.data))
    assert not shown.getexif().get_ifd(GPS)


def test_nothing_of_the_server_or_of_who_asked_is_in_an_output(
    painter: EnginePainter, tmp_path: Path
) -> None:
    image = tmp_path / f"{SECRET}.png"
    Image.new("RGB", (512, 512)).save(image)
    source = read_image(image, limits=ReadLimits())
    request = GenerationRequest(
        prompt="x",
        control_image=source,
        preprocess_depth=False,
        size="512*512",
        num_inference_steps=1,
        webhook_url=f"https://hooks.example.org/{SECRET}?token={SECRET}",
    )

    (file,) = painter.paint(request, lambda *_: None, lambda: None).files

    words = words_of(file.data)
    private = [SECRET, str(Path.home()) + "/", str(tmp_path), socket.gethostname(), os.getcwd()]
    assert [word for word in private if len(word) > 3 and word.encode() in words] == []
    assert b"hooks.example.org" not in words


def test_a_signed_address_of_a_picture_is_recorded_nowhere(
    painter: EnginePainter, tmp_path: Path
) -> None:
    """Its path is not either: the bytes say which picture it was."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = upload("png")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{serving.server_port}/{SECRET}.png?X-Amz-Signature={SECRET}"
        source = read_image(url, limits=ReadLimits(allow_private_addresses=True))
    request = GenerationRequest(
        prompt="x",
        control_image=source,
        preprocess_depth=False,
        size="512*512",
        num_inference_steps=1,
    )

    (file,) = painter.paint(request, lambda *_: None, lambda: None).files

    assert SECRET.encode() not in words_of(file.data)
    assert b"127.0.0.1" not in words_of(file.data)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v3/predictions",
        "/api/v3/predictions/{id}",
        "/api/v3/predictions/{id}/result",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "/api/v3/predictions?page=%3Cscript%3E",
    ],
)
def test_a_prompt_of_markup_is_data_that_no_browser_shows_as_a_page(
    path: str, server: StandInServer
) -> None:
    done = server.submit("paint </script><script>alert(1)</script><img src=x onerror=alert(1)>")
    server.wait(done["id"])

    answer = server.client.get(path.format(id=done["id"]))

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    json.loads(answer.text)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_upload_comes_back_as_a_picture_that_no_browser_takes_for_a_page(
    kind: str, server: StandInServer
) -> None:
    """Markup stands behind the picture's end, and its name says that it is a page."""
    content = upload(kind) + b"<html><script>alert(1)</script>"
    files = {"file": ("page.html", content, "text/html")}

    taken = server.client.post("/api/v3/media/upload/binary", files=files)
    shown = httpx.get(taken.json()["data"]["url"])

    assert shown.headers["content-type"] == f"image/{kind}"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in shown.headers["content-security-policy"]


# What comes in ------------------------------------------------------------------------------------


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A picture with further chunks before its end."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    end = buffer.getvalue().rindex(b"IEND") - 4
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return buffer.getvalue()[:end] + b"".join(parts) + buffer.getvalue()[end:]


def recorded(text: bytes) -> bytes:
    """A picture whose record is a text that we would not have written."""
    label = b'{"a":1}'
    picture = embed(png_with(), {"a": 1})
    start = picture.index(b"iTXt") - 4
    length = int.from_bytes(picture[start : start + 4], "big")
    body = picture[start + 8 : start + 8 + length]
    for size in range(len(body)):
        try:
            if zlib.decompress(body[size:]) == label:
                break
        except zlib.error:
            continue
    return png_with((b"iTXt", body[:size] + zlib.compress(text)))


@pytest.mark.parametrize(
    "text",
    [
        b"0" * (RECORD_BYTES + 1),
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"a":NaN}',
        b'{"a":1e999999}' + b" " * 10,
        b'{"\xff":1}',
        b'{"a":' + b"9" * 100_000 + b"}",
        b"[]",
        b"",
    ],
    ids=["bomb", "deep", "deep-objects", "NaN", "infinite", "no-text", "digits", "list", "empty"],
)
def test_a_hostile_record_is_refused_or_read_without_harm(text: bytes) -> None:
    started = time.process_time()
    try:
        read: object = read_record(recorded(text))
    except depthflux.UnreadableImageError as error:
        read = str(error)

    # An exponent of six digits is JSON, and infinity to Python.
    assert read == {"a": float("inf")} if b"1e" in text else str(read).isprintable()
    assert isinstance(read, str) or b"1e" in text
    assert time.process_time() - started < 5


def test_thousands_of_packed_texts_are_no_bomb_together() -> None:
    """Each is small, and unpacks to megabytes."""
    packed = zlib.compress(b"\0" * 10_000_000, 9)
    chunks = [(b"zTXt", b"a\0\0" + packed)] * 200 + [(b"iTXt", b"a\0\1\0\0\0" + packed)] * 200
    started = time.process_time()

    with pytest.raises(depthflux.UnreadableImageError, match="carries no depthflux record"):
        read_record(png_with(*chunks))

    assert time.process_time() - started < 3


def test_a_record_cannot_name_a_file_or_an_address() -> None:
    """A picture may come from anyone: repeating it opens nothing of its choice."""
    fields = {"prompt": "x", "control_image": "/etc/passwd", "webhook_url": "http://127.0.0.1/"}
    for path in ("/etc/passwd", "https://127.0.0.1/x", "../../x", "~/x"):
        record = {
            "record_version": 1,
            "request": {**fields, "loras": [{"path": path, "scale": 1}]},
            "picture": {"seed": 1},
            "control_image": {
                "base64": base64.b64encode(png_with()).decode(),
                "sha256": hashlib.sha256(png_with()).hexdigest(),
            },
            "loras": [],
        }
        with pytest.raises(depthflux.RequestError, match="is no name in loras_dir"):
            request_from_record(record)
