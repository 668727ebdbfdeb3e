"""The interface's description, from the same declarations that requests are checked against.

Routes read their bodies themselves, to bound them and to refuse in the hosted form; so what a body
may be is said here, by reference to the declaring classes, whose schemas are put in at the end.
Knows nothing of what the routes do.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import depthflux
from depthflux.contract import GenerationRequest
from depthflux.server.documents import DeleteQuery, ListQuery, PriceQuery, TicketQuery

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (
    GenerationRequest,
    ListQuery,
    DeleteQuery,
    TicketQuery,
    PriceQuery,
)
#: A list can be asked for without a body.
_OPTIONAL = (ListQuery,)

#: What a route says that asks for no key where others do.
NO_KEY: dict[str, Any] = {"security": []}

_ABOUT = """Answers like the hosted endpoint `wavespeed-ai/flux-control-lora-depth`: its clients \
work with only the base URL changed. `/api/v2` and `/api/v3` are alike."""


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """What a route takes: this document as JSON."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {
        "requestBody": {
            "required": model not in _OPTIONAL,
            "content": {"application/json": {"schema": schema}},
        }
    }


def file_body() -> dict[str, Any]:
    """What a route takes: a multipart form with a picture."""
    schema = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def bytes_body() -> dict[str, Any]:
    """What a route takes: a picture's bytes."""
    schema = {"type": "string", "format": "binary"}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": schema}},
        }
    }


def describe(app: FastAPI, *, needs_keys: bool) -> dict[str, Any]:
    """The OpenAPI document of an application.

    Args:
        app: whose routes.
        needs_keys: whether API keys are asked for.
    """
    document = get_openapi(
        title="depthflux", version=depthflux.__version__, description=_ABOUT, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF)
    schemas.update(bodies["$defs"])
    if needs_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document
