"""Who asks, of which service, and the addresses that answers are built with.

Knows nothing of what is asked.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request

from depthflux.errors import InvalidParameterError, show
from depthflux.server.errors import UnauthorizedError
from depthflux.server.keys import Keys
from depthflux.server.service import Service

#: Host and port as a client may name them: a name, an IPv4 address, or an IPv6 one in brackets.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?", re.ASCII)


async def get_service(request: Request) -> Service:
    """The server's service; async, since FastAPI sends what is not to another thread."""
    return service_of(request)


def service_of(request: Request) -> Service:
    """The server's service."""
    service: Service = request.app.state.service
    return service


async def require_owner(request: Request) -> str:
    """Who asks, by the Authorization header; empty where the server asks for no keys.

    Raises:
        UnauthorizedError: the key is missing or wrong.
    """
    keys: Keys = request.app.state.keys
    owner = keys.owner(request.headers.get("authorization"))
    if owner is None:
        raise UnauthorizedError
    return owner


async def origin_of_request(request: Request) -> str:
    """Scheme and host that the client has used, such as `http://127.0.0.1:8000`.

    Raises:
        InvalidParameterError: the Host header is none that an address can be built with.
    """
    service = service_of(request)
    if service.settings.public_url is not None:
        return service.settings.public_url
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise InvalidParameterError(
            f"Host={show(host)} is no host name or address.", field="Host", value=host
        )
    return f"{request.url.scheme}://{host}"


async def base_of_request(
    request: Request, origin: Annotated[str, Depends(origin_of_request)]
) -> str:
    """What the client's addresses begin with, such as `http://127.0.0.1:8000/api/v3`."""
    version = request.url.path.split("/")[2]
    return f"{origin}/api/{version}"


Served = Annotated[Service, Depends(get_service)]
Owner = Annotated[str, Depends(require_owner)]
Origin = Annotated[str, Depends(origin_of_request)]
Base = Annotated[str, Depends(base_of_request)]
