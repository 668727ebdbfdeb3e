"""A client of few lines for the stub's own tests: asks once, follows nothing, tries nothing again.

It is not the client under test, and shares nothing with it.
"""

import http.client
import io
import json
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from PIL import Image

from .predictions import MODEL
from .stub import HostedStub


class Reply(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """What the envelope holds."""
        return self.json["data"]


def ask(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request, on a connection of its own and without a key."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, names, answer.read())
    finally:
        connection.close()


def with_key(stub: HostedStub, url: str, method: str = "GET", body: Any = None) -> Reply:
    """One request of JSON with the stub's key; a URL without an origin is the API's."""
    headers = {"Authorization": f"Bearer {stub.key}", "Content-Type": "application/json"}
    whole = stub.base_url + url if url.startswith("/") else url
    return ask(whole, method, None if body is None else json.dumps(body).encode(), headers)


def submit(stub: HostedStub, version: str = "v3", query: str = "", **fields: Any) -> Reply:
    """One small submission; ``fields`` replace its own."""
    body = {"prompt": "a lighthouse", "size": "512*512", "seed": 1, **fields}
    return with_key(stub, f"/api/{version}/{MODEL}{query}", "POST", body)


def poll(stub: HostedStub, submitted: Reply) -> Reply:
    """One look at a prediction."""
    return with_key(stub, submitted.data["urls"]["get"])


def final(stub: HostedStub, submitted: Reply) -> Any:
    """Polls until the prediction is final, and returns it."""
    for _ in range(1000):
        data = poll(stub, submitted).data
        if data["status"] in ("completed", "failed"):
            return data
        time.sleep(0.01)
    raise AssertionError(f"never final: {data}")


def picture(stub: HostedStub, **fields: Any) -> Image.Image:
    """The first picture of one small submission."""
    url = final(stub, submit(stub, **fields))["outputs"][0]
    return Image.open(io.BytesIO(ask(url).body))
