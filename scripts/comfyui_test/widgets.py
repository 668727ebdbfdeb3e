"""A node's widgets, as ComfyUI tells them to its page, held against the request's declaration.

Knows nothing of how the nodes come by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from depthflux.contract import GenerationRequest, field_range

#: Fields that are no widgets: the picture's socket, and what only matters between the node and
#: what it asks.
WITHOUT = {
    "control_image",
    "only_depth_map",
    "output_format",
    "enable_base64_output",
    "enable_sync_mode",
    "webhook_url",
}
_TYPES: dict[Any, str] = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}


def differences(info: Mapping[str, Any], fields: set[str]) -> list[str]:
    """What in a node's widgets is not as declared, in a line each.

    Args:
        info: what `/object_info` says of the node.
        fields: the fields that it has to have.
    """
    inputs = {name: told for group in info["input"].values() for name, told in group.items()}
    declared = set(GenerationRequest.model_fields)
    found = [f"{name}: has no widget" for name in sorted(fields - set(inputs))]
    found += [f"{name}: has a widget" for name in sorted(declared & set(inputs) - fields)
              if name != "control_image"]  # fmt: skip
    for name in sorted(fields & set(inputs)):
        told, wanted = _told(inputs[name]), _wanted(name)
        found += [
            f"{name}: {what} is {told.get(what)!r} and not {value!r}"
            for what, value in wanted.items()
            if told.get(what) != value
        ]
    return found


def _told(widget: list[Any]) -> dict[str, Any]:
    kind, options = widget[0], widget[1] if len(widget) > 1 else {}
    return {"type": kind, **options}


def _wanted(name: str) -> dict[str, Any]:
    field = GenerationRequest.model_fields[name]
    wanted: dict[str, Any] = {"tooltip": field.description}
    annotation = get_origin(field.annotation) or field.annotation
    if annotation is Literal:
        wanted["type"] = list(get_args(field.annotation))
    else:
        wanted["type"] = _TYPES.get(annotation, "STRING")
    if not field.is_required():
        default = field.get_default(call_default_factory=True)
        wanted["default"] = json.dumps(default) if isinstance(default, list) else default
    low, high = field_range(field)
    if low is not None and high is not None:
        wanted |= {"min": low, "max": high}
    if name == "seed":
        wanted["control_after_generate"] = True
    return wanted
