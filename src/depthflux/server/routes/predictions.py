"""Submit, result, list, cancel, delete.

One prediction is read on the event loop itself: that takes a fifth of a millisecond and waits for
no writer, while a hop to a thread and back waits for the interpreter's lock, 5 ms at a time. What
writes, or reads more, goes to a thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from depthflux.contract import HOSTED_MODEL, GenerationRequest
from depthflux.errors import InvalidParameterError, show
from depthflux.images import ReadLimits
from depthflux.server.answers import envelope, still_running
from depthflux.server.bodies import charge_answer, end_turn, give_back, making_answer
from depthflux.server.documents import (
    DeleteAnswer,
    DeletedAnswer,
    DeleteData,
    DeletedData,
    DeleteQuery,
    ListAnswer,
    ListData,
    ListQuery,
    ServedEnvelope,
)
from depthflux.server.errors import CrowdedError, DrainingError
from depthflux.server.names import ID_PATTERN, KEY, KEY_PATTERN, is_id
from depthflux.server.openapi import json_body, query_of
from depthflux.server.reading import read_document, read_object
from depthflux.server.refusals import refused
from depthflux.server.request_schema import WEBHOOK
from depthflux.server.routes.asking import Base, Owner, Served, service_of
from depthflux.server.routes.telling import answer
from depthflux.server.rows import Removed, Stored
from depthflux.server.sending import DocumentAnswer
from depthflux.server.service import Service

router = APIRouter(tags=["predictions"])

#: Where a prediction is submitted, behind the prefix.
SUBMIT = f"/{HOSTED_MODEL}"

#: Base64 takes four characters for three bytes; the other fields are small.
_BASE64_FACTOR, _FIELDS_BYTES = 4 / 3, 2**20
#: About what a prediction in a list has, its prompt a long one.
_LISTED_BYTES = 16 * 1024
#: How often waiting in sync mode looks into the store, should no word come, in seconds.
_LOOK_S = 2.0
#: When a client whose server is about to end may try again, in seconds.
_DRAINING_RETRY_S = 10.0

#: A number in a query; a longer one is out of range anyway, and stays a text.
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)

Id = Annotated[
    str,
    Path(
        description="The prediction's id.",
        max_length=64,
        json_schema_extra={"pattern": ID_PATTERN},
    ),
]


@router.post(
    SUBMIT,
    response_model=ServedEnvelope,
    summary="Submit a prediction",
    openapi_extra=json_body(GenerationRequest),
    responses=refused(422, 429),
)
async def submit(
    request: Request,
    service: Served,
    owner: Owner,
    base: Base,
    webhook: Annotated[
        str | None,
        Query(
            max_length=2048,
            description="Told when the prediction has ended.",
            json_schema_extra=WEBHOOK,
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="Repeats under the same key are answered with the first prediction.",
            json_schema_extra={"pattern": KEY_PATTERN},
        ),
    ] = None,
) -> JSONResponse:
    """Take a prediction in; with `enable_sync_mode`, answer when it has ended."""
    _require_open(service)
    key = _check_key(idempotency_key)
    service.rates.take(owner)
    one, is_new = await _take_in(request, service, webhook, owner=owner, base=base, key=key)
    if is_new:
        service.wake()
    # After the worker was woken: it has begun while the disk is written.
    if one.fields["enable_sync_mode"]:
        return await _keep_and_wait(request, one, owner, base)
    await run_in_threadpool(service.intake.keep, one)
    return await _show(request, one, base)


@router.api_route("/predictions/delete", methods=["GET", "DELETE"], include_in_schema=False)
async def not_a_prediction() -> JSONResponse:
    """Refused as another method is: else it would be read, or deleted, as if that were an id."""
    raise HTTPException(405)


@router.get(
    "/predictions/{id}/result", response_model=ServedEnvelope, summary="A prediction's result"
)
async def result(
    request: Request, service: Served, owner: Owner, base: Base, id: Id
) -> JSONResponse:
    """The prediction as it is now, exactly in the hosted endpoint's form."""
    return await _show(request, service.find(id, owner), base)


