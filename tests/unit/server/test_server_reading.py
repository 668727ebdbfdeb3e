"""Bodies: read whole, but never more than allowed, and only of the kind that a route takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Request

from depthflux.errors import InvalidParameterError
from depthflux.server.documents import DeleteQuery, ListQuery, TicketQuery
from depthflux.server.errors import TooLargeError, UnsupportedBodyError
from depthflux.server.parsing import MAX_DEPTH
from depthflux.server.reading import read_bytes, read_document, read_file, read_object


class Body:
    """A request whose body comes in pieces, as a server hands it over."""

    def __init__(
        self, *pieces: bytes, kind: str | None = "application/json", length: str | None = None
    ) -> None:
        headers = {"content-type": kind, "content-length": length}
        self.read = 0
        self._pieces: Iterator[bytes] = iter(pieces)
        self._count = len(pieces)
        scope = {
            "type": "http",
            "method": "POST",
            # Starlette takes a broken form for a refusal only inside of an application.
            "app": None,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items() if v is not None],
        }
        self.request = Request(scope, self._receive)

    async def _receive(self) -> dict[str, Any]:
        self.read += 1
        return {
            "type": "http.request",
            "body": next(self._pieces, b""),
            "more_body": self.read < self._count,
        }


def read(body: Body, most: int = 1000) -> dict[str, Any]:
    return asyncio.run(read_object(body.request, most))


# Bytes ------------------------------------------------------------------------------------------


def test_a_body_is_read_whole_from_its_pieces() -> None:
    body = Body(b"abc", b"", b"def")

    assert asyncio.run(read_bytes(body.request, 6)) == b"abcdef"


def test_a_body_that_is_announced_to_be_too_large_is_refused_unread() -> None:
    body = Body(b"x" * 7, length="7")

    with pytest.raises(TooLargeError, match=r"the body has more than 6 bytes") as caught:
        asyncio.run(read_bytes(body.request, 6))

    assert body.read == 0
    assert caught.value.http_status == 413


def test_of_a_body_that_is_not_announced_no_more_is_read_than_one_piece_too_much() -> None:
    body = Body(*[b"xxxx"] * 1000)

    with pytest.raises(TooLargeError, match="the body has more than 6 bytes"):
        asyncio.run(read_bytes(body.request, 6))

    assert body.read == 2


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "many", "٣", "1"])
def test_an_announcement_is_not_believed(length: str) -> None:
    body = Body(b"xxxx", length=length)

    with pytest.raises(TooLargeError):
        asyncio.run(read_bytes(body.request, 3))

    assert body.read <= 1


# JSON objects -----------------------------------------------------------------------------------


def test_an_object_is_read_whatever_its_kinds_parameters_are() -> None:
    kinds = ["application/json", "Application/JSON", "application/json; charset=utf-8"]

    for kind in kinds:
        assert read(Body(b' {"a": [1, "\xc3\xbc"]} ', kind=kind)) == {"a": [1, "ü"]}


@pytest.mark.parametrize("kind", [None, "application/json", "text/plain"])
def test_an_empty_body_is_an_empty_object(kind: str | None) -> None:
    assert read(Body(b"", kind=kind)) == {}


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json"]
)
def test_a_body_that_is_not_said_to_be_json_is_refused(kind: str | None) -> None:
    """A browser sends forms and plain texts to anybody's server without asking."""
    with pytest.raises(UnsupportedBodyError, match="send application/json") as caught:
        read(Body(b'{"a": 1}', kind=kind))

    assert caught.value.http_status == 415


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{", "is no valid JSON"),
        (b"{'a': 1}", "is no valid JSON"),
        (b'{"a": 1} {"b": 2}', "is no valid JSON"),
        (b'{"a": NaN}', r"is no valid JSON \(NaN is no JSON\)"),
        (b'{"a": -Infinity}', r"is no valid JSON \(-Infinity is no JSON\)"),
        (b'{"a": "\xff"}', "is no valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is no valid JSON"),
        (b"[" * 900, "is no valid JSON|nests too deep"),
        (b"[1, 2]", r"is \[1, 2\]"),
        (b'"text"', "is 'text'"),
        (b"null", "is None"),
        (b"12", "is 12"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)
def test_what_is_no_object_is_refused_in_one_line(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"the body ({problem})") as caught:
        read(Body(data), most=100_000)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_bodies_that_nest_too_deep_are_refused_whatever_the_parser_can_do() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)

    assert read(Body(nested(MAX_DEPTH))) == json.loads(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 2, 500, 50_000):
        with pytest.raises(InvalidParameterError, match=r"nests|more than 4096 texts"):
            read(Body(nested(depth)), most=1_000_000)


def test_an_object_with_too_many_bytes_is_refused() -> None:
    with pytest.raises(TooLargeError, match="the body has more than 10 bytes"):
        read(Body(b'{"a": "' + b"x" * 100 + b'"}'), most=10)


