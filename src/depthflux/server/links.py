"""Which answer leads to which operation, as OpenAPI's links: what a client, or a test, can do next.

Knows nothing of what the operations do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from depthflux.contract import HOSTED_MODEL


class _Link(NamedTuple):
    """An operation that can follow.

    Attributes:
        method: its method.
        path: its path, without the prefix `/api/{version}`.
        parameter: the path parameter that the answer has.
        at: where the answer has it, as a JSON pointer.
    """

    method: str
    path: str
    parameter: str
    at: str

    def described(self, operation: str) -> dict[str, Any]:
        return {
            "operationId": operation,
            "parameters": {self.parameter: f"$response.body#{self.at}"},
        }


def _prediction(at: str) -> dict[str, _Link]:
    """What can be done with a prediction whose id stands there."""
    one = "/predictions/{id}"
    return {
        "result": _Link("get", f"{one}/result", "id", at),
        "read": _Link("get", one, "id", at),
        "cancel": _Link("post", f"{one}/cancel", "id", at),
        "delete": _Link("delete", one, "id", at),
    }


_PICTURE = {"picture": _Link("get", "/media/{name}", "name", "/data/name")}

#: Method and path of an operation → what can follow it.
_LINKS: dict[tuple[str, str], dict[str, _Link]] = {
    ("post", f"/{HOSTED_MODEL}"): _prediction("/data/id"),
    ("post", "/predictions"): _prediction("/data/items/0/id"),
    ("get", "/predictions"): _prediction("/data/items/0/id"),
    ("get", "/predictions/{id}"): _prediction("/data/id"),
    ("post", "/media/upload/binary"): _PICTURE,
    ("post", "/upload"): _PICTURE,
    ("post", "/media/uploads"): {
        "redeem": _Link("put", "/media/uploads/{secret}", "secret", "/data/upload/secret"),
        **_PICTURE,
    },
}


def add_links(paths: dict[str, Any], prefix: str) -> None:
    """Add the links of one version's operations to their answers.

    Args:
        paths: those of the document, changed in place.
        prefix: such as `/api/v3`.
    """
    for (method, path), links in _LINKS.items():
        answer = paths[prefix + path][method]["responses"]["200"]
        answer["links"] = {
            name: link.described(_find(paths, prefix, link)["operationId"])
            for name, link in links.items()
        }


def _find(paths: dict[str, Any], prefix: str, link: _Link) -> dict[str, Any]:
    # Pictures have no version.
    path = link.path if link.path in paths else prefix + link.path
    found: dict[str, Any] = paths[path][link.method]
    return found
