"""safetensors headers: read without reading tensors, and never believed before they are checked."""

from __future__ import annotations

import json
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from depthflux.errors import WeightsCorruptError
from depthflux.model.headers import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    header_problem,
    read_header,
    read_headers,
)

NAMES = st.text(max_size=12)
COUNTS = st.integers(min_value=-2, max_value=40) | st.integers() | st.floats() | st.booleans()
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*DTYPE_BITS, "F128", ""]) | st.integers(),
        "shape": st.lists(COUNTS, max_size=4) | st.integers() | st.text(max_size=3),
        "data_offsets": st.lists(COUNTS, max_size=3) | st.none(),
        "more": st.none(),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def write(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with a header, which may be JSON or bytes already, and what stands behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tensor(dtype: str, shape: list[Any], first: int, past: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, past]}


def test_a_header_says_dtype_and_shape_of_every_tensor(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(0, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})

    header = read_header(tmp_path / "x.safetensors")

    assert header == {"a": ("F32", (2, 3)), "b": ("BF16", (0,))}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": tensor("F32", [2], 0, 8)}, b"1234567", "has 76 bytes where its header says 77"),
        ({"a": tensor("F32", [2], 0, 8)}, b"123456789", "truncated or damaged"),
        ({"a": tensor("F32", [3], 0, 8)}, bytes(8), r"a has 8 bytes for F32 \[3\]"),
        ({"a": tensor("F32", [2**40, 2**40], 0, 8)}, bytes(8), "a has 8 bytes for F32"),
        ({"a": tensor("F32", [-1, -2], 0, 8)}, bytes(8), r"impossible shape \[-1, -2\]"),
        ({"a": tensor("F32", [1.0], 0, 4)}, bytes(4), r"impossible shape \[1.0\]"),
        ({"a": tensor("F32", [True], 0, 4)}, bytes(4), "impossible shape"),
        ({"a": tensor("F32", [1] * 65, 0, 4)}, bytes(4), "impossible shape"),
        ({"a": tensor("F32", [1], -4, 0)}, bytes(4), r"impossible data_offsets \[-4, 0\]"),
        ({"a": tensor("F32", [0], 4, 0)}, bytes(4), "impossible data_offsets"),
        ({"a": tensor("F128", [1], 0, 16)}, bytes(16), "unknown dtype 'F128'"),
        ({"a": {"dtype": "F32"}}, b"", "a lacks dtype, shape or data_offsets"),
        ({"a": []}, b"", "a lacks dtype"),
        (
            {"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)},
            bytes(6),
            "b begins at 2 and not at 4",
        ),
        (
            {"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 8, 12)},
            bytes(12),
            "b begins at 8 and not at 4",
        ),
        ({"\x1b[2J": []}, b"", r"'\\x1b\[2J' lacks"),
        (b'{"a": 1, "a": 2}', b"", "a name stands there twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32"}}', b"", "a name stands there twice"),
        (b'{"\xff": 1}', b"", "is not readable"),
        (b'{"\\ud800": 1}', b"", "is not readable"),
        (b"{" + b'"a":{' * 100_000, b"", "is not readable"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "is not readable"),
        ({"__metadata__": 1}, b"", "its metadata is no object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_header_is_refused(
    header: object, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsCorruptError, match=message) as caught:
        read_header(write(tmp_path / "x.safetensors", header, data))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


def test_everything_that_is_wrong_with_the_tensors_is_named(tmp_path: Path) -> None:
    header = {"a": tensor("F32", [3], 0, 8), "b": tensor("X", [1], 8, 9), "c": 1}

    with pytest.raises(WeightsCorruptError, match=r"a has 8 bytes.*, b has the.*, c lacks"):
        read_header(write(tmp_path / "x.safetensors", header, bytes(9)))


def test_shards_are_judged_together(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    write(paths[0], {})
    write(paths[1], {}, b"1")
    paths[2].write_bytes(b"")

    with pytest.raises(WeightsCorruptError, match=r"/b has 11 bytes .*/c has 0 bytes"):
        read_headers(paths)


def test_a_pickle_is_called_one_whatever_its_file_is_called(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    old.write_bytes(pickle.dumps({"a": [1.0] * 1000}, protocol=4))
    torch.save({"a": torch.zeros(1000)}, new)

    assert zipfile.is_zipfile(new)
    for path, word in ((old, "a pickle, which can run code"), (new, "a pickle can run code")):
        with pytest.raises(WeightsCorruptError, match="is no safetensors file but a") as caught:
            read_header(path)
        assert word in str(caught.value)
        assert "only safetensors files are read" in str(caught.value)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return marker.touch, ()

    (tmp_path / "x.safetensors").write_bytes(pickle.dumps(Bomb()))

    assert "a pickle" in (header_problem(tmp_path / "x.safetensors") or "")
    assert not marker.exists()


def test_a_gguf_file_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "flux1-dev.safetensors").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))

    with pytest.raises(WeightsCorruptError, match="no safetensors file but a GGUF file"):
        read_header(tmp_path / "flux1-dev.safetensors")


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    """The length 640 is written 80 02 00 …, as a pickle of protocol 2 begins."""
    text = b"{}".ljust(640)

    assert read_header(write(tmp_path / "x.safetensors", text)) == {}


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**40, 2**63, 2**64 - 1])
def test_an_absurd_header_length_is_refused_before_anything_is_allocated(
    length: int, tmp_path: Path
) -> None:
    """The file is as long as it claims, where a disk can hold that without writing it."""
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(min(length + 8, 2**42))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(WeightsCorruptError, match="is no safetensors file"):
        read_header(path)

    grown_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kilobytes < 10_000


@FUZZ
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)

    _read_or_refused(tmp_path / "x.safetensors")


@FUZZ
@given(header=JSON | st.dictionaries(NAMES, ENTRIES, max_size=4), data=st.binary(max_size=64))
def test_any_header_is_read_or_refused_in_one_line(
    header: object, data: bytes, tmp_path: Path
) -> None:
    _read_or_refused(write(tmp_path / "x.safetensors", header, data))


@FUZZ
@given(
    shapes=st.dictionaries(
        NAMES.filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["F32", "BF16", "F8_E4M3", "I64"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=4,
    ),
    cut=st.integers(0, 300),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
)
def test_what_we_accept_the_safetensors_library_accepts_too(
    shapes: dict[str, tuple[str, list[int]]],
    cut: int,
    flips: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    """A sound file, cut short and with bytes changed: ours is never the laxer of the two."""
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        past = end + torch.Size(shape).numel() * DTYPE_BITS[dtype] // 8
        header[name] = tensor(dtype, shape, end, past)
        end = past
    path = write(tmp_path / "x.safetensors", header, bytes(end))
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    path.write_bytes(content[: len(content) - cut] if cut < 50 else content)

    if _read_or_refused(path):
        try:
            with safe_open(path, framework="pt") as file:
                assert set(file.keys()) == set(read_header(path))
        except SafetensorError as error:
            raise AssertionError(f"the library refuses it: {error}") from error


def _read_or_refused(path: Path) -> bool:
    problem = None
    try:
        read_header(path)
    except WeightsCorruptError as error:
        problem = str(error)
    assert "\n" not in (problem or "")
    return problem is None
