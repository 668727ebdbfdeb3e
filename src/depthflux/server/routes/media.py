"""Uploads, tickets for uploads, and the addresses of pictures.

Knows nothing of what pictures are for.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from depthflux.images import MEDIA_TYPES, format_of
from depthflux.server.bodies import charge_to, end_turn
from depthflux.server.documents import (
    TicketAnswer,
    TicketData,
    TicketQuery,
    TicketUpload,
    UploadAnswer,
    UploadData,
)
from depthflux.server.errors import NotFoundError
from depthflux.server.media import Media
from depthflux.server.names import FILE_NAME_PATTERN, WORD_PATTERN
from depthflux.server.openapi import NO_KEY, PICTURE_CONTENT, bytes_body, file_body, json_body
from depthflux.server.reading import read_bytes, read_document, read_file, read_object
from depthflux.server.refusals import refused
from depthflux.server.routes.asking import Base, Origin, Owner, Served
from depthflux.server.routes.telling import answer
from depthflux.server.sending import FileAnswer, OpenFile

router = APIRouter(tags=["media"])
files = APIRouter(tags=["media"])

_PICTURE_HEADERS = {
    # A picture at an address never changes; whoever has it need not ask again within a day.
    "Cache-Control": "private, max-age=86400, immutable",
    # Other sites' pages may show one, as they do with those of the hosted endpoint.
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@router.post(
    "/media/upload/binary",
    response_model=UploadAnswer,
    summary="Upload a picture",
    openapi_extra=file_body(),
    responses=refused(429),
)
@router.post(
    "/upload",
    response_model=UploadAnswer,
    summary="Upload a picture (older path)",
    openapi_extra=file_body(),
    responses=refused(429),
)
async def upload(request: Request, service: Served, owner: Owner, origin: Origin) -> JSONResponse:
    """Take in a picture as the multipart field `file`; its address is good as control_image."""
    service.rates.take(owner)
    filename, data = await read_file(request, service.limits.max_bytes)
    judged = await run_in_threadpool(service.judging.picture, data)
    # However long it then waits for the disk or the store, others are parsed and judged.
    end_turn(request)
    picture = await service.write(service.intake.upload, judged, owner)
    url = f"{origin}/media/{picture.name}"
    return answer(
        UploadData(
            download_url=url,
            url=url,
            name=picture.name,
            filename=filename or picture.name,
            size=picture.size,
        )
    )


@router.post(
    "/media/uploads",
    response_model=TicketAnswer,
    summary="Ask for an upload ticket",
    openapi_extra=json_body(TicketQuery),
    responses=refused(429),
)
async def promise(
    request: Request, service: Served, owner: Owner, base: Base, origin: Origin
) -> JSONResponse:
    """A secret address that one picture's bytes can be put to, without Authorization."""
    service.rates.take(owner)
    query = read_document(await read_object(request), TicketQuery)
    ticket = await service.write(
        service.intake.promise, query.filename, query.content_type, query.size, owner
    )
    return answer(
        TicketData(
            upload=TicketUpload(
                url=f"{base}/media/uploads/{ticket.secret}",
                secret=ticket.secret,
                headers={"Content-Type": "application/octet-stream"},
            ),
            download_url=f"{origin}/media/{ticket.name}",
            name=ticket.name,
        )
    )


@router.put(
    "/media/uploads/{secret}",
    response_class=Response,
    status_code=200,
    summary="Put the bytes that a ticket has promised",
    openapi_extra={**bytes_body(), **NO_KEY},
)
async def redeem(
    request: Request,
    service: Served,
    secret: Annotated[
        str,
        Path(
            description="The end of the ticket's address.",
            max_length=64,
            json_schema_extra={"pattern": WORD_PATTERN},
        ),
    ],
) -> Response:
    """Take in a picture's bytes; knowing the address is the permission."""
    # Before the body is read: without a ticket nobody sends us megabytes.
    ticket = await run_in_threadpool(service.intake.find_ticket, secret)
    charge_to(request, ticket.owner)
    data = await read_bytes(request, ticket.size)
    judged = await run_in_threadpool(service.judging.promised, ticket, data)
    end_turn(request)
    if judged is not None:
        await service.write(service.intake.redeem, ticket, judged)
    return Response(status_code=200)


@files.head("/media/{name}", include_in_schema=False)
@files.get(
    "/media/{name}",
    response_class=Response,
    summary="A picture",
    openapi_extra=NO_KEY,
    responses={200: {"description": "The file.", "content": PICTURE_CONTENT}},
)
async def picture(
    service: Served,
    name: Annotated[
        str,
        Path(
            description="The end of the picture's address.",
            max_length=64,
            json_schema_extra={"pattern": FILE_NAME_PATTERN},
        ),
    ],
) -> Response:
    """A finished picture or an upload; knowing the address is the permission."""
    # Never whole in memory; being open, one that is deleted meanwhile is whole or 404.
    file = await run_in_threadpool(_open, service.media, name)
    found = format_of(file.first) if file is not None else None
    if file is None or found is None:
        if file is not None:
            file.close()
        raise NotFoundError("there is no such picture; pictures are kept for some days.")
    # By its first bytes: its name says what a client has called it.
    return FileAnswer(file, media_type=MEDIA_TYPES[found], headers=_PICTURE_HEADERS)


def _open(media: Media, name: str) -> OpenFile | None:
    file = media.open(name)
    return None if file is None else OpenFile(file)
