"""The record inside a picture."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_fixtures import encode, png_chunk
from PIL import Image

from depthflux import errors
from depthflux.images import MAX_RECORD_BYTES, embed, encode_image, read_image, read_record

FORMATS = ["png", "jpeg", "webp"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from(FORMATS))
@settings(max_examples=40, deadline=None)
def test_a_record_comes_back_as_it_was(record, output_format):
    data = encode_image(Image.new("RGB", (3, 2), (9, 8, 7)), output_format, record=record)

    assert read_record(data) == record


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_record_of_megabytes_changes_no_pixel_and_opens_elsewhere(photo, output_format, tmp_path):
    noise = np.random.default_rng(0).bytes(3_000_000).hex()
    record = {"prompt": "ein Stuhl – 椅子", "control_image": noise}
    image = Image.fromarray(photo)
    without = encode_image(image, output_format)

    data = encode_image(image, output_format, record=record)

    path = tmp_path / f"picture.{output_format}"
    path.write_bytes(data)
    assert read_record(path) == read_record(str(path)) == read_record(data) == record
    with Image.open(path) as opened, Image.open(io.BytesIO(without)) as plain:
        opened.load()
        assert opened.size == plain.size
        assert np.array_equal(np.asarray(opened.convert("RGB")), np.asarray(plain.convert("RGB")))
    if output_format == "png":
        assert np.array_equal(np.asarray(Image.open(path)), photo)
    assert len(data) < len(without) + 0.6 * len(noise)


@pytest.mark.parametrize("output_format", FORMATS)
def test_embedding_keeps_alpha_orientation_and_the_rest(photo, output_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    mode = "RGB" if output_format == "jpeg" else "RGBA"
    image = Image.fromarray(photo).convert(mode)
    image.putpixel((3, 9), (1, 2, 3, 4)[: len(mode)])
    for options in ({}, {"exif": exif}):
        data = encode(image, output_format, lossless=True, **options)

        carrying = embed(data, {"a": 1})

        assert np.array_equal(read_image(carrying).rgb, read_image(data).rgb)
        assert Image.open(io.BytesIO(carrying)).mode == mode


@pytest.mark.parametrize("output_format", FORMATS)
def test_reading_a_picture_as_a_source_image_leaves_its_record_behind(photo, output_format):
    image = Image.fromarray(photo)

    read = read_image(encode_image(image, output_format, record={"prompt": "private"}))

    with pytest.raises(errors.RequestError, match="carries no depthflux record"):
        read_record(read.data)


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_picture_without_a_record_says_so(photo, output_format):
    with pytest.raises(errors.UnreadableImageError, match="carries no depthflux record") as caught:
        read_record(encode_image(Image.fromarray(photo), output_format), field="from_record")

    assert caught.value.field == "from_record"


def test_a_missing_file_and_a_text_are_no_pictures(tmp_path):
    (tmp_path / "notes.png").write_text("hello")

    with pytest.raises(errors.UnreadableImageError, match="there is no such file"):
        read_record(tmp_path / "absent.png")
    with pytest.raises(errors.UnreadableImageError, match="is text"):
        read_record(tmp_path / "notes.png")
    with pytest.raises(errors.UnreadableImageError, match="is text"):
        embed(b"hello", {})


def test_a_record_too_large_for_other_decoders_is_refused(photo):
    with pytest.raises(errors.OutputError, match="use a smaller control image"):
        encode_image(Image.fromarray(photo), "png", record={"a": "x" * MAX_RECORD_BYTES})


def png_with(photo: np.ndarray, *texts: bytes, count: int | None = None) -> bytes:
    """A PNG that carries these texts as the parts of a record."""
    data = encode(Image.fromarray(photo), "PNG")
    end = png_chunk(b"IEND", b"")
    parts = [
        png_chunk(
            b"iTXt",
            b"depthflux\0\1\0\0part %d of %d\0" % (number, count or len(texts)) + text,
        )
        for number, text in enumerate(texts, 1)
    ]
    return data.removesuffix(end) + b"".join(parts) + end


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        pytest.param([b"no zlib"], "does not unpack", id="no zlib"),
        pytest.param([zlib.compress(b"{}")[:-5]], "cut off", id="cut off"),
        pytest.param([zlib.compress(b"{")], "is no JSON", id="no JSON"),
        pytest.param([zlib.compress(b"\xff")], "is no JSON", id="no ASCII"),
        pytest.param([zlib.compress(b"[]")], "no JSON object", id="a list"),
        pytest.param([zlib.compress(b'{"a":NaN}')], "NaN is no JSON number", id="NaN"),
        pytest.param([zlib.compress(b'{"a":1' + b"0" * 9999 + b"}")], "no JSON", id="big number"),
        pytest.param([zlib.compress(nested(33))], "more than 32 deep", id="33 deep"),
        pytest.param([zlib.compress(nested(99999))], "damaged", id="99999 deep"),
        pytest.param(
            [zlib.compress(zlib.compress(bytes(MAX_RECORD_BYTES + 1)))], "no JSON", id="zip in zip"
        ),
        pytest.param([zlib.compress(bytes(MAX_RECORD_BYTES + 1))], "unpacks to over", id="bomb"),
        pytest.param(
            [zlib.compress(bytes(MAX_RECORD_BYTES // 2 + 1))] * 2, "unpacks to over", id="two bombs"
        ),
    ],
)
def test_hostile_records_are_refused(photo, texts, message):
    with pytest.raises(errors.UnreadableImageError, match=message) as caught:
        read_record(png_with(photo, *texts))

    assert "\n" not in str(caught.value)


def test_a_record_32_deep_is_read(photo):
    assert read_record(png_with(photo, zlib.compress(nested(32)))) == json.loads(nested(32))


def test_missing_and_mixed_up_parts_are_refused(photo):
    half = zlib.compress(b"{")
    jpeg = encode_image(Image.fromarray(photo), "jpeg", record={"a": "b" * 9})
    at = jpeg.index(b"depthflux\0") + 10

    with pytest.raises(errors.UnreadableImageError, match="1 of 2 parts"):
        read_record(png_with(photo, half, count=2))
    with pytest.raises(errors.UnreadableImageError, match="out of order"):
        read_record(png_with(photo, half, half, count=1))
    with pytest.raises(errors.UnreadableImageError, match="1 of 2 parts"):
        read_record(jpeg[:at] + struct.pack(">HH", 1, 2) + jpeg[at + 4 :])
    with pytest.raises(errors.UnreadableImageError, match="out of order"):
        read_record(jpeg[:at] + struct.pack(">HH", 2, 2) + jpeg[at + 4 :])
