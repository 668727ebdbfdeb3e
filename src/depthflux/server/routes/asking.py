"""Who asks, of which service, and the addresses that answers are built with.

Knows nothing of what is asked.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from depthflux.server.bodies import charge_to
from depthflux.server.errors import UnauthorizedError
from depthflux.server.keys import Keys
from depthflux.server.service import Service


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
    charge_to(request, owner)
    return owner


async def origin_of_request(request: Request) -> str:
    """Scheme and host that the client has used, such as `http://127.0.0.1:8000`, or public_url."""
    # The gate has judged the header, and notes only what an address can be built with.
    own: str = request.state.origin
    return service_of(request).settings.public_url or own


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
