"""Pictures judged undecoded, for a server that takes them in now and reads them later."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from image_fixtures import png_chunk
from PIL import Image

from depthflux.errors import ImageFetchError, UnreadableImageError
from depthflux.images import (
    ReadLimits,
    format_of,
    inline_picture,
    inspect_picture,
    read_image,
)

SERVER = ReadLimits(allow_files=False)


def encoded(format: str, size: tuple[int, int] = (20, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((*size[::-1], 3), np.uint8)).save(buffer, format=format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_picture_s_format_is_told_by_its_bytes(format: str) -> None:
    data = encoded(format)

    assert inspect_picture(data) == format
    assert format_of(data[:16]) == format


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_data_uri_and_base64_hold_their_picture(format: str) -> None:
    data = encoded(format)
    text = base64.b64encode(data).decode()

    assert inline_picture(text, limits=SERVER) == data
    assert inline_picture(f"data:image/{format};base64,{text}", limits=SERVER) == data


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", " HTTP://93.184.216.34:8080/a?b=c ", "http://[::1]/a"]
)
def test_a_url_holds_none_and_is_asked_by_nobody(url: str) -> None:
    assert inline_picture(url, limits=SERVER) is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:word@example.org/a.png", "user name or password"),
        ("http://example.org\\@127.0.0.1/", "backslash"),
        ("http://exa mple.org/", "space"),
        ("http://example.org/\ud800", "control character"),
        ("http://example.org:99999/", "host or port"),
        ("http:///a.png", "host or port"),
    ],
)
def test_a_url_that_is_never_fetched_is_refused_at_once(url: str, says: str) -> None:
    with pytest.raises(ImageFetchError, match=says) as caught:
        inline_picture(url, limits=SERVER)

    assert caught.value.field == "control_image"
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    "text",
    ["room.jpg", "/etc/passwd", "~/room.png", "file:///etc/passwd", "../a.png", "C:\\room.png"],
)
def test_where_files_are_not_read_a_path_is_refused_whether_it_is_there_or_not(text: str) -> None:
    with pytest.raises(UnreadableImageError):
        inline_picture(text, limits=SERVER)


@pytest.mark.parametrize("colour_type", [3, 9], ids=["a palette's without it", "no colour type"])
def test_a_picture_whose_pixels_make_no_sense_is_refused_in_words(colour_type: int) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + b"\1" * 4 for _ in range(4)))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )

    with pytest.raises(UnreadableImageError) as caught:
        read_image(data)

    assert "0x" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"words", "no PNG, JPEG or WebP"),
        (encoded("gif"), "a GIF picture"),
        (encoded("png")[:-20], "damaged"),
        (encoded("png", (3000, 2000)), "3000x2000 pixels"),
        (encoded("png") + bytes(70_000), "at most 66000 bytes"),
    ],
    ids=["text", "GIF", "cut off", "pixels", "bytes"],
)
def test_what_is_no_picture_within_the_limits_is_refused_undecoded(data: bytes, says: str) -> None:
    limits = ReadLimits(allow_files=False, max_pixels=10**6, max_bytes=66_000)

    with pytest.raises(UnreadableImageError, match=says) as caught:
        inspect_picture(data, limits=limits, field="file")

    assert str(caught.value).startswith("file=")
    with pytest.raises(UnreadableImageError, match=says):
        inline_picture("data:image/png;base64," + base64.b64encode(data).decode(), limits=limits)
