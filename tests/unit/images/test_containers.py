"""The three containers: what they find in a header, and which broken files they refuse."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from image_fixtures import encode, png_chunk
from PIL import Image

from depthflux import errors
from depthflux.images import jpeg, png, read_image, webp
from depthflux.images.container import Header

FILES = {
    "png": ("PNG", {}),
    "interlaced-like palette png": ("PNG", {"bits": 4}),
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "jpeg with restarts": ("JPEG", {"restart_marker_rows": 1}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("name", FILES)
def test_headers_name_the_size(photo, name):
    file_format, options = FILES[name]
    data = encode(Image.fromarray(photo), file_format, **options)
    room = {"PNG": png, "JPEG": jpeg, "WEBP": webp}[file_format]

    header = room.read_header(data)

    assert header == Header(
        format=file_format.lower(), width=32, height=48, frames=1, orientation=1
    )


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_refused_and_trailing_bytes_are_dropped(photo, name):
    file_format, options = FILES[name]
    data = encode(Image.fromarray(photo), file_format, **options)
    whole = read_image(data)

    assert read_image(data + b"trailing" * 9).data == whole.data
    for end in range(1, len(data), 7):
        with pytest.raises(errors.UnreadableImageError):
            read_image(data[:end])


def test_webp_keeps_its_alpha(photo):
    alpha = np.full((48, 32, 1), 255, np.uint8)
    alpha[:9] = 0
    data = encode(Image.fromarray(np.concatenate([photo, alpha], 2)), "WEBP", lossless=True)

    assert (read_image(data).rgb[:9] == 255).all()
    assert np.array_equal(read_image(data).rgb[9:], photo[9:])


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


IHDR = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
IDAT = png_chunk(b"IDAT", bytes.fromhex("789c636060606060000000070001"))
IEND = png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(png_of(IEND), "begin with its header", id="no header"),
        pytest.param(png_of(png_chunk(b"CgBI", bytes(4)), IHDR, IDAT, IEND), "begin", id="Apple's"),
        pytest.param(png_of(IHDR, IHDR, IDAT, IEND), "two headers", id="two headers"),
        pytest.param(png_of(IHDR, IEND), "without pixels", id="no pixels"),
        pytest.param(png_of(IHDR, IDAT), "cut off", id="no end"),
        pytest.param(png_of(IHDR, IDAT[:-1] + b"x", IEND), "checksum", id="checksum"),
        pytest.param(png_of(IHDR, png_chunk(b"NEWx", b""), IDAT, IEND), "unknown", id="critical"),
        pytest.param(png_of(IHDR, png_chunk(b"a\n1 ", b""), IEND), "no PNG chunk", id="name"),
        pytest.param(png_of(IHDR, *[png_chunk(b"noNe", b"")] * 65536), "65536", id="many chunks"),
        pytest.param(png_of(IHDR, IDAT, IEND), "does not decode", id="broken pixels"),
        pytest.param(b"\xff\xd8\xff\xd9", "without pixels", id="empty jpeg"),
        pytest.param(b"\xff\xd8\xff\xe0\x00\x01" + bytes(9), "cut off", id="impossible length"),
        pytest.param(b"\xff\xd8" + b"\xff\xc0\x00\x03\x08" * 2, "broken one", id="tiny frame"),
        pytest.param(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 65537, "65536", id="many segments"),
        pytest.param(b"RIFF\x04\0\0\0WEBP", "contradicts", id="empty webp"),
        pytest.param(b"RIFF\xff\0\0\0WEBP", "cut off", id="short webp"),
        pytest.param(
            b"RIFF\x0c\0\0\0WEBPVP8X\0\0\0\0", "contradicts", id="webp header without content"
        ),
        pytest.param(b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", "contradicts", id="webp without frame"),
    ],
)
def test_broken_containers_are_refused(data, message):
    with pytest.raises(errors.UnreadableImageError, match=message) as caught:
        read_image(data)

    assert "\n" not in str(caught.value)


def test_a_jpeg_of_a_thousand_scans_is_refused_before_decoding(photo):
    data = encode(Image.fromarray(photo), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 1000 + b"\xff\xd9"

    with pytest.raises(errors.UnreadableImageError, match="1009 scans"):
        read_image(bomb)


def test_a_webp_canvas_must_be_its_picture(photo):
    data = bytearray(encode(Image.fromarray(photo), "WEBP", exif=b"Exif\0\0MM\0*", lossless=True))
    assert data[12:16] == b"VP8X"
    data[24:27] = (16382).to_bytes(3, "little")

    with pytest.raises(errors.UnreadableImageError, match="contradicts itself"):
        read_image(bytes(data))


def test_bytes_between_jpeg_segments_are_skipped_as_decoders_do(photo):
    data = encode(Image.fromarray(photo), "JPEG")
    at = data.index(b"\xff\xdb")

    read = read_image(data[:at] + b"\x00\x12" + data[at:])

    assert np.array_equal(read.rgb, np.asarray(Image.open(io.BytesIO(data))))


def test_a_jfif_thumbnail_is_left_behind(photo):
    data = encode(Image.fromarray(photo), "JPEG")
    thumbnail = b"\xa7\x31" * 6
    body = data[6:18] + bytes([2, 2]) + thumbnail
    data = data[:2] + b"\xff\xe0" + struct.pack(">H", len(body) + 2) + body + data[20:]

    read = read_image(data)

    assert thumbnail not in read.data
    assert np.array_equal(read.rgb, np.asarray(Image.open(io.BytesIO(data))))
