"""Pickles that leave a mark when they are opened, in all the forms that weights come in.

Knows nothing of who opens them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Bomb:
    """Makes a file when it is unpickled, as other ones would start a program."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


def plain(marker: Path) -> bytes:
    """A pickle of the protocol that Python writes today."""
    return pickle.dumps({"weight": Bomb(marker)})


def ancient(marker: Path) -> bytes:
    """A pickle of protocol 0, which is printable text and has no first byte to know it by."""
    return pickle.dumps(Bomb(marker), protocol=0)


def zipped(marker: Path) -> bytes:
    """What torch.save writes: a zip archive with a pickle in it."""
    return _saved(marker)


def legacy(marker: Path) -> bytes:
    """What torch.save wrote before 1.6."""
    return _saved(marker, _use_new_zipfile_serialization=False)


def disguised(marker: Path) -> bytes:
    """A pickle behind a safetensors file's length and header."""
    header = b'{"__metadata__":{}}'
    return len(header).to_bytes(8, "little") + header + plain(marker)


#: All forms, by their names.
FORMS: dict[str, Callable[[Path], bytes]] = {
    form.__name__: form for form in (plain, ancient, zipped, legacy, disguised)
}


def _saved(marker: Path, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": Bomb(marker)}, buffer, **options)
    return buffer.getvalue()
