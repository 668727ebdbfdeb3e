"""How addresses that a side's answer names are called where they are not asked."""

from __future__ import annotations

import pytest
from client_fixtures import KEY, Asking
from scripted_server import Reply, ScriptedServer

from depthflux.bench.hosted.errors import NotAskedError


def test_an_address_that_may_not_be_shown_is_called_an_address() -> None:
    with (
        ScriptedServer(Reply()) as server,
        Asking(server) as asking,
        pytest.raises(NotAskedError) as caught,
    ):
        asking.client.download(f"{server.url}/1.jpeg?key={KEY}")

    assert str(caught.value).startswith("an address is not asked: it holds the API key")
    assert KEY not in str(caught.value)
    assert server.asked == []
