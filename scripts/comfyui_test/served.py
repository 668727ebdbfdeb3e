"""The server that the nodes ask, asked directly: what it paints, and what it was asked for.

Knows nothing of ComfyUI.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from comfyui_test.errors import CheckFailedError
from depthflux.bench.hosted.local_server import LocalServer

_SUBMIT = "/api/v3/wavespeed-ai/flux-control-lora-depth"
_PREDICTIONS = "/api/v3/predictions"
#: How long one answer may take, the pictures' painting included, in seconds.
CALL_S = 90.0
_LOOK_S = 0.1


class Served:
    """Calls of a running server."""

    def __init__(self, server: LocalServer) -> None:
        """Ask nothing yet."""
        self._server = server
        self._opener = build_opener(ProxyHandler({}))

    def paint(self, picture: Path, fields: Mapping[str, Any]) -> list[bytes]:
        """The pictures of a request, as files.

        Args:
            picture: the control image.
            fields: the others.

        Raises:
            CheckFailedError: it fails.
        """
        image = base64.b64encode(picture.read_bytes()).decode()
        wanted = {"enable_sync_mode": True, "enable_base64_output": True}
        data = self._ask(_SUBMIT, {**fields, "control_image": image, **wanted})
        if data["status"] != "completed":
            raise CheckFailedError(f"the server says {data['status']}: {data['error']}")
        return [base64.b64decode(output) for output in data["outputs"]]

    def count(self) -> int:
        """How many predictions it was asked for so far."""
        return int(self._ask(f"{_PREDICTIONS}?page_size=1")["total"])

    def newest(self) -> dict[str, Any]:
        """The prediction that it was asked for last."""
        (item,) = self._ask(f"{_PREDICTIONS}?page_size=1")["items"]
        return self.read(item["id"])

    def read(self, id: str) -> dict[str, Any]:
        """A prediction's data."""
        return self._ask(f"{_PREDICTIONS}/{id}")

    def wait(self, id: str, timeout_s: float) -> dict[str, Any]:
        """A prediction's data once it has ended.

        Raises:
            CheckFailedError: it goes on.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            data = self.read(id)
            if data["status"] in ("completed", "failed"):
                return data
            time.sleep(_LOOK_S)
        raise CheckFailedError(f"after {timeout_s:g} s the server still paints the prediction.")

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        sent = None if body is None else json.dumps(body).encode()
        request = Request(self._server.address + path, data=sent)  # noqa: S310
        request.add_header("Authorization", f"Bearer {self._server.key}")
        request.add_header("Content-Type", "application/json")
        with self._opener.open(request, timeout=CALL_S) as answer:
            data: dict[str, Any] = json.loads(answer.read())["data"]
        return data
