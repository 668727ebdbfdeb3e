"""Fixtures that the tests of `depthflux.server` share."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from receiver_fixtures import Handle, Receiver
from store_fixtures import PostgresDatabase, PostgresServer, Store

from depthflux.server.database import Database
from depthflux.server.media import Media


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A SQLite file."""
    database = Database(tmp_path)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test run's own."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The store's rooms, in each of the two databases."""
    if request.param == "sqlite":
        database = Database(tmp_path)
    else:
        database = PostgresDatabase(request.getfixturevalue("postgres").address)
    yield Store(database)
    database.close()


@pytest.fixture
def media(tmp_path: Path) -> Media:
    """Folders of pictures."""
    return Media(tmp_path)


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Starts receivers of webhooks and stops them after the test."""
    receivers: list[Receiver] = []

    def start(handle: Handle, tls: ssl.SSLContext | None = None) -> Receiver:
        receivers.append(Receiver(handle, tls))
        return receivers[-1]

    yield start
    for receiver in receivers:
        receiver.close()
