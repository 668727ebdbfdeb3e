"""What every operation may refuse, by HTTP status, for OpenAPI.

Which of them an operation can give follows from what it takes: a key, a body, an id. A route says
by itself only what does not follow. Knows nothing of how they come about.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

_ERROR = {"$ref": "#/components/schemas/ErrorDocument"}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds until it is worth trying again.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}
_CHALLENGE = {"WWW-Authenticate": {"description": "Bearer.", "schema": {"const": "Bearer"}}}

_WORDS = {
    400: "A parameter, a field or a header is wrong; the message names all that are.",
    401: "The API key is missing or wrong.",
    403: "A page of another origin has sent it.",
    404: "There is nothing under this id or name, or it is another key's.",
    408: "The request did not come to its end in time.",
    413: "The body is larger than accepted.",
    414: "The address is longer than accepted.",
    415: "The body is of another kind than the operation takes.",
    421: "The Host header names another server.",
    422: "The Idempotency-Key has come with another request before.",
    429: "Too much at once: the key's rate, or what waits.",
    431: "The headers are larger than accepted.",
    500: "Something went wrong inside; the message has a word that the log knows, too.",
    503: "The server cannot do it just now: it drains, is full, or its store cannot be used.",
}
_HEADERS = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}

#: Whatever is asked for.
_ALWAYS = (400, 403, 408, 414, 421, 431, 500, 503)


def refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares that does not follow from what it takes."""
    return {status: {"description": _WORDS[status]} for status in statuses}


def components() -> dict[str, Any]:
    """Every refusal, to be referred to."""
    return {
        _name(status): {
            "description": words,
            "content": {"application/json": {"schema": _ERROR, "example": _example(status, words)}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status, words in _WORDS.items()
    }


def add_refusals(operation: dict[str, Any], *, needs_key: bool) -> None:
    """Let an operation refer to its refusals.

    Args:
        operation: changed in place; the statuses that its route declares without content are kept.
        needs_key: whether it asks for an API key.
    """
    answers = operation["responses"]
    # The framework's own, which none of our answers is.
    if "content" in answers.get("422", {}):
        del answers["422"]
    statuses = {*_ALWAYS, *_that_follow(operation)}
    statuses |= {int(status) for status in answers if int(status) in _WORDS}
    if needs_key:
        statuses.add(401)
    for status in sorted(statuses):
        if "content" not in answers.get(str(status), {}):
            answers[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}


def _that_follow(operation: dict[str, Any]) -> set[int]:
    found = set()
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", [])):
        found.add(404)
    if "requestBody" in operation:
        found.add(413)
        if "application/octet-stream" not in operation["requestBody"]["content"]:
            found.add(415)
    return found


def _name(status: int) -> str:
    return "".join(word.capitalize() for word in HTTPStatus(status).name.split("_"))


def _example(status: int, words: str) -> dict[str, Any]:
    return {"code": status, "message": words, "error": words}
