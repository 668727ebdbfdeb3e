"""safetensors headers: which tensors a file holds, and whether the file is whole.

The layout is 8 bytes little-endian header length, the header (JSON: name → dtype, shape,
data_offsets), then the tensors' bytes without gaps. Reading one costs no more than its header, so
34 GB are checked in a moment. Whatever a header claims is compared with the file's size before
anything of that size is allocated. Knows nothing of torch or of any model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from depthflux.errors import WeightsCorruptError, first_line, show, shown_name

#: A hundred times FLUX's largest header. safetensors allows 100 MB; read into Python objects, that
#: many bytes of a hostile file would take gigabytes.
MAX_HEADER_BYTES = 16 * 2**20
#: Of the largest number that 64 bits hold.
MAX_DIGITS = 20
#: torch cannot have more.
MAX_DIMENSIONS = 64
#: No more problems than this are listed; a damaged or foreign header has thousands.
MOST_PROBLEMS = 20
#: Bits of one number, by safetensors' names of dtypes. Source: safetensors 0.8.
DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
#: What the engine can cast to what it computes in without scales of their own.
FLOATING_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
#: What else is found under the name of a safetensors file, by its first bytes.
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch's pickles are, and a pickle can run code",
    b"\x80": "a pickle, which can run code",
    b"GGUF": "a GGUF file",
}


class TensorHeader(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file, by name.

    Raises:
        WeightsCorruptError: it is no safetensors file, truncated or damaged; of what is wrong with
            its tensors, everything is named.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _foreign(path, size, start)
            text = file.read(length)
    except OSError as error:
        raise WeightsCorruptError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not text.startswith(b"{"):
        raise _foreign(path, size, start)
    tensors, end = _judge(_parse(text, path), path)
    if 8 + length + end != size:
        raise WeightsCorruptError(
            f"{path} has {size} bytes where its header says {show(8 + length + end)}: "
            "truncated or damaged."
        )
    return tensors


def read_headers(paths: Iterable[Path]) -> list[dict[str, TensorHeader]]:
    """The tensors of several files, such as shards.

    Raises:
        WeightsCorruptError: some of them are damaged; each is named.
    """
    headers, problems = [], []
    for path in paths:
        try:
            headers.append(read_header(path))
        except WeightsCorruptError as error:
            problems.append(str(error))
    if problems:
        raise WeightsCorruptError(" ".join(problems))
    return headers


def header_problem(path: Path) -> str | None:
    """What is wrong with a file of unrounded weights, in one sentence; None where nothing is."""
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


def listed(problems: Sequence[str], most: int = MOST_PROBLEMS) -> str:
    """Problems or names in a row, as messages list them; of very many, the first and the number."""
    more = len(problems) - most
    return ", ".join(problems[:most]) + (f" and {more} more" if more > 0 else "")


def _foreign(path: Path, size: int, start: bytes) -> WeightsCorruptError:
    """The refusal of a file that does not begin as safetensors files do."""
    kind = next((words for magic, words in FOREIGN.items() if start.startswith(magic)), None)
    if kind is None:
        return WeightsCorruptError(f"{path} has {size} bytes and is no safetensors file.")
    return WeightsCorruptError(
        f"{path} is no safetensors file but {kind}; only safetensors files are read."
    )


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number
        )
    except (ValueError, RecursionError) as error:
        raise WeightsCorruptError(
            f"{path} is no safetensors file (its header is not readable: {first_line(error)})."
        ) from error
    if not isinstance(header.pop("__metadata__", {}), dict):
        raise WeightsCorruptError(f"{path} is no safetensors file (its metadata is no object).")
    return dict(header)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object by the strict reading, which safetensors' own library has, too."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands there twice")
    for name in content:
        name.encode("utf-8")  # raises for half a surrogate pair
    return content


def _whole_number(digits: str) -> int:
    """A number in a header; products of numbers of thousands of digits would take seconds."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits stands there")
    return int(digits)


def _judge(header: dict[str, Any], path: Path) -> tuple[dict[str, TensorHeader], int]:
    """The tensors and where their bytes end, counted from the end of the header."""
    tensors: dict[str, TensorHeader] = {}
    spans: list[tuple[int, int, str]] = []
    problems = []
    for name, entry in header.items():
        problem = _entry_problem(entry)
        if problem:
            problems.append(f"{shown_name(name)} {problem}")
            continue
        tensors[name] = TensorHeader(entry["dtype"], tuple(entry["shape"]))
        spans.append((*entry["data_offsets"], name))
    end = 0
    for first, past, name in sorted(spans):
        # Behind a tensor that is wrong in itself there is a gap that says nothing more.
        if first != end and not problems:
            problems.append(f"{shown_name(name)} begins at {show(first)} and not at {end}")
        end = past
    if problems:
        raise WeightsCorruptError(
            f"{path} is no safetensors file (its header is damaged: {listed(problems)})."
        )
    return tensors, end


def _entry_problem(entry: object) -> str:
    """What is wrong with one tensor's entry, in words; empty where nothing is."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return "lacks dtype, shape or data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        return f"has the unknown dtype {show(dtype)}"
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        return f"has the impossible shape {show(shape)}"
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"has the impossible data_offsets {show(offsets)}"
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        return f"has {show(offsets[1] - offsets[0])} bytes for {dtype} {show(shape)}"
    return ""


def _are_counts(numbers: object) -> bool:
    """Whether this is a list of whole numbers from 0."""
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
