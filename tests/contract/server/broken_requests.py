"""Broken requests, drawn by chance: pictures, data URIs, JSON, multipart forms, HTTP itself.

Knows nothing of servers, or of what one should answer.
"""

from __future__ import annotations

import base64
import io
import json
import random
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from PIL import Image

from stand_in.running import PICTURE, SUBMIT

KINDS = ("PNG", "JPEG", "WEBP")


def picture(chance: random.Random) -> bytes:
    """A valid picture of some hundred to thousand bytes."""
    size = (chance.randint(1, 40), chance.randint(1, 40))
    buffer = io.BytesIO()
    image = Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1]))
    image.save(buffer, format=chance.choice(KINDS))
    return buffer.getvalue()


# Damage to bytes ---------------------------------------------------------------------------------


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 2, 8])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def doubled(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    piece = data[begin : begin + chance.randint(1, 200)]
    return data[:begin] + piece * chance.choice([2, 50]) + data[begin:]


def lying(data: bytes, chance: random.Random) -> bytes:
    """Four bytes, as a length is, become another number."""
    begin = chance.randrange(max(len(data) - 4, 1))
    number = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    return data[:begin] + number.to_bytes(4, "big") + data[begin + 4 :]


def huge(_data: bytes, chance: random.Random) -> bytes:
    """A PNG that says it has many more pixels than it has, its sums right."""
    sides = [chance.choice([0, 1, 65_535, 2**31 - 1]) for _ in range(2)]
    header = b"".join(side.to_bytes(4, "big") for side in sides) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 999)), (b"IEND", b""))
    )


def whole(data: bytes, _chance: random.Random) -> bytes:
    return data


DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    whole,
    flipped,
    cut,
    doubled,
    lying,
    huge,
    whole,
)


def damaged(chance: random.Random) -> bytes:
    """A picture, damaged or, at times, whole."""
    return chance.choice(DAMAGE)(picture(chance), chance)


# Requests ----------------------------------------------------------------------------------------


def data_uri(chance: random.Random) -> str:
    """A control image as a text, in one of the ways in which clients get it wrong, or right."""
    data = damaged(chance)
    text = base64.b64encode(data).decode()
    kind = chance.choice(
        ["image/png", "image/jpeg", "image/gif", "text/html", "", "/", "image/png;x"]
    )
    return chance.choice(
        [
            text,
            f"data:{kind};base64,{text}",
            f"data:{kind};charset=utf-8;base64,{text}",
            f"data:{kind},{quote(data[:500])}",
            f"DATA:{kind};BASE64,{text}",
            f" \n data:image/png;base64,{text[: len(text) // 2]}\n\t {text[len(text) // 2 :]} ",
            f"data:image/png;base64,{quote(text)}",
            f"data:image/png;base64,{text.replace('A', '*')}",
            f"data:image/png;base64,{text}" + "=" * chance.randint(1, 9),
            f"data:image/png;base64,{text.replace('+', '-').replace('/', '_').rstrip('=')}",
            "data:image/png;base64," + "A" * chance.choice([0, 1, 100_000]),
            "data:" + ";" * chance.choice([0, 1000]),
        ]
    )


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    -0.0,
    "",
    " ",
    "\0",
    "\ud800",
    "512*512",
    "١*١",
    "x" * 20_000,
    [],
    [[]] * 50,
    {},
    {"": {"": {}}},
)
FIELDS = (
    *("prompt", "control_image", "size", "seed", "num_images", "num_inference_steps", "loras"),
    *("guidance_scale", "control_scale", "webhook_url", "output_format", "fit", "unknown"),
)


def json_body(chance: random.Random) -> bytes:
    """A submission with wrong fields, or bytes that are no JSON."""
    body: dict[str, Any] = {
        "prompt": "paint",
        "size": "512*512",
        "num_inference_steps": 1,
        "control_image": chance.choice([PICTURE, PICTURE, data_uri(chance)]),
    }
    for _ in range(chance.choice([0, 0, 0, 1, 1, 3])):
        body[chance.choice(FIELDS)] = chance.choice(VALUES)
    text = json.dumps(body).encode()
    deep = b"[" * 5000 + b"]" * 5000
    return chance.choice(
        [
            *[text] * 6,
            flipped(text, chance),
            cut(text, chance),
            text + b"}",
            b"\xef\xbb\xbf" + text,
            json.dumps(body).encode("utf-16"),
            text.replace(b'"paint"', b'"paint", "prompt": "again"'),
            text.replace(b'"paint"', deep),
            text.replace(b"1", b"NaN"),
            deep,
            b"{" * 30_000,
            chance.randbytes(300),
        ]
    )


def form_body(chance: random.Random) -> tuple[str, bytes]:
    """A multipart form's Content-Type and body, broken in one place, or whole."""
    edge = chance.choice([*["edge"] * 8, "e" * 70, "e" * 300, "e dge", "\xe9"])
    name = chance.choice(
        [*['"file"'] * 8, '"file', "file", '"fi\r\nle"', '""', '"file"; name="other"']
    )
    file = chance.choice(
        [*['"a.png"'] * 6, '"../../etc/passwd"', '"\0\xff"', f'"{"n" * 9000}"', "*=UTF-8''%ff"]
    )
    head = f"Content-Disposition: form-data; name={name}; filename={file}\r\n"
    kind = chance.choice(
        ["Content-Type: image/png\r\n", "", "Content-Type: multipart/mixed; boundary=x\r\n"]
    )
    begin, data = f"--{edge}\r\n".encode("latin-1"), damaged(chance)
    part = begin + (head + kind).encode("latin-1") + b"\r\n" + data + b"\r\n"
    end = f"--{edge}--\r\n".encode("latin-1")
    body = chance.choice(
        [
            *[part + end] * 12,
            part,
            cut(part + end, chance),
            part * chance.choice([2, 40]) + end,
            part.replace(b"\r\n", b"\n") + end,
            begin + b"\r\n" + data + end,
            begin + b"X: " + b"h" * 20_000 + b"\r\n\r\n" + end,
            begin * 200 + end,
            end,
            b"",
            data,
        ]
    )
    said = chance.choice([edge, edge, edge, f'"{edge}"', "other", ""])
    return f"multipart/form-data; boundary={said}", body


def garbage(chance: random.Random) -> bytes:
    """Bytes that are hardly HTTP."""
    whole = (
        b"POST " + SUBMIT.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    )
    length = b"Content-Length: 2"
    return chance.choice(
        [
            flipped(whole, chance),
            cut(whole, chance),
            chance.randbytes(500),
            whole.replace(length, b"Content-Length: -2"),
            whole.replace(length, b"Content-Length: 99999999999999999999"),
            whole.replace(length, length + b"\r\n" + length.replace(b"2", b"3")),
            whole.replace(length, b"Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
            whole.replace(b"POST", b"\0\1\2"),
            whole.replace(b"HTTP/1.1", b"HTTP/9.9"),
            whole.replace(b"\r\n", b"\n"),
            whole.replace(b"Host: 127.0.0.1", b"Host: \xff\xfe"),
            whole.replace(b"Host: 127.0.0.1\r\n", b""),
            b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /\xff%zz%00?\x80 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(200),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )
