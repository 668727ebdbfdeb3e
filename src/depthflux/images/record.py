"""The record inside a picture: a JSON document that says what made it.

Puts it into PNG, JPEG and WebP without touching a pixel, and reads it back without trusting it.
Does not know what a record says; reading one runs nothing and fetches nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from depthflux.errors import OutputError, UnreadableImageError
from depthflux.images.container import DamagedError, PictureProblemError
from depthflux.images.formats import ROOMS, require_format
from depthflux.images.limits import ReadLimits
from depthflux.images.packing import MAX_RECORD_BYTES
from depthflux.images.text import bytes_of_path

#: Largest control image, in bytes, that fits into a record as base64 with 1 MB left for the rest.
MAX_EMBEDDED_IMAGE_BYTES = (MAX_RECORD_BYTES - 1_000_000) // 4 * 3

#: A picture of 1536x1536 (7 MB) with the largest record stays well below.
_FILE_LIMITS = ReadLimits(max_bytes=128 * 2**20)

#: Ours nest 6 deep; Python's own limit is about 1000, where other code would fail on them later.
_MAX_DEPTH = 32

_ALLOWED = "a picture that depthflux wrote, as path or bytes"


def embed(data: bytes, record: Mapping[str, object]) -> bytes:
    """The same picture with a record inside; what other decoders show does not change.

    Args:
        data: a PNG, JPEG or WebP file without a record.
        record: anything that JSON can hold, NaN and infinity excepted.

    Raises:
        OutputError: the record has more than `MAX_RECORD_BYTES` as JSON.
        UnreadableImageError: `data` is no whole PNG, JPEG or WebP.
    """
    # ASCII only, so that it may be cut anywhere.
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) > MAX_RECORD_BYTES:
        raise OutputError(
            f"the record of this picture has {len(text)} bytes, at most {MAX_RECORD_BYTES} fit "
            "inside; use a smaller control image.",
            field="control_image",
            value=len(text),
            allowed=f"at most {MAX_RECORD_BYTES} bytes",
        )
    try:
        room = ROOMS[require_format(data)]
        room.read_header(data)
        return room.embed(data, text)
    except PictureProblemError as problem:
        raise _refused("", f"{len(data)} bytes", problem) from problem


def read_record(
    picture: str | os.PathLike[str] | bytes, *, field: str = "from_record"
) -> dict[str, object]:
    """The record inside a picture, exactly as it was embedded.

    Args:
        picture: a path or the bytes of a PNG, JPEG or WebP file.
        field: the option it was given for, named in errors.

    Raises:
        UnreadableImageError: it is not there, is no picture, carries no record, or a damaged one.
    """
    shown = f"{len(picture)} bytes" if isinstance(picture, bytes) else repr(os.fspath(picture))
    try:
        data = (
            picture
            if isinstance(picture, bytes)
            else bytes_of_path(os.fspath(picture), _FILE_LIMITS)
        )
        text = ROOMS[require_format(data)].extract(data)
        if text is None:
            raise PictureProblemError(
                "carries no depthflux record",
                "give a picture that depthflux wrote; other programs drop it when they save",
            )
        return _parse(text)
    except PictureProblemError as problem:
        raise _refused(field, shown, problem) from problem


def _parse(text: bytes) -> dict[str, object]:
    try:
        document = json.loads(text.decode("ascii"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its depthflux record is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise DamagedError("its depthflux record is no JSON object")
    _check_depth(document)
    return document


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _check_depth(document: object) -> None:
    level = [document]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise DamagedError(f"its depthflux record nests more than {_MAX_DEPTH} deep")


def _refused(field: str, shown: str, problem: PictureProblemError) -> UnreadableImageError:
    name = f"{field}={shown}" if field else shown
    advice = f"; {problem.advice}" if problem.advice else ""
    return UnreadableImageError(
        f"{name}: {problem}{advice}.", field=field, value=shown, allowed=_ALLOWED
    )
