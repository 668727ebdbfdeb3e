"""The WebP container: RIFF chunks in, RIFF chunks out.

Knows chunk lengths, the three places where a size stands, and the flags of VP8X. It does not
decode; alpha and animation are passed on as they are.

Source: WebP container specification (RFC 9649), sections 2.3 to 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from depthflux.images import exif
from depthflux.images.container import DamagedError, Header
from depthflux.images.packing import pack, unpack

_PIXEL_CHUNKS = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_FLAG_ANIMATION, _FLAG_EXIF, _FLAG_ALPHA = 0x02, 0x08, 0x10
_MAX_CHUNKS = 1 << 16

#: The specification keeps unknown chunks free "for application-specific data" (section 2.7.1.6),
#: and readers must ignore them.
_RECORD = b"DPFX"


class Chunk(NamedTuple):
    """One chunk: its four-letter type and its content without padding."""

    kind: bytes
    body: bytes


def read_header(data: bytes) -> Header:
    """Size, frames and orientation; the container is walked to its end.

    Raises:
        PictureProblemError: the container is cut off or damaged.
    """
    canvas: tuple[int, int] | None = None
    picture: tuple[int, int] | None = None
    frames, orientation = 0, 1
    for kind, body in _chunks(data):
        if kind == b"VP8X":
            _require(len(body) >= 10 and canvas is None)
            canvas = (_uint24(body, 4) + 1, _uint24(body, 7) + 1)
        elif kind in (b"VP8 ", b"VP8L"):
            picture = picture or _bitstream_size(kind, body)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = exif.orientation_of(body)
    if frames == 0:
        # A still picture fills its canvas; two sizes would be two opinions of what is allocated.
        _require(picture is not None and canvas in (None, picture))
    size = canvas or picture
    if size is None:
        raise DamagedError("a WebP without pixels")
    return Header(
        format="webp",
        width=size[0],
        height=size[1],
        frames=max(frames, 1),
        orientation=orientation,
    )


def strip(data: bytes, orientation: int) -> bytes:
    """Pixels, alpha and animation only; an orientation is said again in a minimal EXIF chunk."""
    kept: list[Chunk] = []
    for kind, body in _chunks(data):
        if kind == b"VP8X":
            flags = body[0] & (_FLAG_ALPHA | _FLAG_ANIMATION)
            flags |= _FLAG_EXIF if orientation != 1 else 0
            kept.append(Chunk(kind, bytes([flags, 0, 0, 0]) + body[4:10]))
        elif kind in _PIXEL_CHUNKS:
            kept.append(Chunk(kind, body))
    if orientation != 1:
        kept.append(Chunk(b"EXIF", exif.with_orientation(orientation)))
    return _riff(kept)


def embed(data: bytes, record: bytes) -> bytes:
    """The picture with the record in a chunk "DPFX" at its end.

    Further chunks are allowed only in the extended form, so a simple file gets its VP8X first.
    """
    chunks = list(_chunks(data))
    if chunks[0].kind != b"VP8X":
        header = read_header(data)
        # The alpha bit of a lossless picture: the one after two 14-bit sizes.
        alpha = chunks[0].kind == b"VP8L" and chunks[0].body[4] & 0x10
        canvas = _bytes24(header.width - 1) + _bytes24(header.height - 1)
        chunks.insert(0, Chunk(b"VP8X", bytes([_FLAG_ALPHA if alpha else 0, 0, 0, 0]) + canvas))
    return _riff([*chunks, Chunk(_RECORD, pack(record))])


def extract(data: bytes) -> bytes | None:
    """The record's bytes, None where there is no "DPFX" chunk.

    Raises:
        PictureProblemError: the container or the record is damaged, or unpacks to too much.
    """
    for kind, body in _chunks(data):
        if kind == _RECORD:
            return unpack([body])
    return None


def _riff(chunks: list[Chunk]) -> bytes:
    parts = [
        kind + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)
        for kind, body in chunks
    ]
    size = 4 + sum(len(part) for part in parts)
    return b"".join([b"RIFF", struct.pack("<I", size), b"WEBP", *parts])


def _chunks(data: bytes) -> Iterator[Chunk]:
    """All chunks within the size that the file claims; bytes after it are ignored."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise DamagedError("the WebP is cut off")
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > end:
            raise DamagedError("the WebP is cut off")
        yield Chunk(kind, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise DamagedError(f"a WebP of more than {_MAX_CHUNKS} chunks")


def _bitstream_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Width and height in a frame header: RFC 6386 section 9.1 (VP8), RFC 9649 section 3.4."""
    if kind == b"VP8 ":
        _require(len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a")
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    _require(len(body) >= 5 and body[0] == 0x2F)
    (bits,) = struct.unpack_from("<I", body, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _uint24(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 3], "little")


def _bytes24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _require(consistent: bool) -> None:
    if not consistent:
        raise DamagedError("a WebP header that contradicts itself")
