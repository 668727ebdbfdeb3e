"""The interface's description, from the same declarations that requests are checked against.

Routes read their bodies themselves, to bound them and to refuse in the hosted form; so what a body
may be is said here, by reference to the declaring classes, whose schemas are put in at the end.
Knows nothing of what the routes do.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import depthflux
from depthflux.contract import GenerationRequest
from depthflux.images import MEDIA_TYPES
from depthflux.server.documents import (
    DeleteQuery,
    ErrorDocument,
    ListQuery,
    PriceQuery,
    TicketQuery,
)
from depthflux.server.links import add_links
from depthflux.server.refusals import add_refusals, components
from depthflux.server.request_schema import as_http_takes_it
from depthflux.server.settings import ServerSettings

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
_PICTURE_TYPES = tuple(MEDIA_TYPES.values())

#: What a route answers with that gives a picture.
PICTURE_CONTENT: dict[str, Any] = {
    kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in _PICTURE_TYPES
}

#: What a route says that asks for no key where others do.
NO_KEY: dict[str, Any] = {"security": []}

_ABOUT = """Answers like the hosted endpoint `wavespeed-ai/flux-control-lora-depth`: its clients \
work with only the base URL changed. {prefixes} are alike."""

_TAGS = {
    "predictions": "Submit, read, list, cancel, delete.",
    "media": "Uploads, and the pictures at the addresses that answers name.",
    "account": "What clients ask around their predictions; nothing is billed here.",
    "health": "Is it alive, can it take predictions, what does it count.",
}


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
    file = {"type": "string", "format": "binary", "description": "A PNG, JPEG or WebP file."}
    schema = {"type": "object", "required": ["file"], "properties": {"file": file}}
    form = {"schema": schema, "encoding": {"file": {"contentType": ", ".join(_PICTURE_TYPES)}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def bytes_body() -> dict[str, Any]:
    """What a route takes: a picture's bytes; what kind they are of is seen in them."""
    schema = {"type": "string", "format": "binary"}
    kinds = ("application/octet-stream", *_PICTURE_TYPES)
    return {
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}
    }


def query_of(model: type[BaseModel]) -> dict[str, Any]:
    """What a route takes: the fields of a flat document as query parameters."""
    fields = model.model_json_schema()["properties"]
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description"),
            "schema": _without_null(schema),
        }
        for name, schema in fields.items()
    ]
    return {"parameters": parameters}


def describe(
    app: FastAPI, settings: ServerSettings, prefixes: Collection[str], *, needs_keys: bool
) -> dict[str, Any]:
    """The OpenAPI document of an application.

    Args:
        app: whose routes.
        settings: which may allow less than the contract does.
        prefixes: under which the same routes are found.
        needs_keys: whether API keys are asked for.
    """
    document = get_openapi(
        title="depthflux",
        version=depthflux.__version__,
        description=_ABOUT.format(prefixes=" and ".join(f"`{one}`" for one in sorted(prefixes))),
        routes=app.routes,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        tags=[{"name": name, "description": words} for name, words in _TAGS.items()],
    )
    for methods in document["paths"].values():
        for operation in methods.values():
            needs_key = needs_keys and operation.get("security") != []
            _finish(operation, document["components"]["schemas"], needs_key=needs_key)
    for prefix in prefixes:
        add_links(document["paths"], prefix)
    document["components"] = {
        "schemas": _schemas(document, settings),
        "responses": components(),
    }
    if needs_keys:
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "A key of this server."}
        }
        document["security"] = [{"key": []}]
    return document


def _schemas(document: dict[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """The schemas of answers, in which nothing is ever null, and of bodies."""
    answers = document.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        answers.pop(name, None)
    for schema in answers.values():
        for name, field in schema.get("properties", {}).items():
            schema["properties"][name] = _without_null(field)
    _, bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF)
    as_http_takes_it(bodies["$defs"]["GenerationRequest"], settings)
    error = {ErrorDocument.__name__: ErrorDocument.model_json_schema()}
    return {**answers, **bodies["$defs"], **error}


def _finish(operation: dict[str, Any], schemas: dict[str, Any], *, needs_key: bool) -> None:
    """Add what follows from the rest of an operation."""
    for parameter in operation.get("parameters", []):
        # What is absent from a path, query or header is not null.
        parameter["schema"] = _without_null(parameter["schema"])
        parameter["schema"].pop("description", None)
    answer = operation["responses"]["200"]
    if answer["description"] == "Successful Response":
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        of_document = schemas.get(schema.get("$ref", "").rpartition("/")[2], {})
        answer["description"] = of_document.get("description", f"{operation['summary']}.")
    add_refusals(operation, needs_key=needs_key)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same without null as a value or a default."""
    kinds = schema.get("anyOf", [])
    rest = [kind for kind in kinds if kind != {"type": "null"}]
    if len(kinds) != 2 or len(rest) != 1:
        return schema
    outer = {name: value for name, value in schema.items() if name != "anyOf"}
    if outer.get("default", ...) is None:
        del outer["default"]
    return {**outer, **rest[0]}
