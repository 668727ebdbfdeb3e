"""Moments whose distances are true though the time of day is set meanwhile."""

from __future__ import annotations

import time

from depthflux.bench.steady import SteadyClock


def test_a_time_of_day_that_jumps_changes_no_distance() -> None:
    days = iter([1000.0, 400.0, 9000.0])
    passed = iter([5.0, 6.5, 8.0])

    now = SteadyClock(clock=lambda: next(passed), wall=lambda: next(days))

    assert (now(), now()) == (1001.5, 1003.0)
    assert next(days) == 400.0, "it was asked once"


def test_it_is_the_time_of_day() -> None:
    assert abs(SteadyClock()() - time.time()) < 5
