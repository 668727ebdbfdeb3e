"""What the tests of the hosted client share: a key, a picture, answers, a client without waits."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from scripted_server import Asked, Reply, ScriptedServer

from depthflux.bench.hosted.client import Exchange, HostedClient
from depthflux.bench.hosted.surroundings import Surroundings

KEY = "a-key-of-these-tests-0123456789"
ID = "e6832d4a0f3b4c1d9e8f7a6b5c4d3133"
FIELDS = {"prompt": "a winter garden", "control_image": "https://cdn.example/a.png?sig=1"}


def picture(kind: str = "JPEG", size: tuple[int, int] = (32, 16)) -> bytes:
    """A small picture's file."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def envelope(**data: Any) -> Reply:
    """A prediction as the hosted side answers; `created` where nothing else is said."""
    told = {"id": ID, "status": "created", "outputs": [], "has_nsfw_contents": []} | data
    return Reply({"code": 200, "message": "success", "data": told})


def refusal(status: int, message: str = "", **headers: str) -> Reply:
    """An answer with another status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"code": status, "message": message}, status=status, headers=named)


#: Options of `Asking` that are the client's surroundings.
_AROUND = ("wall", "resolver", "tls")


class Asking:
    """A client of a server, its exchanges and the pauses that it would have made."""

    def __init__(self, server: ScriptedServer | str, **options: Any) -> None:
        self.exchanges: list[Exchange] = []
        self.pauses: list[float] = []
        url = server if isinstance(server, str) else server.url
        around = {
            name: options.pop(name) for name in ("wall", "resolver", "tls") if name in options
        }
        self.client = HostedClient(
            url,
            KEY,
            on_exchange=self.exchanges.append,
            sleep=self.pauses.append,
            surroundings=Surroundings(**around),
            **options,
        )

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


def keyed(asked: list[Asked]) -> list[Asked]:
    """The requests that had the key anywhere in them."""
    return [one for one in asked if KEY in f"{one.path} {one.headers} {one.body!r}"]
