"""What the attacks share: servers with stand-in workers, one with API keys and one without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stand_in.running import StandInServer

KEYS = ("first-key-0123456789", "second-key-0123456789")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server without keys that may fetch from this machine; no attack is meant to end it."""
    folder = tmp_path_factory.mktemp("attacked") / "data"
    with StandInServer(
        folder, engine={"allow_private_addresses": "true"}, sync_timeout_s=2
    ) as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server with two API keys, its client has the first; it fetches from public addresses."""
    folder = tmp_path_factory.mktemp("guarded") / "data"
    with StandInServer(folder, keys=KEYS) as running:
        yield running


@pytest.fixture(scope="session")
def keys() -> tuple[str, str]:
    """The keys of the guarded server."""
    return KEYS
