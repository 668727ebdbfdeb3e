"""A run's pictures on the page: small, linked, and never a reason for no page."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthflux.bench.report.cases import MOST_PAIRS
from depthflux.bench.report.pictures import (
    PICTURE_BYTES,
    SMALL_BYTES,
    SMALL_SIDES,
    Shown,
    show_picture,
)

MOST_PAGE_BYTES = 20_000_000


def embedded(shown: Shown) -> bytes:
    head, _, body = shown.uri.partition(",")
    assert head == "data:image/webp;base64"
    return base64.b64decode(body, validate=True)


def noise(side: int) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_large_picture_is_made_small_and_its_size_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (1536, 1024), "teal").save(tmp_path / "0.png")

    shown = show_picture(tmp_path, "0.png")

    with Image.open(io.BytesIO(embedded(shown))) as small:
        assert small.size == (shown.small_width, shown.small_height) == (896, 597)
    assert (shown.width, shown.height, shown.link, shown.problem) == (1536, 1024, "0.png", "")


def test_a_small_picture_is_not_made_larger(tmp_path: Path) -> None:
    Image.new("L", (64, 48), 200).save(tmp_path / "0.png")

    assert show_picture(tmp_path, "0.png").small_width == 64


def test_pixels_that_do_not_compress_stay_within_the_bytes(tmp_path: Path) -> None:
    noise(1024).save(tmp_path / "0.png")

    large = embedded(show_picture(tmp_path, "0.png"))
    small = embedded(show_picture(tmp_path, "0.png", sides=SMALL_SIDES, most_bytes=SMALL_BYTES))

    assert len(large) <= PICTURE_BYTES
    # The smallest side may exceed it, for noise and nothing else.
    assert len(small) <= 3 * SMALL_BYTES


def test_a_page_full_of_pairs_stays_below_20_megabytes() -> None:
    pair = 2 * PICTURE_BYTES + 4 * SMALL_BYTES

    assert MOST_PAIRS * pair * 4 / 3 < MOST_PAGE_BYTES


def test_nothing_of_the_file_but_its_pixels_is_embedded(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 32))
    exif = Image.Exif()
    exif[0x010E] = "a private place"
    picture.save(tmp_path / "0.jpg", exif=exif)

    assert b"private" not in embedded(show_picture(tmp_path, "0.jpg"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "No such file"),
        (b"no picture", "picture"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
    ],
    ids=["missing", "a text", "cut"],
)
def test_a_picture_that_cannot_be_read_is_the_reason(
    data: bytes | None, reason: str, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / "0.png").write_bytes(data)

    shown = show_picture(tmp_path, "0.png")

    assert shown.uri == ""
    assert shown.link == "0.png"
    assert reason in shown.problem


@pytest.mark.parametrize(
    "file", ["../out.png", "/etc/passwd", "a/../../b.png", "..\\b.png", "", "//host/b.png"]
)
def test_a_path_out_of_the_folder_is_neither_read_nor_linked(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "out.png")

    shown = show_picture(folder, file)

    assert (shown.uri, shown.link) == ("", "")
    assert "leaves the run's folder" in shown.problem


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "out.png")
    folder = tmp_path / "run"
    folder.mkdir()
    os.symlink(tmp_path / "out.png", folder / "0.png")

    assert show_picture(folder, "0.png").uri == ""


def test_a_link_cannot_become_a_scheme(tmp_path: Path) -> None:
    shown = show_picture(tmp_path, 'javascript:alert(1)"')

    assert shown.link == "javascript%3Aalert%281%29%22"
