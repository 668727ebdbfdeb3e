"""The longest time for a prediction: whose time runs, who is stopped, and who is given up."""

from __future__ import annotations

import time

import pytest

from depthflux.server.overtime import Overtime
from depthflux.server.taking import Running


class Watched:
    """What was taken, and a watch with a time of 50 ms and as much grace."""

    def __init__(self) -> None:
        self.given_up: list[str] = []
        self.running = Running(lambda: None)
        self.overtime = Overtime(self.running, 0.05, self.given_up.append, grace_s=0.05)

    def look_after(self, seconds: float = 0.06) -> None:
        time.sleep(seconds)
        self.overtime.look()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_one_that_is_painted_for_too_long_is_stopped_and_given_up_only_after_some_grace(
    watched: Watched,
) -> None:
    watched.running.add("a")
    watched.running.note_read("a")
    watched.running.note_painting("a")
    watched.overtime.look()
    seen = [watched.running.is_stopped("a")]

    watched.look_after()
    seen += [watched.running.is_stopped("a"), bool(watched.given_up)]
    watched.look_after()

    assert seen == [False, True, False]
    assert watched.running.is_late("a")
    assert watched.given_up == ["a"]


def test_one_that_stops_in_time_is_not_given_up(watched: Watched) -> None:
    watched.running.add("a")
    watched.running.note_read("a")
    watched.running.note_painting("a")
    watched.look_after()

    watched.running.remove("a")
    watched.look_after()

    assert watched.given_up == []
    assert not watched.running.is_stopped("a")


def test_one_that_is_read_for_too_long_is_stopped_but_never_given_up_since_reading_ends_by_itself(
    watched: Watched,
) -> None:
    watched.running.add("a")
    watched.look_after()

    watched.look_after()

    assert watched.running.is_stopped("a")
    assert watched.given_up == []


def test_one_whose_pictures_are_being_written_is_neither_stopped_nor_given_up(
    watched: Watched,
) -> None:
    """A full disk is no hung painter."""
    watched.running.add("a")
    watched.running.note_read("a")
    watched.running.note_painting("a")
    watched.running.note_painted("a")

    watched.look_after()
    watched.look_after()

    assert not watched.running.is_stopped("a")
    assert watched.given_up == []


def test_what_one_waits_for_another_one_s_painting_is_not_counted(watched: Watched) -> None:
    for id in ("first", "second"):
        watched.running.add(id)
        watched.running.note_read(id)
    watched.running.note_painting("first")
    watched.look_after()
    stopped = [watched.running.is_stopped(id) for id in ("first", "second")]

    watched.running.remove("first")
    watched.running.note_painting("second")
    watched.overtime.look()
    stopped.append(watched.running.is_stopped("second"))
    watched.look_after()
    stopped.append(watched.running.is_stopped("second"))

    assert stopped == [True, False, False, True]


def test_what_one_waits_while_none_is_painted_counts_and_it_is_given_up_as_a_painted_one(
    watched: Watched,
) -> None:
    """Its painter fetches LoRAs, say."""
    watched.running.add("a")
    watched.running.note_read("a")

    watched.look_after()
    is_late, is_given_up = watched.running.is_late("a"), bool(watched.given_up)
    watched.look_after()

    assert (is_late, is_given_up) == (True, False)
    assert watched.given_up == ["a"]


def test_one_that_waits_goes_on_with_its_time_when_another_one_s_painting_is_over(
    watched: Watched,
) -> None:
    watched.running.add("waits")
    watched.running.note_read("waits")
    for id in ("first", "second"):
        watched.running.add(id)
        watched.running.note_read(id)
        watched.running.note_painting(id)
        watched.look_after()
        seen = [watched.running.is_late("waits"), watched.running.is_in_painter("waits")]
        watched.running.note_painted(id)
        assert seen == [False, False]

    watched.look_after()

    assert watched.running.is_late("waits")
    assert watched.running.is_in_painter("waits")


def test_reading_counts_whether_one_waited_afterwards_or_not(watched: Watched) -> None:
    watched.running.add("a")
    time.sleep(0.06)
    watched.running.note_read("a")
    time.sleep(0.01)
    watched.running.note_painting("a")

    watched.overtime.look()

    assert watched.running.is_late("a")


def test_who_was_read_first_is_not_blamed_for_the_one_that_is_painted(watched: Watched) -> None:
    """Whose turn comes first is the painter's business."""
    for id in ("read first", "painted first"):
        watched.running.add(id)
        watched.running.note_read(id)
    watched.running.note_painting("painted first")

    watched.look_after()
    watched.look_after()

    assert not watched.running.is_stopped("read first")
    assert watched.given_up == ["painted first"]


def test_one_whose_steps_take_long_has_several_of_them_to_stop(watched: Watched) -> None:
    """On a slow device decoding takes as long, and heeds no stop."""
    watched.running.add("a")
    watched.running.note_read("a")
    watched.running.note_painting("a")
    for step, seconds in ((1, 0.01), (2, 0.3), (3, 0.01)):
        time.sleep(seconds)
        watched.running.note_step("a", step, 4)
    watched.overtime.look()

    watched.look_after(0.3)
    is_given_up = bool(watched.given_up)
    watched.look_after(1.5)

    assert watched.running.is_late("a")
    assert not is_given_up
    assert watched.given_up == ["a"]


def test_what_comes_before_the_first_step_is_one_too_and_the_next_one_begins_anew(
    watched: Watched,
) -> None:
    longest = []
    for seconds in (0.1, 0):
        watched.running.add("a")
        watched.running.note_read("a")
        watched.running.note_painting("a")
        longest.append(watched.running.longest_step_s("a"))
        time.sleep(seconds)
        watched.running.note_step("a", 1, 2)
        longest.append(watched.running.longest_step_s("a"))
        watched.running.remove("a")

    assert longest[0] == longest[2] == 0
    assert longest[1] >= 0.1 > longest[3]


def test_the_time_of_one_that_is_painted_runs_on_when_others_come_and_go(watched: Watched) -> None:
    watched.running.add("hung")
    watched.running.note_read("hung")
    watched.running.note_painting("hung")
    time.sleep(0.06)
    for id in ("unreadable", "waits"):
        watched.running.add(id)
    watched.running.note_read("waits")
    for id in ("unreadable", "waits"):
        watched.running.remove(id)

    watched.overtime.look()

    assert watched.running.is_late("hung")


def test_who_was_stopped_by_its_owner_too_was_cancelled(watched: Watched) -> None:
    watched.running.add("a")
    watched.running.stop("a")

    watched.look_after()

    assert watched.running.is_stopped("a")
    assert not watched.running.is_late("a")


def test_one_that_was_late_and_comes_again_has_its_whole_time(watched: Watched) -> None:
    watched.running.add("a")
    watched.look_after()
    watched.running.remove("a")
    watched.running.stop_late("a")

    watched.running.add("a")
    watched.overtime.look()

    assert not watched.running.is_stopped("a")
