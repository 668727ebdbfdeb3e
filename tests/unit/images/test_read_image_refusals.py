"""What `read_image` refuses, and how it says so."""

from __future__ import annotations

import base64
import io
import os
import struct
import urllib.parse

import numpy as np
import pytest
from image_fixtures import CERTIFICATE, encode, png_chunk
from PIL import Image

from depthflux import errors
from depthflux.images import ReadLimits, read_image


def png_header(width: int, height: int) -> bytes:
    """A PNG of 69 bytes that claims a size and has no pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


REFUSED: dict[str, tuple[object, str]] = {
    "nothing": (None, "None: is no picture; give a PNG"),
    "a number": (7, "is no picture"),
    "an empty text": ("  ", "is empty"),
    "an open file": (io.BytesIO(b"x"), "a BytesIO: is no picture"),
    "empty bytes": (b"", "0 bytes: is empty"),
    "text": (b"hello world\n", "is text, no PNG, JPEG or WebP"),
    "a GIF": (b"GIF89a" + bytes(20), "a GIF picture"),
    "a BMP": (encode(Image.new("L", (2, 2)), "BMP"), "a BMP picture"),
    "a TIFF": (encode(Image.new("L", (2, 2)), "TIFF"), "a TIFF picture"),
    "a HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture"),
    "a web page": (b"<!DOCTYPE html><html>", "a web page"),
    "an SVG": (b"<?xml version='1.0'?><svg/>", "an SVG drawing"),
    "noise": (bytes(range(1, 90)), "89 bytes of something else"),
    "a picture too large to decode": (png_header(50000, 50000), "50000x50000 pixels; at most 6710"),
    "a picture without pixels": (png_header(0, 5), "has no pixels"),
    "a data URI without comma": ("data:image/png;base64", "has no comma"),
    "a data URI of a text": ("data:text/plain,hello", "is text"),
    "base64 cut short": ("iVBORw0KGgo" + "A" * 2, "its length is impossible"),
    "base64 with a stranger": ("/9j/AAAA!AAA", "broken base64 \\(character '!' at 8\\)"),
    "base64 of something else": (
        base64.b64encode(bytes(90)).decode(), "neither a file nor base64 of a PNG"
    ),
    "an ftp URL": ("ftp://example.com/a.png", "scheme ftp; only http and https"),
    "a script": ("javascript://alert", "scheme javascript"),
    "a file elsewhere": ("file://server/a.png", "another machine"),
    "a NUL in a path": ("a\0b.png", "null"),
    "a device": ("/dev/zero", "no regular file"),
    "a home of nobody": ("~nobody-like-that/a.png", "home"),
    "four dimensions": (np.zeros((1, 4, 4, 3), np.uint8), "one picture at a time"),
    "channels first": (np.zeros((3, 4, 5), np.uint8), "channels come last"),
    "one dimension": (np.zeros(4, np.uint8), "shape \\(4,\\)"),
    "an empty array": (np.zeros((0, 4), np.uint8), "has no pixels"),
    "booleans": (np.zeros((4, 4), bool), "array of bool"),
    "64-bit integers": (np.zeros((4, 4), np.int64), "array of int64"),
    "objects": (np.array([["a"]], dtype=object), "array of object"),
    "16-bit colour": (np.zeros((4, 4, 3), np.uint16), "16 bits are read as grey"),
    "NaN": (np.full((4, 4), np.nan), "NaN or infinity"),
    "infinity": (np.full((4, 4, 3), np.inf, np.float16), "NaN or infinity"),
    "floats up to 255": (np.full((4, 4, 3), 255.0), "floats from 255 to 255; floats must lie"),
    "negative floats": (np.full((4, 4), -0.1), "floats must lie in 0..1"),
    "32-bit grey over 16 bits": (
        Image.fromarray(np.full((2, 2), 70000, np.int32)), "from 70000 to 70000"
    ),
    "LAB": (Image.new("LAB", (2, 2)), "mode LAB"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_read_image_refuses_in_one_line(name):
    source, message = REFUSED[name]

    with pytest.raises(errors.UnreadableImageError, match=message) as caught:
        read_image(source, field="picture")

    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("picture=")
    assert caught.value.field == "picture"
    assert "PNG, JPEG or WebP" in caught.value.allowed


def test_a_missing_file_is_named_and_a_near_one_suggested(tmp_path):
    (tmp_path / "kitchen.png").write_bytes(b"")

    with pytest.raises(errors.UnreadableImageError, match=r"no such file; the nearest is 'kitchen"):
        read_image(tmp_path / "kitchn.png")
    with pytest.raises(errors.UnreadableImageError, match="no such file; its folder is"):
        read_image(str(tmp_path / "zzz"))
    with pytest.raises(errors.UnreadableImageError, match="nor is there a folder"):
        read_image(str(tmp_path / "no" / "kitchen.png"))


def test_a_folder_a_pipe_and_a_locked_file_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(errors.UnreadableImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(errors.UnreadableImageError, match="no regular file"):
        read_image(tmp_path / "pipe")
    with pytest.raises(errors.UnreadableImageError, match="cannot be read"):
        read_image(CERTIFICATE / "below-a-file.png")
    with pytest.raises(errors.UnreadableImageError, match="cannot be read"):
        read_image("a" * 300 + ".png")


def test_files_can_be_forbidden_without_telling_whether_they_exist(photo, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(Image.fromarray(photo), "PNG"))
    served = ReadLimits(allow_files=False)

    for source in (str(path), path, path.as_uri(), str(tmp_path / "absent.png"), str(tmp_path)):
        with pytest.raises(errors.UnreadableImageError, match="not read here; upload"):
            read_image(source, limits=served)

    assert np.array_equal(read_image(path.read_bytes(), limits=served).rgb, photo)


def test_the_byte_cap_holds_for_every_way_in(photo, tmp_path):
    data = encode(Image.fromarray(photo), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    small, exact = ReadLimits(max_bytes=len(data) - 1), ReadLimits(max_bytes=len(data))

    for source in (data, path, text, f"data:;base64,{text}", "data:," + urllib.parse.quote(data)):
        with pytest.raises(errors.UnreadableImageError, match=f"at most {len(data) - 1} bytes"):
            read_image(source, limits=small)
        assert np.array_equal(read_image(source, limits=exact).rgb, photo)


def test_the_cap_of_a_side_holds_for_files_images_and_arrays(photo):
    image = Image.fromarray(photo)
    limits = ReadLimits(max_side=47)

    sources = [photo, image, *(encode(image, name) for name in ("PNG", "JPEG", "WEBP"))]
    for source in sources:
        with pytest.raises(errors.UnreadableImageError, match="at most 47 are read in one"):
            read_image(source, limits=limits)
        assert read_image(source, limits=ReadLimits(max_side=48)).size == (32, 48)


def test_a_picture_that_is_all_side_is_refused_by_its_header():
    with pytest.raises(errors.UnreadableImageError, match="67108864x1 pixels"):
        read_image(png_header(2**26, 1))


def test_the_pixel_cap_holds_for_files_images_and_arrays(photo):
    image = Image.fromarray(photo)
    limits = ReadLimits(max_pixels=32 * 48 - 1)

    sources = [photo, image, *(encode(image, name) for name in ("PNG", "JPEG", "WEBP"))]
    for source in sources:
        with pytest.raises(errors.UnreadableImageError, match="has 32x48 pixels"):
            read_image(source, limits=limits)
        assert read_image(source, limits=ReadLimits(max_pixels=32 * 48)).size == (32, 48)


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_animations_are_refused_unless_allowed(photo, name):
    image = Image.fromarray(photo)
    data = encode(image, name, save_all=True, append_images=[image.rotate(180)], lossless=True)

    with pytest.raises(errors.UnreadableImageError, match="is an animation of 2 frames"):
        read_image(data)

    first = read_image(data, limits=ReadLimits(max_frames=2))
    assert np.array_equal(first.rgb, photo)
    assert np.array_equal(read_image(first.data, limits=ReadLimits(max_frames=2)).rgb, photo)
