"""How many connections there may be, and that each is looked at, whatever is wrong with others."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator

import pytest

from depthflux.server.crowd import Crowd, Patience, make_room


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
    ("files", "connections"), [(100_000, 1024), (2816, 1024), (1792, 512), (1024, 256), (900, 225)]
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


# Looking at them --------------------------------------------------------------------------------


class Sound:
    """A connection that counts how often it is looked at, and knows whether it was ended."""

    def __init__(self) -> None:
        self.looks = 0
        self.is_ended = False

    def look(self, now: float) -> None:
        self.looks += 1

    def give_way(self) -> None:
        self.is_ended = True


class Broken(Sound):
    """One that fails in all that is asked of it."""

    def look(self, now: float) -> None:
        super().look(now)
        raise ZeroDivisionError

    def give_way(self) -> None:
        super().give_way()
        raise ZeroDivisionError


def test_a_connection_that_fails_is_ended_alone_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, broken, behind, refused = Sound(), Broken(), Sound(), Sound()

    async def look_three_times() -> int:
        crowd = Crowd(Patience(look_s=0.01))
        # What fails in ending one is the loop's to tell.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        for one in (before, broken, behind):
            crowd.join(one)
        crowd.see_off(refused)
        async with asyncio.timeout(20):
            while refused.looks < 3:
                await asyncio.sleep(0.01)
        return len(crowd)

    with caplog.at_level(logging.ERROR, logger="depthflux"):
        count = asyncio.run(look_three_times())

    assert count == 2
    assert (broken.looks, broken.is_ended) == (1, True)
    assert min(before.looks, behind.looks) >= 3
    assert not any(one.is_ended for one in (before, behind, refused))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
