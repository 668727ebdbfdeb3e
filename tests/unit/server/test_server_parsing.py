"""A body's bytes → its JSON object, at a cost that the bytes bound."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import tracemalloc
from typing import Any

import pytest

from depthflux.errors import InvalidParameterError
from depthflux.server.parsing import (
    LONG_TEXT_BYTES,
    MAX_DEPTH,
    MOST_OUTSIDE_BYTES,
    MOST_QUOTES,
    MOST_TEXTS,
    parse_object,
)

PICTURE = base64.b64encode(bytes(range(256)) * 8192).decode()


# What is taken ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"prompt": "a room", "control_image": PICTURE, "seed": 1},
        {"control_image": PICTURE, "prompt": "ein Zimmer, 部屋, 😀", "loras": [{"path": "a"}]},
        {"first": [PICTURE, {"second": PICTURE[::-1]}], "third": PICTURE + "=", "n": [1.5, None]},
        {"prompt": '"' * 16_384, "control_image": PICTURE},
        {"prompt": "\\" * 16_384, "control_image": PICTURE, "last": '\\"'},
        {"prompt": "😀" * 16_384, "control_image": PICTURE},
        {"prompt": '{"a": [NaN, -Infinity]} -Infinity', "control_image": PICTURE},
        {"control_image": PICTURE + '\\"\n\t', "prompt": "a"},
    ],
    ids=[
        "empty",
        "a picture",
        "other scripts",
        "several long texts",
        "quotes",
        "backslashes",
        "emoji",
        "what is no JSON as a text",
        "escapes in a long text",
    ],
)
@pytest.mark.parametrize("ascii", [True, False], ids=["escaped", "as it is"])
def test_what_json_can_say_is_read_as_it_is(document: dict[str, Any], ascii: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii).encode()

    assert parse_object(body) == document


@pytest.mark.parametrize("escape", ["\\/", "\\u002f", "\\u002F"])
def test_base64_is_read_as_other_languages_write_it(escape: str) -> None:
    body = f'{{"control_image": "{PICTURE.replace("/", escape)}", "seed": 1}}'

    assert parse_object(body.encode()) == {"control_image": PICTURE, "seed": 1}


def test_of_a_name_that_comes_twice_the_last_counts_wherever_its_text_is_long() -> None:
    body = f'{{"a": "{PICTURE}", "b": "{PICTURE}x", "a": "short"}}'

    assert parse_object(body.encode()) == {"a": "short", "b": PICTURE + "x"}


# What is refused --------------------------------------------------------------------------------

LONG = b"x" * (LONG_TEXT_BYTES + 1)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"a": [' + b"[]," * MOST_OUTSIDE_BYTES + b"1]}", "bytes beside its texts"),
        (b'{"a": ' + b"1" * (MOST_OUTSIDE_BYTES + 1) + b"}", "bytes beside its texts"),
        (b" " * 2 * MOST_OUTSIDE_BYTES + b"{}", "bytes beside its texts"),
        (b"{" + b'"a":"",' * MOST_TEXTS + b'"a":"' + LONG + b'"}', "texts"),
        (b'{"a": "' + b'\\"' * (MOST_QUOTES + 1) + b'"}', "quotes"),
        (b'{"a": [' + b",".join([b'"' + LONG[2:-9] + b'"'] * 5) + b"]}", "beside its long texts"),
        (b'{"a": "' + LONG + "é".encode() + b'"}', "that is not ASCII"),
        (b'{"a": "' + LONG + b'\n"}', "is no valid JSON"),
        (b'{"a": "' + LONG + b'\\x"}', "is no valid JSON"),
        (b'{"a": "' + LONG, "is no valid JSON"),
        (b'{"a": "' + LONG + b'", }', "is no valid JSON"),
        (b'{"' + LONG + b'": 1}', "is no valid JSON"),
        (b'{"a": "' + LONG + b'", "b": -Infinity}', "-Infinity is no JSON"),
        (b'{"b": -Infinity, "a": "' + LONG + b'"}', "-Infinity is no JSON"),
        (b'["' + LONG + b'"]', "is a list|is \\["),
        ('{"a": 1}'.encode("utf-16"), "is no valid JSON"),
        ('{"a": 1}'.encode("utf-16-le"), "zero byte"),
        ('{"a": 1}'.encode("utf-32"), "is no valid JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b'{"a": "\0"}', "zero byte"),
        (b'{"a": "\xed\xa0\x80"}', "no UTF-8"),
        (b'{"a": {"b": ["\\ud800"]}}', "a='.ud800' holds half a surrogate pair"),
        (b'{"\\ud800": 1}', "half a surrogate pair"),
        (b'{"a": "' + LONG + b'\\udfff"}', "half a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no valid JSON"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nests more than 16 deep"),
        (b'{"a":' * MAX_DEPTH * 2 + b"1" + b"}" * MAX_DEPTH * 2, "nests more than 16 deep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_request_is_refused_in_one_line(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidParameterError, match=problem) as caught:
        parse_object(body)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


# What it costs ----------------------------------------------------------------------------------

_MANY = 4 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * (_MANY // 3) + b"1]}",
        b'{"a":[' + b"{}," * (_MANY // 3) + b"1]}",
        b'{"a":[' + b"1.5," * (_MANY // 4) + b"1]}",
        b'{"a":' + b"1" * _MANY + b"}",
        b"{" + b'"a":1,' * (_MANY // 6) + b'"a":1}',
        b"{" + b"".join(b'"%06d":1,' % n for n in range(_MANY // 11)) + b'"a":1}',
        b'{"a":' + b"[" * _MANY + b"}",
        b'{"a":"' + b'\\"' * (_MANY // 2) + b'"}',
        b'{"a":"' + b"\\\\" * (_MANY // 2) + b'"}',
        b'{"a":"' + b"\\ud83d\\ude00" * (_MANY // 12) + b'"}',
        b'{"a":"' + "😀".encode() * (_MANY // 4) + b'"}',
        b'{"a":[' + b",".join(['"😀'.encode() + b"x" * 250_000 + b'"'] * 40) + b"]}",
        '{"p":"😀","a":"'.encode() + b"x" * _MANY + b'"}',
    ],
    ids=[
        "lists",
        "objects",
        "numbers",
        "digits",
        "one name again and again",
        "names",
        "depth",
        "escaped quotes",
        "escaped backslashes",
        "escaped emoji",
        "emoji",
        "emoji in many texts",
        "an emoji beside a picture",
    ],
)
def test_no_body_takes_many_times_its_size(body: bytes) -> None:
    tracemalloc.start()
    started = time.perf_counter()

    with contextlib.suppress(InvalidParameterError):
        parse_object(body)
    took_s, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Without the body itself. As the plain parser does it, lists take 27 times as much.
    assert peak < 3 * len(body)
    assert took_s < 2
