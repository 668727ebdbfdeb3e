"""safetensors headers: which tensors a file holds, and whether the file is whole.

The layout is 8 bytes little-endian header length, the header (JSON: name → dtype, shape,
data_offsets), then the tensors' bytes without gaps. Reading one costs no more than its header, so
34 GB are checked in a moment. Knows nothing of torch or of any model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from depthflux.errors import WeightsCorruptError

#: safetensors' own limit for the header; a larger one is a hostile or damaged file.
MAX_HEADER_BYTES = 100_000_000
#: What the engine can cast to what it computes in without scales of their own.
FLOATING_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})


class TensorHeader(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file, by name.

    Raises:
        WeightsCorruptError: it is no safetensors file, truncated or damaged.
    """
    try:
        return _read_header(path)
    except OSError as error:
        raise WeightsCorruptError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_header(path: Path) -> dict[str, TensorHeader]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise WeightsCorruptError(f"{path} has {size} bytes and is no safetensors file.")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {
                str(name): TensorHeader(str(entry["dtype"]), tuple(map(int, entry["shape"])))
                for name, entry in header.items()
            }
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
            raise WeightsCorruptError(
                f"{path} is no safetensors file (its header lists no tensors)."
            ) from error
    if 8 + length + end != size:
        raise WeightsCorruptError(
            f"{path} has {size} bytes where its header says {8 + length + end}: "
            "truncated or damaged."
        )
    return tensors


def header_problem(path: Path) -> str | None:
    """What is wrong with a file of weights, in one sentence; None where nothing is."""
    try:
        tensors = read_header(path)
    except WeightsCorruptError as error:
        return str(error)
    odd = sorted({t.dtype for t in tensors.values()} - FLOATING_DTYPES)
    if odd:
        return (
            f"{path} holds tensors of {', '.join(odd)}; only {', '.join(sorted(FLOATING_DTYPES))} "
            "can be used (not fp8 or quantised files)."
        )
    return None
