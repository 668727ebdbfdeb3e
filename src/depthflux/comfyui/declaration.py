"""The request's declaration as the nodes read it: one JSON document, made when they are installed.

The nodes run where depthflux may not be, so names, defaults, ranges and descriptions travel beside
them, derived from `GenerationRequest` and from nowhere else. Knows nothing of ComfyUI's files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import depthflux
from depthflux.contract import (
    DEFAULT_SIZE,
    MAX_SIDE,
    MIN_SIDE,
    RANDOM_SEED,
    SEED_COUNT,
    GenerationRequest,
    describe_allowed,
    field_range,
)
from depthflux.settings import profile_names

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: What a folder of ours is known by.
MARKER = "depthflux comfyui nodes"

#: Fields without a widget, and why.
WITHOUT_WIDGET = {
    "control_image": "it is the picture that comes in by its socket",
    "only_depth_map": "it is what the node Depthflux Depth Map is",
    "output_format": "ComfyUI gets pixels, so what carries them has to be without loss",
    "enable_base64_output": "the nodes always ask for it: a second address to fetch from is none",
    "enable_sync_mode": "the nodes poll, which is what moves the progress bar",
    "webhook_url": "a graph is a stranger's: it tells nobody that it ran",
}

#: What the node Depthflux Depth Map takes.
DEPTH_FIELDS = ("size", "preprocess_depth", "invert_depth", "depth_normalization", "fit")

#: By how much a click changes a number. Source: the hosted service's own node.
STEPS = {"control_scale": 0.01, "guidance_scale": 0.1}

_KINDS: dict[Any, str] = {bool: "flag", int: "whole", float: "real", str: "text", list: "list"}


def declaration() -> dict[str, Any]:
    """The document that stands beside the nodes as declaration.json."""
    return {
        "marker": MARKER,
        "version": depthflux.__version__,
        "profiles": ["auto", *profile_names()],
        "random_seed": RANDOM_SEED,
        "seed_count": SEED_COUNT,
        "size": {"smallest_side": MIN_SIDE, "largest_side": MAX_SIDE, "documented": DEFAULT_SIZE},
        "depth_fields": list(DEPTH_FIELDS),
        "fields": {
            name: _describe(name, field)
            for name, field in GenerationRequest.model_fields.items()
            if name not in WITHOUT_WIDGET
        },
    }


def _describe(name: str, field: FieldInfo) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": _KINDS.get(get_origin(field.annotation) or field.annotation, "text"),
        "description": field.description,
        "allowed": describe_allowed(name),
    }
    if not field.is_required():
        described["default"] = field.get_default(call_default_factory=True)
    if get_origin(field.annotation) is Literal:
        described |= {"kind": "choice", "choices": list(get_args(field.annotation))}
    low, high = field_range(field)
    if low is not None and high is not None:
        described |= {"low": low, "high": high, "step": STEPS.get(name, 1)}
    return described
