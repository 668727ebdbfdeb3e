"""Is it alive, can it take predictions, what does Prometheus read.

Knows nothing of why.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from depthflux.server.documents import ErrorDocument, Readiness
from depthflux.server.metrics import CONTENT_TYPE
from depthflux.server.openapi import NO_KEY
from depthflux.server.routes.asking import Owner, Served

router = APIRouter(tags=["health"])


@router.head("/livez", include_in_schema=False)
@router.get(
    "/livez",
    response_class=PlainTextResponse,
    summary="The process answers",
    openapi_extra=NO_KEY,
)
async def livez() -> PlainTextResponse:
    """Answers while the process lives; what an orchestrator restarts it for is its silence."""
    return PlainTextResponse("ok\n")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    response_model=Readiness,
    summary="Predictions are computed",
    openapi_extra=NO_KEY,
    responses={
        503: {
            "model": Readiness | ErrorDocument,
            "description": "No worker can paint, or it drains; or the store cannot be read.",
        }
    },
)
async def readyz(service: Served) -> JSONResponse:
    """loading: no worker has loaded yet; ready: all can paint; degraded: not all; draining."""
    found = await run_in_threadpool(service.readiness)
    can_paint = found.status == "ready" or "ready" in found.workers
    is_open = can_paint and found.status != "draining"
    return JSONResponse(found.model_dump(), status_code=200 if is_open else 503)


@router.get("/metrics", response_class=PlainTextResponse, summary="Counters")
async def metrics(service: Served, owner: Owner) -> Response:
    """Counters as Prometheus reads them; with API keys, one is needed here, too."""
    del owner
    text = await run_in_threadpool(service.render_metrics)
    return Response(text, media_type=CONTENT_TYPE)
