"""The one fact of EXIF that changes pixels: the orientation.

Everything else in EXIF (place, time, camera, thumbnail) is left behind, and is not even parsed.
"""

from __future__ import annotations

import struct

PREFIX = b"Exif\x00\x00"
_ORIENTATION_TAG = 0x0112
_TYPE_SHORT, _TYPE_LONG = 3, 4


def orientation_of(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 where it says none or makes no sense.

    A broken block is no reason to refuse a picture whose pixels are whole, so it counts as silent.

    Source: TIFF 6.0, section 2 (header and image file directory); Exif 2.32, tag 0x0112.
    """
    tiff = exif.removeprefix(PREFIX)
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if directory + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for position in range(directory + 2, directory + 2 + 12 * entries, 12):
        if position + 12 > len(tiff):
            return 1
        tag, kind = struct.unpack_from(f"{order}HH", tiff, position)
        if tag == _ORIENTATION_TAG and kind in (_TYPE_SHORT, _TYPE_LONG):
            letter = "H" if kind == _TYPE_SHORT else "I"
            (value,) = struct.unpack_from(f"{order}{letter}", tiff, position + 8)
            return int(value) if 1 <= value <= 8 else 1
    return 1


def with_orientation(orientation: int) -> bytes:
    """The smallest EXIF block that says this orientation, without the "Exif" prefix: 26 bytes."""
    entry = struct.pack(">HHIHH", _ORIENTATION_TAG, _TYPE_SHORT, 1, orientation, 0)
    return b"MM\x00*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
