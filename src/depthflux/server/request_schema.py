"""The request's JSON schema as HTTP takes it: what is declared, and what the intake asks beside it.

What depends on files, such as which LoRAs there are, no schema can say. Knows nothing of routes.
"""

from __future__ import annotations

from typing import Any

from depthflux.contract import GenerationRequest
from depthflux.server.judging import MAX_PROMPT_CHARACTERS, MAX_URL_CHARACTERS
from depthflux.server.settings import ServerSettings

#: 512 to 1536, as a pattern; a test compares it with the declared limits.
_SIDE = "(51[2-9]|5[2-9][0-9]|[6-9][0-9]{2}|1[0-4][0-9]{2}|15[0-2][0-9]|153[0-6])"
#: The documented default is beyond its own range.
_SIZE = rf"^({_SIDE}\*{_SIDE}|864\*1636)$"

#: A webhook's address; an empty one is none.
WEBHOOK: dict[str, Any] = {
    "anyOf": [
        {
            "type": "string",
            "format": "uri",
            "maxLength": MAX_URL_CHARACTERS,
        },
        {"const": ""},
    ]
}

#: A grey pixel as a PNG: the smallest control image that an example can hold.
EXAMPLE_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)
_EXAMPLE = {
    "prompt": "a white cylinder on a yellow floor, purple sky",
    "control_image": EXAMPLE_PICTURE,
    "size": "512*512",
    "num_inference_steps": 4,
    "seed": 1,
}

_CONTROL_IMAGES: list[dict[str, Any]] = [
    {
        "title": "Address",
        "description": "An http or https address, such as one that an upload has given.",
        "type": "string",
        "format": "uri",
        "maxLength": MAX_URL_CHARACTERS,
    },
    {
        "title": "Data URI",
        "type": "string",
        "pattern": "^data:image/(png|jpeg|webp);base64,",
    },
    {
        "title": "Base64",
        "description": "A PNG, JPEG or WebP file's bytes.",
        "type": "string",
        "format": "byte",
        "pattern": "^(iVBORw0KGgo|/9j/|_9j_|UklGR)",
        "contentEncoding": "base64",
    },
]


def request_schema(settings: ServerSettings) -> dict[str, Any]:
    """The schema by itself, as `/models` shows it.

    Args:
        settings: which may allow less than the contract does.
    """
    schema = GenerationRequest.model_json_schema()
    as_http_takes_it(schema, settings)
    return schema


def as_http_takes_it(schema: dict[str, Any], settings: ServerSettings) -> None:
    """Make the declared schema of a request say what this server takes.

    Args:
        schema: that of GenerationRequest, changed in place.
        settings: which may allow less than the contract does.
    """
    # Unknown fields are passed over, as the hosted endpoint does.
    schema.pop("additionalProperties", None)
    schema["description"] = "A prediction's fields; unknown ones are passed over."
    fields = schema["properties"]
    fields["prompt"] |= {"minLength": 1, "maxLength": MAX_PROMPT_CHARACTERS, "pattern": r"\S"}
    image = fields["control_image"]
    del image["type"], image["allowed"]
    image |= {
        "description": "The picture whose depth guides the result; a path is refused.",
        "anyOf": [dict(kind) for kind in _CONTROL_IMAGES],
    }
    fields["size"]["pattern"] = _SIZE
    fields["num_images"]["maximum"] = settings.max_images
    fields["num_inference_steps"]["maximum"] = settings.max_steps
    fields["webhook_url"]["anyOf"] = [*WEBHOOK["anyOf"], {"type": "null"}]
    schema["allOf"] = [
        _unless("invert_depth", only_with={"preprocess_depth": {"const": False}}),
        _unless(
            "enable_base64_output", only_with={"webhook_url": {"enum": [None, ""]}}, absent=True
        ),
    ]
    schema["examples"] = [_EXAMPLE]


def _unless(
    name: str, *, only_with: dict[str, dict[str, Any]], absent: bool = False
) -> dict[str, Any]:
    """That a flag may be true only together with another field's value.

    Args:
        name: the flag.
        only_with: the other field, and its schema.
        absent: whether the other one may be left out.
    """
    together: dict[str, Any] = {"properties": only_with}
    if not absent:
        together["required"] = list(only_with)
    return {"anyOf": [{"properties": {name: {"const": False}}}, together]}
