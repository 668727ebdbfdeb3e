"""The JPEG container: marker segments in, marker segments out.

Knows where segments and scans begin and end; coefficients stay compressed. It does not decode, and
leaves colour spaces to the decoder, for which it keeps the JFIF and Adobe markers.

Source: ITU-T T.81 annex B (segments), JFIF 1.02, Adobe technical note 5116 (APP14).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from depthflux.images import exif
from depthflux.images.container import DamagedError, Header
from depthflux.images.packing import pack, unpack

_SOI, _EOI, _SOS, _DHT, _DAC = 0xD8, 0xD9, 0xDA, 0xC4, 0xCC
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_DQT, _DRI = 0xDB, 0xDD
#: Start of frame: C0 to CF without the Huffman table, the reserved one and arithmetic conditioning.
_FRAMES = set(range(0xC0, 0xD0)) - {_DHT, 0xC8, _DAC}
_TABLES = {_DQT, _DHT, _DAC, _DRI}

#: A marker inside a scan: any FF not followed by a stuffed 00, a restart marker or another FF.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

#: Encoders write 1 to 12 scans. Each scan of a progressive JPEG passes over the whole picture, so
#: a file of thousands would keep a decoder busy for minutes.
_MAX_SCANS = 100
_MAX_SEGMENTS = 1 << 16

_IDENTIFIER = b"depthflux\x00"
#: A segment holds 65533 bytes; ours spends 10 on its identifier and 4 on "part i of n".
_PART_BYTES = 65533 - len(_IDENTIFIER) - 4


class Segment(NamedTuple):
    """One segment: marker, content without the length, and what follows it in a scan."""

    marker: int
    body: bytes
    scan: bytes


def read_header(data: bytes) -> Header:
    """Size and orientation; the container is walked to its end, so a cut-off file is found.

    Raises:
        PictureProblemError: the container is cut off or damaged, or has an absurd number of scans.
    """
    size: tuple[int, int] | None = None
    orientation: int | None = None
    scans = 0
    for segment in _segments(data):
        if segment.marker in _FRAMES:
            if size is not None or len(segment.body) < 6:
                raise DamagedError("a JPEG with two frames or a broken one")
            height, width = struct.unpack_from(">HH", segment.body, 1)
            size = (width, height)
        elif segment.marker == _APP1 and segment.body.startswith(exif.PREFIX):
            orientation = orientation or exif.orientation_of(segment.body)
        elif segment.marker == _SOS:
            scans += 1
    if size is None or scans == 0:
        raise DamagedError("a JPEG without pixels")
    if scans > _MAX_SCANS:
        raise DamagedError(f"{scans} scans; no encoder writes more than {_MAX_SCANS}")
    width, height = size
    return Header(format="jpeg", width=width, height=height, frames=1, orientation=orientation or 1)


def strip(data: bytes, orientation: int) -> bytes:
    """Frame, tables, scans and the two markers that decide colours; an orientation is said again.

    Everything behind the first picture's end (previews, gain maps, videos of motion photos) goes.
    """
    kept = [b"\xff\xd8"]
    if orientation != 1:
        kept.append(_segment(_APP1, exif.PREFIX + exif.with_orientation(orientation)))
    for marker, body, scan in _segments(data):
        if marker == _APP0 and body.startswith(b"JFIF\x00") and len(body) >= 14:
            # Version, density, and a thumbnail of 0 by 0.
            kept.insert(1, _segment(_APP0, body[:12] + b"\x00\x00"))
        elif marker == _APP14 and body.startswith(b"Adobe"):
            kept.append(_segment(_APP14, body[:12]))
        elif marker in _FRAMES or marker in _TABLES or marker == _SOS:
            kept.append(_segment(marker, body) + scan)
    return b"".join([*kept, b"\xff\xd9"])


def embed(data: bytes, record: bytes) -> bytes:
    """The picture with the record in as many APP15 segments as it needs.

    APP15 because nothing else lives there: APP1 is EXIF and XMP, APP2 colour profiles, APP11 C2PA,
    APP13 Photoshop. Each begins with the identifier "depthflux" and its number and count (uint16).
    """
    packed = pack(record)
    starts = range(0, len(packed), _PART_BYTES)
    ours = [
        _segment(
            _APP15,
            _IDENTIFIER + struct.pack(">HH", number, len(starts)) + packed[at : at + _PART_BYTES],
        )
        for number, at in enumerate(starts, 1)
    ]
    # JFIF wants its APP0 directly after the start.
    begin = 2
    if data[2:4] == b"\xff\xe0":
        begin += 2 + struct.unpack_from(">H", data, 4)[0]
    return b"".join([data[:begin], *ours, data[begin:]])


def extract(data: bytes) -> bytes | None:
    """The record's bytes, None where no APP15 segment carries the identifier.

    Raises:
        PictureProblemError: the container or the record is damaged, or unpacks to too much.
    """
    parts: list[bytes] = []
    count = 0
    for marker, body, _ in _segments(data):
        if marker != _APP15 or not body.startswith(_IDENTIFIER):
            continue
        if len(body) < len(_IDENTIFIER) + 4:
            raise DamagedError("a part of its depthflux record has no number")
        number, count = struct.unpack_from(">HH", body, len(_IDENTIFIER))
        if number != len(parts) + 1:
            raise DamagedError("the parts of its depthflux record are out of order")
        parts.append(body[len(_IDENTIFIER) + 4 :])
    if len(parts) != count:
        raise DamagedError(f"{len(parts)} of {count} parts of its depthflux record")
    return unpack([b"".join(parts)]) if parts else None


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _segments(data: bytes) -> Iterator[Segment]:
    """All segments between the start and the end of the first picture."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        # Decoders skip stray bytes between segments, and some cameras write them.
        found = _NEXT_MARKER.search(data, position)
        if found is None:
            raise DamagedError("the JPEG is cut off")
        marker, position = data[found.end() - 1], found.end()
        if marker == _EOI:
            return
        if marker in (_SOI, 0x01):
            continue
        length = struct.unpack_from(">H", data, position)[0] if position + 2 <= len(data) else 0
        end = position + length
        if length < 2 or end > len(data):
            raise DamagedError("the JPEG is cut off")
        scan = b""
        body = data[position + 2 : end]
        if marker == _SOS:
            after = _NEXT_MARKER.search(data, end)
            if after is None:
                raise DamagedError("the JPEG is cut off")
            scan = data[end : after.start()]
            end = after.start()
        yield Segment(marker, body, scan)
        position = end
    raise DamagedError(f"a JPEG of more than {_MAX_SEGMENTS} segments")
