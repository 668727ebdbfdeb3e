"""Progress, and waiting for ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest

from depthflux.server.board import Board
from depthflux.server.serving import _board


def test_progress_is_there_from_the_first_step_to_the_end() -> None:
    board = Board()
    seen = [board.progress("a")]
    board.note_step("a", 1, 28)
    board.note_step("b", 5, 28)
    seen.append(board.progress("a"))
    board.note_step("a", 2, 28)
    seen.append(board.progress("a"))
    board.note_end("a")
    seen.append(board.progress("a"))

    assert seen == [None, (1, 28), (2, 28), None]
    assert board.progress("b") == (5, 28)


def test_all_that_wait_for_an_end_go_on_when_it_comes_and_others_do_not() -> None:
    async def run() -> tuple[float, bool]:
        board = Board()
        started = time.monotonic()
        mine = [asyncio.create_task(board.wait("mine", 30)) for _ in range(5)]
        other = asyncio.create_task(board.wait("other", 30))
        await asyncio.sleep(0.02)
        board.note_end("mine")
        await asyncio.gather(*mine)
        waited_s, other_is_done = time.monotonic() - started, other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        return waited_s, other_is_done

    waited_s, other_is_done = asyncio.run(run())

    assert waited_s < 5
    assert not other_is_done


def test_waiting_ends_by_itself_after_the_time_that_is_given() -> None:
    async def run() -> float:
        board = Board()
        started = time.monotonic()
        await board.wait("a", 0.05)
        return time.monotonic() - started

    assert 0.04 < asyncio.run(run()) < 5


def test_an_end_before_the_waiting_is_none_during_it() -> None:
    """Who waits has looked into the store before, and looks again in time."""

    async def run() -> bool:
        board = Board()
        board.note_end("a")
        waiting = asyncio.create_task(board.wait("a", 30))
        await asyncio.sleep(0.02)
        was_done = waiting.done()
        board.note_end("a")
        await waiting
        return was_done

    assert not asyncio.run(run())


def test_nothing_is_left_behind_however_waiting_ends() -> None:
    async def run() -> Board:
        board = Board()
        ended = asyncio.create_task(board.wait("ended", 30))
        cancelled = [asyncio.create_task(board.wait("cancelled", 30)) for _ in range(2)]
        await asyncio.sleep(0.02)
        board.note_end("ended")
        for task in cancelled:
            task.cancel()
        await asyncio.gather(ended, *cancelled, board.wait("late", 0.01), return_exceptions=True)
        board.note_end("nobody waits for this one")
        board.note_step("step", 1, 2)
        board.note_end("step")
        return board

    board = asyncio.run(run())

    assert vars(board) == vars(Board())


def test_one_that_gives_up_does_not_take_the_others_along() -> None:
    async def run() -> tuple[bool, bool]:
        board = Board()
        patient = asyncio.create_task(board.wait("a", 30))
        await board.wait("a", 0.02)
        was_done = patient.done()
        board.note_end("a")
        await asyncio.wait_for(patient, 5)
        return was_done, patient.done()

    assert asyncio.run(run()) == (False, True)


# How many may wait ------------------------------------------------------------------------------


def test_there_are_so_many_seats_and_of_them_so_many_for_one_owner() -> None:
    board = Board(most_waiting=3, most_of_one=2)

    with ExitStack() as seats:
        found = [seats.enter_context(board.seat(owner)) for owner in "aaabb"]

    assert found == [True, True, False, True, False]


def test_a_seat_is_given_back_however_the_waiting_ends() -> None:
    board = Board(most_waiting=1)

    with board.seat("a") as first, board.seat("b") as beside:
        pass
    with pytest.raises(TimeoutError), board.seat("a"):
        raise TimeoutError
    with board.seat("b") as afterwards:
        pass

    assert (first, beside, afterwards) == (True, False, True)
    assert vars(board) == vars(Board(most_waiting=1))


@pytest.mark.parametrize(
    ("connections", "several", "owners"),
    [
        (1024, False, {"a": 512, "b": 0}),
        (1024, True, {"a": 64, "b": 64}),
        (40, True, {"a": 10, "b": 10, "c": 0}),
    ],
    ids=["one key", "several keys", "few connections"],
)
def test_half_of_all_connections_are_left_to_who_does_not_wait_and_one_key_keeps_few(
    connections: int, several: bool, owners: dict[str, int]
) -> None:
    board = _board(connections, has_several_keys=several)

    with ExitStack() as seats:
        found = {
            owner: sum(seats.enter_context(board.seat(owner)) for _ in range(1024))
            for owner in owners
        }

    assert found == owners
