"""The application: the routes under both prefixes, and every error as the hosted form has it.

Knows nothing of what routes do.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depthflux.errors import BusyError, DepthFluxError, first_line
from depthflux.server.bodies import Bodies, Charging, room_for
from depthflux.server.database import STORE_PROBLEMS
from depthflux.server.errors import StoreError
from depthflux.server.gate import Gate
from depthflux.server.keys import Keys
from depthflux.server.methods import allowed_methods
from depthflux.server.metrics import Metrics
from depthflux.server.names import new_error_word
from depthflux.server.openapi import describe
from depthflux.server.routes import account, health, media, predictions
from depthflux.server.routes.telling import refusal
from depthflux.server.service import Service

logger = logging.getLogger("depthflux")

#: The hosted endpoint documents v2; its current clients call v3, which is looked for first.
PREFIXES = ("/api/v3", "/api/v2")

#: When to try again where the disk is full or the store is locked, in seconds.
_STORE_RETRY_S = "5"

#: What a browser must not make of an answer: neither another kind of it, nor a page that runs,
#: sends forms or stands in a frame, nor a window that its opener holds on to.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
#: Nor a part of another site's page, unless a route says so itself.
_EMBEDDING = (b"cross-origin-resource-policy", b"same-origin")
#: All of them, for what is refused before there is a route.
HEADERS = (*_HEADERS, _EMBEDDING)


def make_app(service: Service, keys: Keys) -> FastAPI:
    """The application around a service.

    Args:
        service: what the routes call.
        keys: who may ask.
    """
    app = FastAPI(
        title="depthflux",
        # Its pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A redirect would name the Host that was sent, and no route of ours needs one.
        redirect_slashes=False,
        generate_unique_id_function=lambda route: _operation(route.path, route.methods),
    )
    app.state.service, app.state.keys = service, keys
    for prefix in PREFIXES:
        for room in (predictions, media, account):
            app.include_router(room.router, prefix=prefix)
    app.include_router(media.files)
    app.include_router(health.router)
    document = describe(app, service.settings, PREFIXES, needs_keys=len(keys) > 0)
    app.openapi = lambda: document  # type: ignore[method-assign]
    for kind, handle in _HANDLERS.items():
        app.add_exception_handler(kind, handle)
    largest = predictions.most_bytes(service.limits)
    bodies = Bodies(most=room_for(largest), has_several_keys=len(keys) > 1)
    app.add_middleware(Charging, bodies=bodies)
    # The one that is added last is the outermost: what the gate refuses is counted, too.
    app.add_middleware(Gate, settings=service.settings)
    app.add_middleware(Observed, metrics=service.metrics)
    return app


class Observed:
    """Counts every answer by its route, adds what browsers have to be told, answers surprises.

    Surprises here and not in the framework's own place for them, which is outside of this one and
    would log each twice.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        has_begun = False

        async def observe(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                said = [name for name, _ in message["headers"]]
                embedding = [] if _EMBEDDING[0] in said else [_EMBEDDING]
                message["headers"] = [*message["headers"], *_HEADERS, *embedding]
                route = scope.get("route")
                self._metrics.http_requests.labels(
                    # Never the path itself, which anybody can make new ones of.
                    getattr(route, "path", "none"),
                    scope["method"] if route else "other",
                    str(message["status"]),
                ).inc()
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except ClientDisconnect:
            return  # nobody listens any more
        except Exception as error:  # noqa: BLE001 - the one place where no surprise gets past
            answer = _answer_to_surprise(scope, error)
            if not has_begun:
                await answer(scope, receive, observe)


async def _on_our_error(request: Request, error: Exception) -> JSONResponse:
    """A refusal of ours: its own status, its one line."""
    if not isinstance(error, DepthFluxError):
        raise error
    headers: dict[str, str] = {}
    if isinstance(error, BusyError):
        if getattr(request.scope.get("route"), "path", "").endswith(predictions.SUBMIT):
            request.app.state.service.metrics.refusals.inc()
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, StoreError):
        logger.error("%s", error)
        headers["Retry-After"] = _STORE_RETRY_S
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return refusal(error.http_status, " ".join(str(error).split()), headers)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: an unknown path, another method."""
    if not isinstance(error, HTTPException):
        raise error
    words = {
        404: f"there is nothing at {request.url.path[:200]!r}.",
        405: f"{request.method} is not allowed here.",
    }
    text = words.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = allowed_methods(request.app.openapi(), request.url.path, headers)
    return refusal(error.status_code, text, headers)


async def _on_bad_parameter(_request: Request, error: Exception) -> JSONResponse:
    """A path or query parameter that the framework refuses."""
    if not isinstance(error, RequestValidationError):
        raise error
    problems = [f"{found['loc'][-1]}: {found['msg']}" for found in error.errors()]
    return refusal(400, f"{'; '.join(problems)}.")


async def _on_store_error(_request: Request, error: Exception) -> JSONResponse:
    """The store is locked, or the disk is full: what was to be written is not."""
    logger.error("the store cannot be used: %s", first_line(error))
    text = "the store cannot be read or written just now; try again."
    return refusal(503, text, {"Retry-After": _STORE_RETRY_S})


def _answer_to_surprise(scope: Scope, error: Exception) -> JSONResponse:
    """An error that nobody meant: its traceback is for the log, a word to find it by for all."""
    word = new_error_word()
    route = getattr(scope.get("route"), "path", "no route")
    logger.error("error %s in %s %s", word, scope["method"], route, exc_info=error)
    return refusal(500, f"something went wrong inside; the server's log names error {word}.")


_HANDLERS: dict[type[Exception], Any] = {
    DepthFluxError: _on_our_error,
    HTTPException: _on_http_error,
    RequestValidationError: _on_bad_parameter,
    **dict.fromkeys(STORE_PROBLEMS, _on_store_error),
    OSError: _on_store_error,
}


def _operation(path: str, methods: set[str] | None) -> str:
    """A unique name for OpenAPI: method and path."""
    words = "".join(c if c.isalnum() else "_" for c in path).strip("_")
    return f"{'_'.join(sorted(methods or ())).lower()}_{words}"
