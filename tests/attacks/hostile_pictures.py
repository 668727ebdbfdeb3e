"""Pictures that are meant to do harm: small files that claim, or unpack to, very much.

Built here byte by byte, since no encoder writes them.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from typing import Any

from PIL import Image

MIB = 2**20


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


PLAIN = Image.new("RGB", (8, 8), (100, 150, 200))
PNG, JPEG, WEBP = (encode(PLAIN, name) for name in ("PNG", "JPEG", "WEBP"))
PROGRESSIVE = encode(PLAIN.convert("L"), "JPEG", progressive=True)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(mebibytes: int) -> bytes:
    """So many mebibytes of zeros as zlib packs them: a thousandth of it."""
    packer, block = zlib.compressobj(9), bytes(MIB)
    packed = [packer.compress(block) for _ in range(mebibytes)]
    return b"".join([*packed, packer.flush()])


def png(
    width: int, height: int, pixels: bytes, *before: bytes, colour: int = 2, depth: int = 8
) -> bytes:
    """A PNG of this size, whatever its pixels really are, with chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG of this size whose every scan passes over all of it."""
    head = bytearray(PROGRESSIVE[: PROGRESSIVE.index(b"\xff\xda")])
    frame = head.index(b"\xff\xc2")
    head[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(head) + bytes.fromhex("ffda000801010000000000") * scans + b"\xff\xd9"


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _animation(frames: int) -> bytes:
    first, *others = (Image.new("RGB", (8, 8), (4 * n, 0, 99)) for n in range(frames))
    return encode(first, "WEBP", save_all=True, append_images=others, duration=9)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../evil.sh", "rm -rf /")
    return buffer.getvalue()


_SMALL = zlib.compress(bytes(8 * 25))
_BOMB = zeros(64)
_TRUNCATED = slice(0, -20)

#: What is refused when it is handed in: its container says enough.
REFUSED = {
    "PNG of 60000 x 60000": png(60_000, 60_000, _SMALL),
    "PNG of 2 thousand million x 1": png(2**31 - 1, 1, _SMALL),
    "PNG of 4 thousand million squared": png(2**32 - 1, 2**32 - 1, _SMALL),
    "PNG without width": png(0, 8, _SMALL),
    "PNG of 70000 chunks": png(8, 8, _SMALL, *[chunk(b"tEXt", b"")] * 70_000),
    "PNG with two headers": png(8, 8, _SMALL, chunk(b"IHDR", bytes(13))),
    "PNG whose chunk is longer than all": PNG[:8] + struct.pack(">I", 2**31 - 1) + PNG[12:],
    "PNG cut off": PNG[_TRUNCATED],
    "APNG of 4 thousand million frames": png(
        8, 8, _SMALL, chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))
    ),
    "JPEG of 65500 x 65500": jpeg(65_500, 65_500, 1),
    "JPEG of 20000 scans": jpeg(8000, 8000, 20_000),
    "JPEG without scans": jpeg(8, 8, 0),
    "JPEG with two frames": JPEG[: JPEG.index(b"\xff\xda")] + JPEG[2:],
    "JPEG cut off": JPEG[_TRUNCATED],
    "WebP animation": _animation(60),
    "WebP of 16 million squared": webp(
        (b"VP8X", bytes(4) + b"\xff" * 6), (b"VP8 ", WEBP[20 : 20 + len(WEBP) - 20])
    ),
    "WebP whose size is a lie": WEBP[:4] + struct.pack("<I", 2**31) + WEBP[8:],
    "WebP of 70000 chunks": webp(*[(b"JUNK", b"")] * 70_000),
    "GIF": encode(PLAIN, "GIF"),
    "TIFF": encode(PLAIN, "TIFF"),
    "ICO": encode(PLAIN, "ICO"),
    "BMP": encode(PLAIN, "BMP"),
    "PCX": encode(PLAIN, "PCX"),
    "TGA": encode(PLAIN, "TGA"),
    "EPS, which starts Ghostscript": encode(PLAIN, "EPS"),
    "PSD": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30_000, 30_000, 8, 3) + bytes(400),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PDF": b"%PDF-1.7\n1 0 obj\n<< /OpenAction << /S /Launch >> >>\nendobj\n",
    "ZIP": _zip(),
    "GIF with a PNG behind it": encode(PLAIN, "GIF") + PNG,
    "script with a PNG behind it": b"#!/bin/sh\nrm -rf /\n" + PNG,
    "nothing but a PNG's first bytes": PNG[:8],
    "nothing": b"\n",
}

#: What only decoding finds out: it is taken in, and its prediction fails.
FAILING = {
    "PNG of 8000 x 8000 with 25 rows' bytes": png(8000, 8000, _SMALL),
    "PNG with pixels that do not unpack": png(8, 8, b"\x00" * 500),
    "PNG of an unknown colour type": png(8, 8, _SMALL, colour=5),
    "PNG of an impossible depth": png(8, 8, _SMALL, depth=7),
    "PNG of a palette without its palette": png(8, 8, _SMALL, colour=3),
    "JPEG of nothing but zeros in a scan": JPEG[: JPEG.index(b"\xff\xda")]
    + b"\xff\xda\x00\x0c\x03\x09\x00\x09\x11\x09\x11\x00\x3f\x00\x00\xff\xd9",
    "WebP whose pixels are noise": webp((b"VP8L", b"\x2f\x07\xc0\x01\x00" + b"\xa5" * 60)),
    "WebP whose alpha is noise": webp(
        (b"VP8X", b"\x10\0\0\0" + b"\x07\0\0" * 2),
        (b"ALPH", b"\x01" + b"\xff" * 40),
        (b"VP8 ", WEBP[20:]),
    ),
}

#: What is a picture all the same, once it is stripped.
HARMLESS = {
    "PNG with a bomb as its profile": png(8, 8, _SMALL, chunk(b"iCCP", b"a\0\0" + _BOMB)),
    "PNG with a bomb as its text": png(8, 8, _SMALL, chunk(b"zTXt", b"a\0\0" + _BOMB)),
    "PNG with a bomb as its international text": png(
        8, 8, _SMALL, chunk(b"iTXt", b"a\0\1\0\0\0" + _BOMB)
    ),
    "PNG of 8 x 8 with 64 mebibytes of pixels": png(8, 8, _BOMB),
    "APNG that claims one frame and has 2000": png(
        8,
        8,
        _SMALL,
        chunk(b"acTL", struct.pack(">II", 1, 0)),
        *[chunk(b"fdAT", bytes(4) + _SMALL)] * 2000,
    ),
    "PNG with a ZIP behind it": PNG + _zip(),
    "JPEG with a page behind it": JPEG + b"<script>alert(1)</script>",
    "MPO of two pictures": encode(PLAIN, "MPO", save_all=True, append_images=[PLAIN]),
}


def damaged(count: int, seed: int) -> list[bytes]:
    """So many damaged pictures: a few places flipped, cut out, repeated or overwritten."""
    chance = random.Random(seed)
    lossless = encode(PLAIN.convert("RGBA"), "WEBP", lossless=True)
    found = []
    for number in range(count):
        whole = bytearray((PNG, JPEG, WEBP, PROGRESSIVE, lossless)[number % 5])
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(8, len(whole))
            match chance.randrange(3):
                case 0:
                    whole[at] ^= 1 << chance.randrange(8)
                case 1:
                    whole[at:at] = whole[at : at + chance.randint(1, 40)]
                case _:
                    whole[at : at + 2] = chance.choice([b"\0\0", b"\xff\xff", b"\x7f\xff"])
        found.append(_with_right_checksums(whole) if number % 5 == 0 else bytes(whole))
    return found


def _with_right_checksums(broken: bytearray) -> bytes:
    """A PNG's checksums made right again, so that damage reaches the decoder."""
    position = 8
    while position + 12 <= len(broken):
        end = position + 8 + int.from_bytes(broken[position : position + 4], "big")
        if end + 4 > len(broken):
            break
        broken[end : end + 4] = struct.pack(">I", zlib.crc32(broken[position + 4 : end]))
        position = end + 4
    return bytes(broken)
