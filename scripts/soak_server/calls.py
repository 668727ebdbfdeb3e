"""The server's calls: each is checked, timed and tallied; a failed one gives nothing.

Knows nothing of when they are made.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from typing import Any

from PIL import Image

from soak_server.stage import STEPS
from soak_server.tally import Tally
from soak_server.wire import JSON, Answer, Pool
from stand_in.running import ROOT, SUBMIT

#: The control image, a square of 1024 pixels before it is made smaller.
_EXAMPLE = ROOT / "examples" / "three-objects.png"
#: Pixels of the pictures that are asked for, and of control images where nothing else is said.
SIDE = 512
#: Pause of a client between two polls of its prediction, in seconds.
POLL_PAUSE_S = 0.1
#: A prediction that has not ended after so long, in seconds, never will.
END_S = 60.0

_PREDICTIONS = "/api/v3/predictions"
_BOUNDARY = "soak-boundary"
_MULTIPART = f"multipart/form-data; boundary={_BOUNDARY}"


class Calls:
    """Calls of one server.

    Attributes:
        pool: what they go over.
        tally: of times and failures.
        picture: a control image's bytes.
        inline: the same as base64.
    """

    def __init__(self, pool: Pool, tally: Tally, *, side: int = SIDE) -> None:
        """Send nothing yet.

        Args:
            pool: what they go over.
            tally: of times and failures.
            side: of the control image, in pixels.
        """
        self.pool, self.tally = pool, tally
        self.picture = make_picture(side)
        self.inline = base64.b64encode(self.picture).decode()

    async def ask(
        self,
        kind: str,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        media_type: str = JSON,
        headers: str = "",
        expected: int = 200,
        since_s: float | None = None,
    ) -> Answer | None:
        """Ask something and tally it; None where it has failed.

        Args:
            kind: what it is tallied as.
            method: such as GET.
            path: with its query.
            body: what is sent.
            media_type: of the body.
            headers: further ones, each with its line's end.
            expected: the status that it must be answered with.
            since_s: from when its time counts, on time.perf_counter's clock; None: from now on.
        """
        start_s = time.perf_counter() if since_s is None else since_s
        try:
            answer = await self.pool.ask(method, path, body, media_type, headers)
        except (OSError, TimeoutError) as error:
            self.tally.fail(kind, f"{type(error).__name__}: {error}")
            return None
        if answer.status != expected:
            self.tally.fail(kind, f"{answer.status}: {answer.body[:200]!r}")
            return None
        self.tally.note(kind, answer.at_s - start_s)
        return answer

    async def upload(self, kind: str = "upload") -> str | None:
        """Upload the picture; its address."""
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"'
        body = f"{head}\r\n\r\n".encode() + self.picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
        path = "/api/v3/media/upload/binary"
        data = await self._data(kind, "POST", path, body, media_type=_MULTIPART)
        return None if data is None else str(data["download_url"])

    async def submit(
        self, kind: str, image: str, *, headers: str = "", query: str = "", **fields: Any
    ) -> dict[str, Any] | None:
        """Submit a prediction; its data.

        Args:
            kind: what it is tallied as.
            image: the control image, an address or base64.
            headers: further ones, each with its line's end.
            query: of the address.
            fields: further fields of the request.
        """
        body = {
            "prompt": "paint",
            "control_image": image,
            "size": f"{SIDE}*{SIDE}",
            "num_inference_steps": STEPS,
            "seed": 1,
            **fields,
        }
        sent = json.dumps(body).encode()
        return await self._data(kind, "POST", SUBMIT + query, sent, headers=headers)

    async def poll(self, kind: str, id: str) -> dict[str, Any] | None:
        """A prediction's data."""
        return await self._data(kind, "GET", f"{_PREDICTIONS}/{id}/result")

    async def end_of(
        self, kind: str, id: str, *, status: str = "completed"
    ) -> dict[str, Any] | None:
        """Poll until a prediction has ended; its data, None where it did not end as it should."""
        end_s = time.perf_counter() + END_S
        while time.perf_counter() < end_s:
            await asyncio.sleep(POLL_PAUSE_S)
            data = await self.poll(kind, id)
            if data is None:
                return None
            if data["status"] in ("completed", "failed"):
                return self.require(kind, data, status)
        self.tally.fail(kind, f"has not ended within {END_S:g} s")
        return None

    def require(
        self, kind: str, data: dict[str, Any] | None, status: str = "completed"
    ) -> dict[str, Any] | None:
        """A prediction's data, if it has ended in this way; else a failure and None."""
        if data is not None and data["status"] != status:
            self.tally.fail(kind, f"{data['status']}: {data.get('error', '')}")
            return None
        return data

    async def download(self, data: dict[str, Any]) -> None:
        """Fetch a prediction's first picture and see that it is one."""
        answer = await self.ask("download", "GET", path_of(data["outputs"][0]))
        if answer is not None and not answer.body.startswith((b"\xff\xd8", b"\x89PNG")):
            self.tally.fail("download", "no picture")

    async def _data(
        self,
        kind: str,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        media_type: str = JSON,
        headers: str = "",
    ) -> dict[str, Any] | None:
        answer = await self.ask(kind, method, path, body, media_type=media_type, headers=headers)
        if answer is None:
            return None
        data: dict[str, Any] = json.loads(answer.body)["data"]
        return data


def make_picture(side: int) -> bytes:
    """A square control image of so many pixels as PNG."""
    buffer = io.BytesIO()
    with Image.open(_EXAMPLE) as example:
        example.resize((side, side)).save(buffer, format="PNG")
    return buffer.getvalue()


def path_of(address: str) -> str:
    """An address without its scheme and host."""
    return "/" + address.split("/", 3)[3]
