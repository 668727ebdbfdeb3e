"""A script that answers a client of the hosted API as depthflux does, but for what a test says."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from scripted_server import Asked, Reply


class ScriptedPredictions:
    """Takes every prediction, and says that it is completed when it is asked.

    Attributes:
        posted: what was submitted, in order.
        before: what comes first where a prediction is asked for, each once.
    """

    def __init__(self, *, before: Sequence[Reply] = (), depth_map: str = "grey") -> None:
        """Answer.

        Args:
            before: what comes first where a prediction is asked for, each once.
            depth_map: grey, or coloured as an older server's.
        """
        self.posted: list[dict[str, Any]] = []
        self.before = list(before)
        self._depth_map = depth_map

    def __call__(self, asked: Asked) -> Reply:
        """Answer one request."""
        if asked.path.endswith("/cancel"):
            return Reply({"data": {}})
        if asked.method == "POST":
            self.posted.append(asked.json())
            return Reply({"data": {"id": f"{len(self.posted):032x}", "status": "created"}})
        if self.before:
            return self.before.pop(0)
        id = asked.path.rpartition("/")[2]
        outputs = [self._picture_for(self.posted[int(id, 16) - 1])]
        return Reply({"data": {"id": id, "status": "completed", "outputs": outputs}})

    def _picture_for(self, body: dict[str, Any]) -> str:
        grey = body.get("only_depth_map") and self._depth_map == "grey"
        width, height = (int(side) for side in body["size"].split("*"))
        buffer = io.BytesIO()
        colour = (90, 90, 90) if grey else (90, 60, 30)
        Image.new("RGB", (width, height), colour).save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode("ascii")
