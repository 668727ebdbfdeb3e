"""Fixtures that the tests of `depthflux.images` share."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from image_fixtures import Handle, Server


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 [48, 32, 3]: smooth colours with an upright mark in the upper left corner."""
    y, x = np.mgrid[0:48, 0:32]
    picture = np.stack([x * 8, y * 5, 255 - x * 4 - y * 2], axis=-1).astype(np.uint8)
    picture[:6, :6] = (255, 0, 0)
    return picture


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers and stops them after the test."""
    servers: list[Server] = []

    def start(handle: Handle, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(handle, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
