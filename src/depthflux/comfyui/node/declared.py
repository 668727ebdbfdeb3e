"""declaration.json → the nodes' widgets, and what is wrong with a text before anything runs.

The file is derived from depthflux's request when the nodes are installed: names, defaults, ranges
and descriptions stand there and not here. Knows nothing of engines.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from .errors import NodeError, show

_FILE = Path(__file__).with_name("declaration.json")


@functools.lru_cache(maxsize=1)
def declaration() -> dict[str, Any]:
    """The declaration.

    Raises:
        NodeError: the file is missing or damaged.
    """
    try:
        read: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NodeError(
            f"cannot read {_FILE}: {error}; install the nodes anew: "
            "depthflux comfyui install --path COMFYUI."
        ) from error
    return read


def widget(name: str) -> tuple[Any, dict[str, Any]]:
    """A field of the request as ComfyUI's INPUT_TYPES has it."""
    field = declaration()["fields"][name]
    kind, options = field["kind"], {"tooltip": field["description"]}
    default = field.get("default", "")
    if kind == "choice":
        return field["choices"], {**options, "default": default}
    if kind == "list":
        return "STRING", {**options, "default": json.dumps(default)}
    if kind == "text":
        return "STRING", {**options, "default": default, "multiline": name == "prompt"}
    if kind == "flag":
        return "BOOLEAN", {**options, "default": default}
    options |= {"default": default, "min": field["low"], "max": field["high"]}
    options["step"] = field["step"]
    if name == "seed":
        options["control_after_generate"] = True
    return "INT" if kind == "whole" else "FLOAT", options


def names() -> list[str]:
    """The fields with a widget, in the request's order."""
    return list(declaration()["fields"])


def size_of(text: str) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        NodeError: it is no width*height, or a side is out of range.
    """
    sides, found = declaration()["size"], re.fullmatch(r"([0-9]{1,6})\*([0-9]{1,6})", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    in_range = all(
        sides["smallest_side"] <= side <= sides["largest_side"] for side in (width, height)
    )
    if not in_range and text != sides["documented"]:
        raise _not_allowed("size", text)
    return width, height


def check_prompt(prompt: str) -> None:
    """See that a prompt says something.

    Raises:
        NodeError: it is empty.
    """
    if not prompt.strip():
        raise _not_allowed("prompt", prompt)


def loras_of(text: str) -> list[Any]:
    """The list in a text of JSON; what its entries hold is judged by the engine.

    Raises:
        NodeError: it is no list.
    """
    try:
        read = json.loads(text.strip() or "[]")
    except (ValueError, RecursionError) as error:
        raise _not_allowed("loras", text) from error
    if not isinstance(read, list):
        raise _not_allowed("loras", text)
    return read


def _not_allowed(name: str, value: object) -> NodeError:
    allowed = declaration()["fields"][name]["allowed"]
    return NodeError(f"{name}={show(value)} is not allowed; allowed: {allowed}.")