# Documents --------------------------------------------------------------------------------------


def test_a_document_has_its_defaults_and_passes_over_what_it_does_not_know() -> None:
    query = read_document({"page": 2, "self": "x", "unknown": None}, ListQuery)

    assert (query.page, query.page_size, query.status) == (2, 20, None)


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"page": 0}, ListQuery, "page=0 is not allowed; allowed: a whole number from 1"),
        ({"page_size": 101}, ListQuery, "page_size=101 is not allowed; .* from 1 to 100"),
        ({"status": "deleted"}, ListQuery, "status='deleted' is not allowed"),
        ({"ids": "abc"}, DeleteQuery, "ids='abc' is not allowed; allowed: .*(list|ids)"),
        ({"ids": [1]}, DeleteQuery, "ids=.* is not allowed; allowed: .*(list|ids)"),
        ({"ids": ["a"] * 101}, DeleteQuery, "ids=.* is not allowed; allowed: .*100"),
        ({}, DeleteQuery, "ids: is required; allowed: .*(list|ids)"),
        ({"size": 0}, TicketQuery, r"size=0 is not allowed; allowed: a whole number from 1\."),
    ],
    ids=lambda value: json.dumps(value)[:30] if isinstance(value, dict) else "",
)
def test_a_document_out_of_its_range_is_refused_with_what_is_allowed(
    fields: dict[str, Any], model: Any, message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message) as caught:
        read_document(fields, model)

    assert caught.value.http_status == 400


@pytest.mark.parametrize("status", ["created", "processing", "completed", "failed"])
def test_a_list_can_be_asked_for_by_every_state_that_is_shown(status: str) -> None:
    assert read_document({"status": status}, ListQuery).status == status


def test_a_refused_state_is_answered_with_the_states_there_are() -> None:
    with pytest.raises(InvalidParameterError) as caught:
        read_document({"status": "done"}, ListQuery)

    for status in ("created", "processing", "completed", "failed"):
        assert status in str(caught.value)


def test_everything_that_is_wrong_with_a_document_is_said_at_once() -> None:
    with pytest.raises(InvalidParameterError, match=r"page=0 .*page_size=1000 "):
        read_document({"page": 0, "page_size": 1000}, ListQuery)


# Files ------------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its kind; a part is its Content-Disposition and its bytes."""
    body = b"".join(
        b"--edge\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def upload(data: bytes, kind: str | None, most: int = 1000) -> tuple[str, bytes]:
    pieces = [data[at : at + 100_000] for at in range(0, len(data), 100_000)]
    return asyncio.run(read_file(Body(*pieces, kind=kind).request, most))


def test_a_file_has_its_name_and_its_bytes() -> None:
    data, kind = form(("name=note", b"hello"), ('name="file"; filename="ü a.png"', b"\x89PNG\0"))

    assert upload(data, kind) == ("ü a.png", b"\x89PNG\0")


def test_a_file_with_more_bytes_than_allowed_is_refused_and_one_with_as_many_is_not() -> None:
    at_most, kind = form(('name="file"; filename="a"', b"x" * 1000))
    too_much, _ = form(('name="file"; filename="a"', b"x" * 1001))
    far_too_much, _ = form(('name="file"; filename="a"', b"x" * 1_000_000))

    assert upload(at_most, kind) == ("a", b"x" * 1000)
    for data in (too_much, far_too_much):
        with pytest.raises(TooLargeError, match="the body has more than 1000 bytes"):
            upload(data, kind)


@pytest.mark.parametrize("kind", [None, "application/json", "application/x-www-form-urlencoded"])
def test_what_is_no_multipart_form_is_refused(kind: str | None) -> None:
    with pytest.raises(UnsupportedBodyError, match="multipart/form-data with the picture"):
        upload(b"file=abc", kind)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([], "file: is required"),
        ([("name=other; filename=a", b"x")], "file: is required"),
        ([("name=file", b"a text and no file")], "file: is required"),
        ([("name=file; filename=a", b"x"), ("name=b; filename=b", b"x")], "cannot be read"),
        ([("name=a", b"x")] * 9, "cannot be read"),
    ],
    ids=["empty", "another name", "no file", "two files", "too many fields"],
)
def test_a_form_without_the_one_file_is_refused(
    parts: list[tuple[str, bytes]], problem: str
) -> None:
    data, kind = form(*parts)

    with pytest.raises(InvalidParameterError, match=problem):
        upload(data, kind)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"garbage", "multipart/form-data; boundary=edge"), (b"--edge", "multipart/form-data")],
    ids=["no edge", "no boundary"],
)
def test_a_broken_form_is_refused(data: bytes, kind: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"file: is required|cannot be read"):
        upload(data, kind)
