"""How many connections there may be follows from how many files this process may open."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from depthflux.server.crowd import Patience, make_room


@pytest.fixture
def few_files() -> Iterator[int]:
    """This process's limit is lowered meanwhile; what it may be raised to again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_may_open_as_many_files_as_it_is_let(few_files: int) -> None:
    make_room()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65536)
    assert hard == few_files


@pytest.mark.parametrize(
    ("files", "connections"), [(100_000, 1024), (1792, 1024), (1024, 256), (900, 225)]
)
def test_files_are_kept_for_all_else(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

    assert make_room(Patience().connections) == connections


def test_without_a_limit_there_are_as_many_connections_as_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (endless, endless))

    assert make_room(1024) == 1024