@router.get(
    "/predictions/{id}", response_model=ServedEnvelope, summary="A prediction and its progress"
)
async def read(request: Request, service: Served, owner: Owner, base: Base, id: Id) -> JSONResponse:
    """The prediction as it is now, with the steps done while it runs."""
    return await _show(request, service.find(id, owner), base, with_progress=True)


@router.post(
    "/predictions",
    response_model=ListAnswer,
    summary="List predictions",
    openapi_extra=json_body(ListQuery),
)
async def list_by_body(request: Request, owner: Owner, base: Base) -> JSONResponse:
    """A part of the predictions of this key, newest first."""
    return await _list(request, owner, base, await read_object(request))


@router.get(
    "/predictions",
    response_model=ListAnswer,
    summary="List predictions",
    openapi_extra=query_of(ListQuery),
)
async def list_by_query(request: Request, owner: Owner, base: Base) -> JSONResponse:
    """The same, asked in the query."""
    fields: dict[str, Any] = dict(request.query_params)
    for name in ("page", "page_size"):
        if _NUMBER.fullmatch(fields.get(name, "")):
            fields[name] = int(fields[name])
    return await _list(request, owner, base, fields)


@router.post(
    "/predictions/delete",
    response_model=DeleteAnswer,
    summary="Delete predictions",
    openapi_extra=json_body(DeleteQuery),
)
async def delete_several(request: Request, service: Served, owner: Owner) -> JSONResponse:
    """Delete predictions with their pictures; running ones are stopped, unknown ids passed over."""
    query = read_document(await read_object(request), DeleteQuery)
    # What is no id is nobody's.
    ids = [id for id in query.ids if is_id(id)]
    removed = await service.write(service.remove, ids, owner)
    _stop(service, removed)
    return answer(DeleteData(deleted_count=len(removed)))


@router.delete("/predictions/{id}", response_model=DeletedAnswer, summary="Delete a prediction")
async def delete_one(service: Served, owner: Owner, id: Id) -> JSONResponse:
    """Delete a prediction with its pictures; a running one is stopped."""
    service.find(id, owner)
    _stop(service, await service.write(service.remove, [id], owner))
    return answer(DeletedData(id=id))


@router.post(
    "/predictions/{id}/cancel", response_model=ServedEnvelope, summary="Cancel a prediction"
)
async def cancel(
    request: Request, service: Served, owner: Owner, base: Base, id: Id
) -> JSONResponse:
    """Stop a prediction: at once where it waits, between two steps where it runs.

    It then is failed, with an error that says so. One that has ended stays as it is.
    """
    one, has_ended = await service.write(service.cancel, id, owner)
    service.note_cancelled(one, has_ended=has_ended)
    return await _show(request, one, base)


def most_bytes(limits: ReadLimits) -> int:
    """How large the body of a submission may be, which is the largest of all bodies."""
    return int(limits.max_bytes * _BASE64_FACTOR) + _FIELDS_BYTES


async def _take_in(
    request: Request,
    service: Service,
    webhook: str | None,
    *,
    owner: str,
    base: str,
    key: str | None,
) -> tuple[Stored, bool]:
    """Read a submission and take it in; nothing of it stays in memory while its end is awaited."""
    found = await run_in_threadpool(
        service.judging.submission,
        await read_object(request, most_bytes(service.limits)),
        webhook,
        owner=owner,
        base=base,
        key=key,
    )
    # However long it then waits for the disk or the store, others are parsed and judged.
    end_turn(request)
    taken = (
        (found, False)
        if isinstance(found, Stored)
        else await service.write(service.intake.submit, found, owner=owner, base=base)
    )
    give_back(request)
    return taken


async def _keep_and_wait(request: Request, one: Stored, owner: str, base: str) -> JSONResponse:
    """Wait for the disk, and meanwhile for the end."""
    answering = asyncio.create_task(_answer_when_over(request, one.id, owner, base))
    try:
        await run_in_threadpool(service_of(request).intake.keep, one)
    except BaseException:
        answering.cancel()
        # Whatever it has come to by now, nobody else asks for it.
        await asyncio.gather(answering, return_exceptions=True)
        raise
    return await answering


