"""A body's bytes → its JSON object, at a cost that the bytes bound.

Parsed as it comes, a body of some megabytes of brackets becomes a gigabyte of lists, and one sign
beyond ASCII makes four bytes of every character around it. So what is large is looked through
first: of what is no text there is little, texts are few, and the long ones, which hold pictures,
are taken out before the rest is parsed. Knows nothing of requests, or of what fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from depthflux.errors import InvalidParameterError, show, shown_name

#: A request's fields nest three deep at most.
MAX_DEPTH = 16
#: Bytes beside the texts: brackets, commas, numbers, white space.
MOST_OUTSIDE_BYTES = 64 * 1024
#: Texts, names of fields among them.
MOST_TEXTS = 4096
#: Quotes of all texts. A prompt may be 16,384 of them, each behind a backslash.
MOST_QUOTES = 32 * 1024
#: All that is not in a long text: as many bytes as are accepted beside a picture.
MOST_REST_BYTES = 2**20
#: From this size on a text is taken out: a prompt written as escapes is shorter.
LONG_TEXT_BYTES = 256 * 1024
#: Up to this size a body costs little whatever is in it.
_HARMLESS_BYTES = 64 * 1024

_QUOTE, _BACKSLASH = b'"', b"\\"
#: Stands where a long text was. It is no JSON, so a body that has it itself is refused.
_STAND_IN = "-Infinity"


def parse_object(data: bytes) -> dict[str, Any]:
    """A body as an object; an empty one is an empty object.

    Raises:
        InvalidParameterError: it is no JSON in UTF-8, no object, or holds more than any request.
    """
    if not data.strip():
        return {}
    rest, texts = (data, []) if len(data) <= _HARMLESS_BYTES else _take_long_texts_out(data)
    try:
        document = _parse(rest, texts)
    except UnicodeDecodeError:
        raise _bad_body("is no valid JSON (it is no UTF-8 text)") from None
    except RecursionError:
        raise _bad_body(f"nests more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        # Where something is wrong is counted without the long texts.
        is_misplaced = bool(texts) and isinstance(error, json.JSONDecodeError)
        reason = str(error).partition(":")[0] if is_misplaced else str(error)
        raise _bad_body(f"is no valid JSON ({' '.join(reason.split())})") from None
    if not isinstance(document, dict):
        raise _bad_body(f"is {show(document)}")
    _require_flat(document)
    return document


def _parse(rest: bytes, texts: list[str]) -> Any:
    if b"\0" in rest:
        # UTF-16 and UTF-32 are full of them; the parser would speak of a missing quote.
        raise ValueError("a zero byte; write UTF-8")
    in_turn = iter(texts)

    def constant(name: str) -> str:
        text = next(in_turn, None) if name == _STAND_IN else None
        if text is None:
            raise ValueError(f"{name} is no JSON")
        return text

    # What is parsed to its end has met every stand-in, so no text is left over.
    return json.loads(rest.decode(), parse_constant=constant)


def _take_long_texts_out(data: bytes) -> tuple[bytes, list[str]]:
    """A body whose long texts are replaced, and those, in order.

    Raises:
        InvalidParameterError: it holds more than any request.
    """
    kept: list[bytes] = []
    texts: list[str] = []
    at = copied = outside = count = quotes = 0
    while (opening := data.find(_QUOTE, at)) >= 0:
        outside += opening - at
        closing, tried = _end_of_text(data, opening, MOST_QUOTES - quotes)
        count, quotes = count + 1, quotes + tried
        _require_modest(outside, count, quotes)
        if closing < 0:  # never ends, as the parser will say
            break
        at = closing + 1
        if at - opening > LONG_TEXT_BYTES:
            kept += [data[copied:opening], _STAND_IN.encode()]
            copied = at
            texts.append(_long_text(memoryview(data)[opening:at]))
    else:
        _require_modest(outside + len(data) - at, count, quotes)
    if sum(map(len, kept)) + len(data) - copied > MOST_REST_BYTES:
        raise _bad_body(f"has more than {MOST_REST_BYTES} bytes beside its long texts")
    return b"".join([*kept, data[copied:]]), texts


def _end_of_text(data: bytes, opening: int, most: int) -> tuple[int, int]:
    """Where a text's last quote is, below 0 where it has none, and how many were looked at."""
    at = opening
    for tried in range(1, most + 1):
        at = data.find(_QUOTE, at + 1)
        if at < 0 or _backslashes_before(data, at) % 2 == 0:
            return at, tried
    return at, most + 1


def _backslashes_before(data: bytes, at: int) -> int:
    # Most quotes have none, and a slice a time would cost more than the search.
    if data[at - 1] != _BACKSLASH[0]:
        return 0
    width = 16
    while True:
        piece = data[max(at - width, 0) : at]
        run = len(piece) - len(piece.rstrip(_BACKSLASH))
        if run < width:
            return run
        width *= 8


def _long_text(quoted: memoryview) -> str:
    try:
        # Through the parser, since some languages' JSON writes / and + as escapes.
        text = json.loads(str(quoted, "ascii"))
    except UnicodeDecodeError:
        raise _bad_body(
            f"has a text of more than {LONG_TEXT_BYTES} bytes that is not ASCII"
        ) from None
    except ValueError as error:
        raise _bad_body(f"is no valid JSON ({' '.join(str(error).split())})") from None
    return str(text)


def _require_modest(outside: int, texts: int, quotes: int) -> None:
    if outside > MOST_OUTSIDE_BYTES:
        raise _bad_body(f"has more than {MOST_OUTSIDE_BYTES} bytes beside its texts")
    if texts > MOST_TEXTS:
        raise _bad_body(f"has more than {MOST_TEXTS} texts")
    if quotes > MOST_QUOTES:
        raise _bad_body(f"has more than {MOST_QUOTES} quotes")


def _require_flat(document: dict[str, Any]) -> None:
    """See that it nests no deeper than any request, and that its texts are texts."""
    # Each with the field that it is part of, which a refusal names.
    level = [(name, part) for name, value in document.items() for part in (name, value)]
    for _ in range(MAX_DEPTH):
        for name, node in level:
            if isinstance(node, str) and not node.isascii():
                _require_text(name, node)
        level = [(name, child) for name, node in level for child in _children(node)]
    if level:
        raise _bad_body(f"nests more than {MAX_DEPTH} deep")


def _children(node: object) -> Iterable[Any]:
    if isinstance(node, dict):
        return (*node, *node.values())
    return node if isinstance(node, list) else ()


def _require_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidParameterError(
            f"{shown_name(name)}={show(text)} holds half a surrogate pair, which is no text; "
            "allowed: any Unicode text.",
            field=name,
            value=text,
            allowed="any Unicode text",
        ) from None


def _bad_body(problem: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"the body {problem}; send a JSON object of the request's fields.",
        field="body",
        allowed="a JSON object",
    )
