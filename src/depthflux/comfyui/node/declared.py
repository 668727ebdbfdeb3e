"""declaration.json → the nodes' widgets, and what is wrong with a text before anything runs.

The file is derived from depthflux's request when the nodes are installed: names, defaults, ranges
and descriptions stand there and not here. Knows nothing of engines.
"""

from __future__ import annotations

import functools
import json
import math
import numbers
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import NodeError, show, tell

_FILE = Path(__file__).with_name("declaration.json")
_PARTS = ("profiles", "random_seed", "seed_count", "size", "depth_fields", "fields")


@functools.lru_cache(maxsize=1)
def declaration() -> dict[str, Any]:
    """The declaration.

    Raises:
        NodeError: the file is missing or damaged.
    """
    try:
        read: Any = json.loads(_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(tell(error)) from error
    missing = [part for part in _PARTS if not isinstance(read, dict) or part not in read]
    if missing:
        raise _damaged(f"it has no {missing[0]}")
    declared: dict[str, Any] = read
    return declared


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


def judged(given: dict[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """The wanted fields as a request has them; of those not given, the declared defaults.

    Raises:
        NodeError: some are not allowed; all of them, in one line.
    """
    found, problems = {}, []
    for name in wanted:
        default = declaration()["fields"][name].get("default")
        try:
            found[name] = _judged(name, given[name]) if name in given else default
        except NodeError as error:
            problems.append(str(error))
    if problems:
        raise NodeError(" ".join(problems))
    return found


def size_of(text: object) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        NodeError: it is no width*height, or a side is out of range.
    """
    sides = declaration()["size"]
    found = isinstance(text, str) and re.fullmatch(r"([0-9]{1,6})\*([0-9]{1,6})", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    in_range = all(
        sides["smallest_side"] <= side <= sides["largest_side"] for side in (width, height)
    )
    if not in_range and text != sides["documented"]:
        raise _not_allowed("size", text)
    return width, height


def _judged(name: str, value: object) -> Any:
    """A field's value as a request has it, whatever a graph or another node has given."""
    field = declaration()["fields"][name]
    kind = field["kind"]
    if kind == "list":
        return _list_of(name, value)
    if kind in ("whole", "real"):
        return _number_of(name, value, field)
    if name == "size":
        size_of(value)
    allowed = {
        "text": isinstance(value, str) and (name != "prompt" or bool(value.strip())),
        "flag": isinstance(value, bool),
        "choice": isinstance(value, str) and value in field.get("choices", ()),
    }
    if not allowed[kind]:
        raise _not_allowed(name, value)
    return value


def _number_of(name: str, value: object, field: dict[str, Any]) -> float:
    kind = numbers.Integral if field["kind"] == "whole" else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _not_allowed(name, value)
    # NumPy's numbers are numbers, too, but nothing that JSON knows.
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not (math.isfinite(number) and field["low"] <= number <= field["high"]):
        raise _not_allowed(name, value)
    return number


def _list_of(name: str, value: object) -> list[Any]:
    """The list in a text of JSON, or one that another node gives.

    What its entries hold is judged by the engine.
    """
    try:
        # Written and read again: another node's list may hold anything.
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        read = json.loads(text.strip() or "[]", parse_constant=_no_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_allowed(name, value, ", as a text of JSON, in quotes") from error
    if not isinstance(read, list):
        raise _not_allowed(name, value, ", as a text of JSON, in quotes")
    return read


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _not_allowed(name: str, value: object, form: str = "") -> NodeError:
    allowed = declaration()["fields"][name]["allowed"]
    return NodeError(f"{name}={show(value)} is not allowed; allowed: {allowed}{form}.")


def _damaged(reason: str) -> NodeError:
    return NodeError(
        f"cannot read {_FILE}: {reason}; install the nodes anew: "
        "depthflux comfyui install --path COMFYUI."
    )
