"""What an engine gives a node, wherever it runs.

Knows nothing of engines.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .pictures import Pixels

#: A request needs a prompt, and for a depth map nothing reads it.
DEPTH_MAP_PROMPT = "depth map"
#: What of a prediction's data goes on; pictures do not.
_DATA = (
    "id",
    "model",
    "urls",
    "has_nsfw_contents",
    "status",
    "created_at",
    "error",
    "executionTime",
    "timings",
)


class Painted(NamedTuple):
    """Pictures, the depth map that guided them, and the envelope."""

    pictures: list[Pixels]
    depth_map: Pixels
    envelope: dict[str, Any]


def envelope_of(data: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The hosted envelope around a prediction's data, for a graph.

    In place of pictures `outputs` names their places in the IMAGE batch, which holds them already;
    `input` has the fields as in the hosted service's lists, the drawn seed among them.
    """
    outputs = [f"images[{index}]" for index in range(len(data.get("outputs") or ()))]
    kept = {name: data[name] for name in _DATA if name in data}
    return {
        "code": 200,
        "message": "success",
        "data": {**kept, "outputs": outputs, "input": fields},
    }
