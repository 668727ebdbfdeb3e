"""Attack 2: safetensors files that lie. Refused in one line, in little time and memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import depthflux
from depthflux.errors import WeightsCorruptError
from depthflux.model.headers import MAX_HEADER_BYTES, header_problem, read_header

#: Mutations of a sound file; seeded, so that a failure can be found again.
MUTATIONS = 400
#: Longest time for one header, on a busy machine, in seconds.
LONGEST_S = 5.0
#: What a process that reads headers has, in bytes of address space.
ADDRESS_SPACE = 1 << 30
READ_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from depthflux.model.headers import header_problem
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
print(header_problem(Path(sys.argv[1]))[:200])
"""


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with a header, which may be text already, and a length that may be untrue."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def problem_of(path: Path) -> str:
    """What is wrong with a file; empty where nothing is. Any error but ours passes through."""
    try:
        read_header(path)
    except WeightsCorruptError as error:
        return str(error)
    return ""


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a-length-alone": packed(b"", length=0),
    "length-0": packed(b"{}", length=0),
    "length-beyond-the-file": packed(b"{}", length=3),
    "length-of-63-bits": packed(b"{}", length=2**63),
    "length-minus-one": packed(b"{}", length=2**64 - 1),
    "a-name-twice": packed(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
    "a-key-twice": packed(
        b'{"a":{"dtype":"F32","dtype":"I8","shape":[1],"data_offsets":[0,4]}}', bytes(4)
    ),
    "overlapping": packed({"a": entry(), "b": entry(offsets=[2, 6])}, bytes(6)),
    "one-inside-another": packed({"a": entry(shape=[2], offsets=[0, 8]), "b": entry()}, bytes(8)),
    "a-gap": packed({"a": entry(), "b": entry(offsets=[8, 12])}, bytes(12)),
    "beyond-the-end": packed({"a": entry(offsets=[0, 2**40], shape=[2**38])}, bytes(4)),
    "before-the-beginning": packed({"a": entry(offsets=[-4, 0])}, bytes(4)),
    "the-end-first": packed({"a": entry(offsets=[4, 0])}, bytes(4)),
    "too-few-bytes": packed({"a": entry(dtype="F64")}, bytes(4)),
    "an-unknown-dtype": packed({"a": entry(dtype="F128")}, bytes(4)),
    "a-dtype-that-is-a-list": packed({"a": entry(dtype=["F32"])}, bytes(4)),
    "a-product-that-overflows": packed({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}),
    "a-product-that-wraps-to-4": packed({"a": entry(shape=[2**62 + 1, 4])}, bytes(4)),
    "a-shape-of-65": packed({"a": entry(shape=[1] * 65)}, bytes(4)),
    "a-shape-of-NaN": packed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "a-shape-of-1e999": packed(
        b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}', bytes(4)
    ),
    "a-shape-of-1.0": packed({"a": entry(shape=[1.0])}, bytes(4)),
    "a-shape-of-true": packed({"a": entry(shape=[True])}, bytes(4)),
    "a-shape-below-0": packed({"a": entry(shape=[-1, -1])}, bytes(4)),
    "a-shape-that-is-a-text": packed({"a": entry(shape="1")}, bytes(4)),
    "no-utf-8": packed(b'{"\xff\xfe":{}}'),
    "a-byte-order-mark": packed(b"\xef\xbb\xbf{}"),
    "half-a-surrogate": packed(b'{"\\ud800":%s}' % json.dumps(entry()).encode(), bytes(4)),
    "100000-deep": packed(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "100000-objects-deep": packed(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "a-list": packed(b"[]"),
    "metadata-that-is-a-list": packed({"__metadata__": []}),
    "more-data": packed({"a": entry()}, bytes(5)),
    "another-file-behind-it": packed({"a": entry()}, bytes(4) + packed({"a": entry()}, bytes(4))),
    "numbers-of-4000-digits": packed(
        b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % b",".join([b"9" * 4000] * 60),
        bytes(4),
    ),
    "a-number-of-1000000-digits": packed(b'{"a":' + b"9" * 10**6 + b"}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_lies_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])

    with pytest.raises(WeightsCorruptError) as caught:
        read_header(path)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_name_that_a_terminal_would_act_on_is_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed({"\x1b[2J\r\n\u202e": entry(dtype="F128")}, bytes(4)))

    said = header_problem(path) or ""

    assert said.isprintable()
    assert r"\x1b[2J\r\n\u202e" in said


def test_numbers_of_thousands_of_digits_cost_no_time(tmp_path: Path) -> None:
    """15 MB of them took 10 seconds to be multiplied."""
    numbers = b",".join([b"9" * 4000] * 60)
    tensors = (
        b'"%d":{"dtype":"U8","shape":[%s],"data_offsets":[0,0]}' % (index, numbers)
        for index in range(60)
    )
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(b"{" + b",".join(tensors) + b"}"))
    started = time.process_time()

    said = header_problem(path) or ""

    assert "a number of 4000 digits" in said
    assert time.process_time() - started < 2


@pytest.mark.parametrize("size", [MAX_HEADER_BYTES, 4 * MAX_HEADER_BYTES], ids=["the-most", "more"])
def test_the_largest_header_takes_little_memory(size: int, tmp_path: Path) -> None:
    """Of empty lists, three bytes become 80; safetensors' own limit is 100 MB."""
    path = tmp_path / "x.safetensors"
    text = b'{"a":[' + b"[]," * (size // 3 - 4) + b"[]]}"
    path.write_bytes(packed(text.ljust(size)))

    read = subprocess.run(
        [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(path), str(ADDRESS_SPACE)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )

    assert read.returncode == 0, read.stderr[-500:]
    assert "is no safetensors file" in read.stdout


def test_mutations_of_a_sound_file_are_refused_or_are_sound(
    miniature_8x: Path, tmp_path: Path
) -> None:
    """What we take, safetensors' own reader takes, too: it is the one that maps the file."""
    sound = (miniature_8x / "control_lora.safetensors").read_bytes()
    chance, path, refused = random.Random(2), tmp_path / "x.safetensors", 0

    for _ in range(MUTATIONS):
        path.write_bytes(chance.choice(MUTATORS)(bytearray(sound), chance))
        started = time.process_time()
        said = problem_of(path)
        assert said.isprintable()
        refused += bool(said)
        if not said:
            with safe_open(path, framework="pt") as opened:
                assert set(opened.keys()) == read_header(path).keys()
        assert time.process_time() - started < LONGEST_S

    assert MUTATIONS * 0.5 < refused < MUTATIONS


def test_an_engine_refuses_what_the_reader_refuses(
    miniature_8x: Path, tmp_path: Path, depth_ramp: Any
) -> None:
    """The way of an outsider: a LoRA, by its name in a request."""
    engine = depthflux.load("reference", model=str(miniature_8x), loras_dir=str(tmp_path))

    for name, content in HOSTILE.items():
        (tmp_path / "style.safetensors").write_bytes(content)
        with pytest.raises(depthflux.InvalidParameterError, match=r"loras\[0\]"):
            engine.generate(
                prompt="x",
                control_image=depth_ramp,
                preprocess_depth=False,
                loras=[{"path": "style"}],
            )
        assert name


# How a file is spoilt -----------------------------------------------------------------------------


def _flip(content: bytearray, chance: random.Random) -> bytes:
    """Some bytes of the length and the header are others."""
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(end)] = chance.randrange(256)
    return bytes(content)


def _renumber(content: bytearray, chance: random.Random) -> bytes:
    """A number of the header is another one, of as many digits or of many more."""
    length = int.from_bytes(content[:8], "little")
    text, data = bytes(content[8 : 8 + length]), bytes(content[8 + length :])
    digits = [index for index, byte in enumerate(text) if 48 <= byte <= 57]
    place = chance.choice(digits)
    new = str(chance.choice([chance.randrange(10), -1, 2**63, 10**30, 10**400])).encode()
    return packed(text[:place] + new + text[place + 1 :], data)


def _cut(content: bytearray, chance: random.Random) -> bytes:
    """The file ends early."""
    return bytes(content[: chance.randrange(len(content))])


def _relength(content: bytearray, chance: random.Random) -> bytes:
    """The header claims to end elsewhere."""
    content[:8] = chance.choice([chance.randrange(2**16), chance.randrange(2**64)]).to_bytes(
        8, "little"
    )
    return bytes(content)


def _splice(content: bytearray, chance: random.Random) -> bytes:
    """A piece of the header stands there twice."""
    length = int.from_bytes(content[:8], "little")
    text, data = bytes(content[8 : 8 + length]), bytes(content[8 + length :])
    start = chance.randrange(length)
    piece = text[start : start + chance.randrange(200)]
    place = chance.randrange(length)
    return packed(text[:place] + piece + text[place:], data)


MUTATORS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    _flip,
    _renumber,
    _cut,
    _relength,
    _splice,
)
