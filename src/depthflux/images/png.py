"""The PNG container: chunks in, chunks out.

Knows lengths, types and checksums; pixels stay compressed. It does not decode, and leaves the
meaning of palettes and transparency to the decoder.

Source: PNG specification, third edition (W3C, 2025), sections 5, 10 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from depthflux.images import exif
from depthflux.images.container import DamagedError, Header
from depthflux.images.packing import pack, unpack

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}

#: More chunks than any encoder writes (8 KiB a chunk is usual); a file of empty chunks would keep
#: the walk below busy for seconds.
_MAX_CHUNKS = 1 << 16

_KEYWORD = b"depthflux"
#: A compressed text chunk may unpack to 1 MiB at most in Pillow (`PngImagePlugin.MAX_TEXT_CHUNK`),
#: which otherwise refuses the whole picture; longer records continue in further chunks.
_PART_BYTES = 1_000_000


class Chunk(NamedTuple):
    """One chunk: its four-letter type, its content, and all its bytes with length and checksum."""

    kind: bytes
    body: bytes
    whole: bytes


def read_header(data: bytes) -> Header:
    """Size, frames and orientation; the whole container is walked and its checksums compared.

    Raises:
        PictureProblemError: the container is cut off or damaged.
    """
    frames, orientation, has_pixels = 1, 1, False
    for chunk in _chunks(data):
        if chunk.kind == b"acTL" and len(chunk.body) == 8:
            frames = max(1, struct.unpack(">I", chunk.body[:4])[0])
        elif chunk.kind == b"eXIf":
            orientation = exif.orientation_of(chunk.body)
        has_pixels = has_pixels or chunk.kind == b"IDAT"
    if not has_pixels:
        raise DamagedError("a PNG without pixels")
    width, height = struct.unpack_from(">II", data, 16)
    return Header(format="png", width=width, height=height, frames=frames, orientation=orientation)


def strip(data: bytes, orientation: int) -> bytes:
    """Header, palette, transparency and pixels only; an orientation is said again in 38 bytes."""
    kept = [SIGNATURE]
    for chunk in _chunks(data):
        if chunk.kind in _PIXEL_CHUNKS:
            kept.append(chunk.whole)
        if chunk.kind == b"IHDR" and orientation != 1:
            kept.append(_chunk(b"eXIf", exif.with_orientation(orientation)))
    return b"".join([*kept, _chunk(b"IEND", b"")])


def embed(data: bytes, record: bytes) -> bytes:
    """The picture with the record in compressed iTXt chunks, keyword "depthflux".

    They stand behind the pixels, so that whoever reads only the beginning for a size or a preview
    is not kept waiting by a control image.
    """
    starts = range(0, len(record), _PART_BYTES)
    parts = [
        _KEYWORD + b"\x00\x01\x00\x00" + b"part %d of %d\x00" % (number, len(starts))
        + pack(record[start : start + _PART_BYTES])
        for number, start in enumerate(starts, 1)
    ]  # fmt: skip
    end = _chunk(b"IEND", b"")
    whole = [chunk.whole for chunk in _chunks(data) if chunk.kind != b"IEND"]
    return b"".join([SIGNATURE, *whole, *(_chunk(b"iTXt", part) for part in parts), end])


def extract(data: bytes) -> bytes | None:
    """The record's bytes, None where no iTXt chunk carries the keyword.

    Raises:
        PictureProblemError: the container or the record is damaged, or unpacks to too much.
    """
    prefix = _KEYWORD + b"\x00\x01\x00\x00"
    parts: list[bytes] = []
    for chunk in _chunks(data):
        if chunk.kind != b"iTXt" or not chunk.body.startswith(prefix):
            continue
        label, found, packed = chunk.body[len(prefix) :].partition(b"\x00")
        number, count = _numbers(label)
        if not found or number != len(parts) + 1 or count < number:
            raise DamagedError("the parts of its depthflux record are out of order")
        parts.append(packed)
    if parts and len(parts) != count:
        raise DamagedError(f"{len(parts)} of {count} parts of its depthflux record")
    return unpack(parts) if parts else None


def _numbers(label: bytes) -> tuple[int, int]:
    words = label.split(b" ")
    if len(words) == 4 and all(word.isdigit() and len(word) <= 6 for word in words[1::2]):
        return int(words[1]), int(words[3])
    raise DamagedError("a part of its depthflux record has no number")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _chunks(data: bytes) -> Iterator[Chunk]:
    """All chunks from IHDR to IEND; bytes after it are ignored."""
    position, number = len(SIGNATURE), 0
    while True:
        if position + 12 > len(data):
            raise DamagedError("the PNG is cut off")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise DamagedError("the PNG is cut off")
        chunk = Chunk(kind, data[position + 8 : end - 4], data[position:end])
        _check(chunk, number)
        yield chunk
        if kind == b"IEND":
            return
        position, number = end, number + 1


def _check(chunk: Chunk, number: int) -> None:
    kind, body, whole = chunk
    if number == 0 and (kind != b"IHDR" or len(body) != 13):
        raise DamagedError("the PNG does not begin with its header")
    if number > 0 and kind == b"IHDR":
        raise DamagedError("a PNG with two headers")
    if number >= _MAX_CHUNKS:
        raise DamagedError(f"a PNG of more than {_MAX_CHUNKS} chunks")
    # A capital first letter means: without this chunk the picture cannot be shown.
    critical = kind[:1].isupper()
    if critical and kind not in _PIXEL_CHUNKS and kind != b"IEND":
        raise DamagedError(f"an unknown critical PNG chunk {kind!r}")
    if not kind.isalpha():
        raise DamagedError(f"no PNG chunk is called {kind!r}")
    wanted = critical or kind in (b"tRNS", b"iTXt")
    if wanted and zlib.crc32(whole[4:-4]) != struct.unpack(">I", whole[-4:])[0]:
        raise DamagedError(f"the checksum of PNG chunk {kind.decode()} does not match")