async def _answer_when_over(request: Request, id: str, owner: str, base: str) -> JSONResponse:
    """The final answer, or after some time the one that says to go on asking.

    At once where too many wait already: each of them keeps a connection from everybody else.
    """
    service, began = service_of(request), time.monotonic()
    most_s = service.settings.sync_timeout_s
    with service.board.seat(owner) as has_seat:
        while True:
            one = service.find(id, owner)
            waited_s = min(time.monotonic() - began, most_s)
            if one.is_over or not has_seat or waited_s >= most_s or service.has_stopped:
                break
            await service.board.wait(id, min(most_s - waited_s, _LOOK_S))
            if await request.is_disconnected():
                break  # nobody reads the answer, and another one may have the seat
    if not (has_seat or one.is_over):
        service.metrics.sync_waits_refused.inc()
    if one.is_over:
        try:
            return await _show(request, one, base)
        except CrowdedError:
            # It was accepted, so its id is told: whoever submitted it again would have it twice.
            one = dataclasses.replace(one, outputs=[], flags=[], timings={})
    # In whole seconds, where it was not the setting's.
    said_s = waited_s if waited_s >= most_s else waited_s // 1
    shown = still_running(service.show(one, base), said_s)
    return JSONResponse(envelope(shown))


async def _show(
    request: Request, one: Stored, base: str, *, with_progress: bool = False
) -> JSONResponse:
    service = service_of(request)
    if not (one.outputs and one.fields["enable_base64_output"]):
        return JSONResponse(envelope(service.show(one, base, with_progress=with_progress)))
    # Pictures as base64 have to be read from the disk, and are in memory until they are taken.
    size = await run_in_threadpool(service.media.size_of_outputs, one.outputs)
    async with making_answer(request, int(size * _BASE64_FACTOR)):
        return await run_in_threadpool(lambda: DocumentAnswer(envelope(service.show(one, base))))


async def _list(request: Request, owner: str, base: str, fields: dict[str, Any]) -> JSONResponse:
    service = service_of(request)
    query = read_document(fields, ListQuery)

    def find() -> JSONResponse:
        page = service.predictions.page(
            owner,
            page=query.page,
            size=query.page_size,
            status=query.status,
            model=query.model,
            created_after=_milliseconds("created_after", query.created_after),
            created_before=_milliseconds("created_before", query.created_before),
        )
        return answer(
            ListData(
                page=query.page,
                page_size=query.page_size,
                total=page.total,
                items=[service.show_in_list(one, base) for one in page.items],
            )
        )

    guessed = query.page_size * _LISTED_BYTES
    async with making_answer(request, guessed):
        found = await run_in_threadpool(find)
    # How much it is, prompts above all, is known only now.
    charge_answer(request, len(found.body) - guessed)
    return found


def _milliseconds(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(1000 * aware.timestamp())
    except (ValueError, OverflowError):
        raise InvalidParameterError(
            f"{name}={show(text)} is not allowed; allowed: a time such as 2026-01-31T12:00:00Z.",
            field=name,
            value=text,
            allowed="an RFC 3339 time",
        ) from None


def _require_open(service: Service) -> None:
    if service.is_draining:
        raise DrainingError(
            "the server is about to end and takes nothing new; try again when it is back.",
            retry_after_s=_DRAINING_RETRY_S,
        )


def _check_key(key: str | None) -> str | None:
    if key is not None and not KEY.fullmatch(key):
        raise InvalidParameterError(
            f"Idempotency-Key={show(key)} is not allowed; allowed: 1 to 255 printable ASCII "
            "characters.",
            field="Idempotency-Key",
            value=key,
            allowed="1 to 255 printable ASCII characters",
        )
    return key


def _stop(service: Service, removed: list[Removed]) -> None:
    for one in removed:
        if one.was_running:
            service.stop(one.id)
