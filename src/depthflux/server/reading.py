"""Bodies: read whole, but never more than allowed, and only of the kind that a route takes.

Knows nothing of what is in them.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from depthflux.contract.fields import findings
from depthflux.errors import InvalidParameterError, first_line, show
from depthflux.images.limits import megabytes
from depthflux.server.errors import TooLargeError, UnsupportedBodyError

Document = TypeVar("Document", bound=BaseModel)

#: Bodies that hold no picture.
SMALL_BYTES = 64 * 1024
#: A request's fields nest three deep at most.
MAX_DEPTH = 16
#: What surrounds the picture in a multipart body.
_MULTIPART_EXTRA_BYTES = 64 * 1024
_JSON = "application/json"
#: From this size on a body is parsed in a thread: the largest takes a tenth of a second.
_LARGE_BYTES = 2**20


async def read_bytes(request: Request, most: int) -> bytes:
    """The body's bytes.

    Args:
        request: whose.
        most: how many are accepted; no more than one piece beyond them is read.

    Raises:
        TooLargeError: there are more.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise _too_large(most)
    pieces, count = [], 0
    async for piece in request.stream():
        count += len(piece)
        if count > most:
            raise _too_large(most)
        pieces.append(piece)
    return b"".join(pieces)


async def read_object(request: Request, most: int = SMALL_BYTES) -> dict[str, Any]:
    """A body that is a JSON object; an empty body is an empty object.

    Raises:
        UnsupportedBodyError: it is said to be something else; a browser sends forms to anybody's
            server without asking, but JSON only to its own.
        InvalidParameterError: it is no JSON, or no object.
        TooLargeError: it has too many bytes.
    """
    data = await read_bytes(request, most)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if data and kind != _JSON:
        raise UnsupportedBodyError(
            f"Content-Type={show(kind)} is not taken here; send {_JSON}.",
            field="Content-Type",
            value=kind,
            allowed=_JSON,
        )
    if len(data) > _LARGE_BYTES:
        return await run_in_threadpool(_parse_object, data)
    return _parse_object(data)


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, parse_constant=_refuse_constant) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        reason = "nests too deep" if isinstance(error, RecursionError) else str(error)
        raise _bad_body(f"is no valid JSON ({' '.join(reason.split())})") from None
    if not isinstance(document, dict):
        raise _bad_body(f"is {show(document)}")
    if _is_deep(document):
        raise _bad_body(f"nests more than {MAX_DEPTH} deep")
    return document


def read_document(fields: dict[str, Any], model: type[Document]) -> Document:
    """An object as one of our documents.

    Raises:
        InvalidParameterError: a field is out of range; the message names all of them.
    """
    try:
        return model(**fields)
    except ValidationError as error:
        found = findings(error, model, fields)
        raise InvalidParameterError(
            " ".join(finding.problem for finding in found),
            field=found[0].name,
            allowed=found[0].allowed,
        ) from None


async def read_file(request: Request, most: int) -> tuple[str, bytes]:
    """Name and bytes of the multipart field `file`.

    Raises:
        UnsupportedBodyError: the body is no multipart form.
        InvalidParameterError: it is a broken one, or has no such file.
        TooLargeError: it has too many bytes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UnsupportedBodyError(
            f"Content-Type={show(kind)} is not taken here; send multipart/form-data with the "
            "picture as its field file.",
            field="Content-Type",
            value=kind,
            allowed="multipart/form-data",
        )
    bounded = Request(request.scope, _bounded(request, most + _MULTIPART_EXTRA_BYTES, most))
    try:
        async with bounded.form(max_files=1, max_fields=8, max_part_size=SMALL_BYTES) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidParameterError(
                    "file: is required; allowed: the picture as the multipart field file.",
                    field="file",
                    allowed="a file",
                )
            if (file.size or 0) > most:
                raise _too_large(most)
            name = (file.filename or "").encode("utf-8", "replace").decode()
            return name, await file.read()
    except (UnicodeError, LookupError) as error:
        raise InvalidParameterError(
            f"the multipart body's names cannot be read: {first_line(error)}; leave the charset "
            "out.",
            field="file",
        ) from None
    except HTTPException as error:
        raise InvalidParameterError(
            f"the multipart body cannot be read: {error.detail}; send the picture as its field "
            "file.",
            field="file",
        ) from None


def _bounded(request: Request, most: int, said: int) -> Any:
    """The request's own receive, which refuses to go on after so many bytes."""
    count = 0

    async def receive() -> Any:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > most:
            raise _too_large(said)
        return message

    return receive


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_deep(document: dict[str, Any]) -> bool:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (
                node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            )
        ]
    return bool(level)


def _bad_body(problem: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"the body {problem}; send a JSON object of the request's fields.",
        field="body",
        allowed="a JSON object",
    )


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"the body has more than {megabytes(most)}; make the picture smaller.",
        field="body",
        allowed=f"at most {megabytes(most)}",
    )
