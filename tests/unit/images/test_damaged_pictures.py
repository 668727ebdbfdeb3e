"""Thousands of damaged pictures: each is read or refused with our own error, and nothing else."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from image_fixtures import encode
from PIL import Image

from depthflux import errors
from depthflux.images import ReadLimits, encode_image, read_image, read_record

LIMITS = ReadLimits(max_pixels=200_000)


def seeds(photo: np.ndarray) -> dict[str, bytes]:
    image = Image.fromarray(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = image.quantize(16)
    return {
        "png": encode(image, "PNG", exif=exif),
        "palette": encode(palette, "PNG", transparency=3),
        "wide": encode(Image.fromarray(photo[:, :, 0].astype(np.uint16) * 250), "PNG"),
        "jpeg": encode(image, "JPEG", exif=exif),
        "progressive": encode(image, "JPEG", progressive=True),
        "cmyk": encode(image.convert("CMYK"), "JPEG"),
        "webp": encode(image, "WEBP", exif=exif),
        "lossless": encode(image.convert("RGBA"), "WEBP", lossless=True),
        "animation": encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
    }


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut out, repeat or overwrite a few places, mostly near the header."""
    broken = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(broken), chance.choice([64, 600, 10**6])))
        action = chance.randrange(4)
        if action == 0:
            broken[at] ^= 1 << chance.randrange(8)
        elif action == 1:
            del broken[at : at + chance.randint(1, 9)]
        elif action == 2:
            broken[at:at] = broken[at : at + chance.randint(1, 40)]
        else:
            broken[at : at + 2] = chance.choice([b"\0\0", b"\xff\xff", b"\x7f\xff", b"\xff\xd8"])
        if len(broken) < 8:
            break
    return bytes(broken)


def with_right_checksums(data: bytes) -> bytes:
    """A PNG's checksums made right again, so that damage reaches the decoder."""
    fixed, position = bytearray(data), 8
    while position + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, position)
        end = position + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


@pytest.mark.parametrize("name", ["png", "palette", "wide", "jpeg", "progressive", "cmyk", "webp",
                                  "lossless", "animation"])  # fmt: skip
def test_damaged_pictures_are_read_or_refused_and_nothing_else(photo, name):
    data = seeds(photo)[name]
    chance = random.Random(name)
    outcomes = {"read": 0, "refused": 0}
    lines: set[int] = set()

    for _ in range(400):
        broken = mutate(data, chance)
        if name in ("png", "palette", "wide"):
            broken = with_right_checksums(broken)
        try:
            image = read_image(broken, limits=LIMITS)
        except errors.UnreadableImageError as error:
            outcomes["refused"] += 1
            lines |= {str(error).count("\n")}
        else:
            assert np.array_equal(read_image(image.data, limits=LIMITS).rgb, image.rgb)
            outcomes["read"] += 1

    assert outcomes["refused"] > 20, outcomes
    assert lines == {0}


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_damaged_records_are_read_or_refused_and_nothing_else(photo, output_format):
    record = {"prompt": "a room", "control_image": "A" * 3000, "seed": 7}
    data = encode_image(Image.fromarray(photo), output_format, record=record)
    chance = random.Random(output_format)
    refused = 0
    lines: set[int] = set()

    for _ in range(400):
        broken = mutate(data, chance)
        if output_format == "png":
            broken = with_right_checksums(broken)
        try:
            read_record(broken)
        except errors.UnreadableImageError as error:
            refused += 1
            lines |= {str(error).count("\n")}

    assert refused > 20
    assert lines == {0}


def test_texts_of_all_kinds_are_refused_and_nothing_else():
    chance = random.Random(3)
    letters = "aZ09+/=_-.:;,%\\ \n\t\0~?#@[]éðŸ"
    beginnings = ["", "data:", "data:;base64,", "file:", "file://", "/9j/", "iVBORw0KGgo", "~"]

    for _ in range(1500):
        text = chance.choice(beginnings)
        text += "".join(chance.choice(letters) for _ in range(chance.randint(0, 90)))
        with pytest.raises(errors.UnreadableImageError):
            read_image(text)
