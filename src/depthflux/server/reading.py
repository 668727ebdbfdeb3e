"""Bodies: read whole, but never more than allowed, and only of the kind that a route takes.

Knows nothing of what is in them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from depthflux.contract.fields import findings
from depthflux.errors import InvalidParameterError, first_line, show
from depthflux.images.limits import megabytes
from depthflux.server.bodies import take_turn
from depthflux.server.errors import CrowdedError, TooLargeError, UnsupportedBodyError
from depthflux.server.parsing import parse_object

Document = TypeVar("Document", bound=BaseModel)

#: Bodies that hold no picture.
SMALL_BYTES = 64 * 1024
#: What surrounds the picture in a multipart body.
_MULTIPART_EXTRA_BYTES = 64 * 1024
_JSON = "application/json"
#: From this size on a body is parsed in a thread: the largest takes a tenth of a second.
_LARGE_BYTES = 256 * 1024


async def read_bytes(request: Request, most: int) -> bytes:
    """The body's bytes.

    Args:
        request: whose.
        most: how many are accepted; no more than one piece beyond them is read.

    Raises:
        TooLargeError: there are more.
        CrowdedError: other requests' bodies leave no room for it.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise _too_large(most)
    pieces: list[bytes] = []
    count = 0
    try:
        async for piece in request.stream():
            count += len(piece)
            if count > most:
                raise _too_large(most)
            pieces.append(piece)
    except (CrowdedError, TooLargeError):
        # At once, and not when whoever is answered has let the error go.
        pieces.clear()
        raise
    # Before they are put together, which needs as much again.
    await take_turn(request)
    return b"".join(pieces)


async def read_object(request: Request, most: int = SMALL_BYTES) -> dict[str, Any]:
    """A body that is a JSON object; an empty body is an empty object.

    Raises:
        UnsupportedBodyError: it is said to be something else; a browser sends forms to anybody's
            server without asking, but JSON only to its own.
        InvalidParameterError: it is no JSON, or no object.
        TooLargeError, CrowdedError: as `read_bytes`.
    """
    data = await read_bytes(request, most)
    kind = _kind_of(request)
    if data and kind != _JSON:
        raise UnsupportedBodyError(
            f"Content-Type={show(kind)} is not taken here; send {_JSON}.",
            field="Content-Type",
            value=kind,
            allowed=_JSON,
        )
    if len(data) > _LARGE_BYTES:
        return await run_in_threadpool(parse_object, data)
    return parse_object(data)


def _kind_of(request: Request) -> str:
    """What a body is said to be; where that is said more than once, all of it, which is nothing."""
    said = request.headers.getlist("content-type")
    return (said[0].partition(";")[0] if len(said) == 1 else ", ".join(said)).strip().lower()


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
    _require_form(request)
    bounded = Request(request.scope, _bounded(request, most + _MULTIPART_EXTRA_BYTES, most))
    try:
        async with bounded.form(max_files=1, max_fields=8, max_part_size=SMALL_BYTES) as form:
            file = _file_of(form)
            if (file.size or 0) > most:
                raise _too_large(most)
            name = (file.filename or "").encode("utf-8", "replace").decode()
            await take_turn(request)
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


def _require_form(request: Request) -> None:
    kind = _kind_of(request)
    if kind != "multipart/form-data":
        raise UnsupportedBodyError(
            f"Content-Type={show(kind)} is not taken here; send multipart/form-data with the "
            "picture as its field file.",
            field="Content-Type",
            value=kind,
            allowed="multipart/form-data",
        )


def _file_of(form: FormData) -> UploadFile:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidParameterError(
            "file: is required; allowed: the picture as the multipart field file.",
            field="file",
            allowed="a file",
        )
    return file


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


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"the body has more than {megabytes(most)}; make the picture smaller.",
        field="body",
        allowed=f"at most {megabytes(most)}",
    )
