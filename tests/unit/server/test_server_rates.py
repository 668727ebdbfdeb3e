"""How often a key may ask, by a clock that the test moves."""

from __future__ import annotations

import pytest

from depthflux.errors import BusyError
from depthflux.server import rates as room
from depthflux.server.rates import Rates


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(rates: Rates, most: int, owner: str = "me") -> int:
    """How many an owner is given before the first refusal."""
    for number in range(most):
        try:
            rates.take(owner)
        except BusyError:
            return number
    return most


def test_as_many_as_are_allowed_in_a_minute_may_come_at_once_and_no_more() -> None:
    rates = Rates(60, clock=Clock())

    assert taken(rates, 100) == 60


def test_a_refusal_says_when_the_next_one_is_there_and_it_is_there_then() -> None:
    clock = Clock()
    rates = Rates(6, clock=clock)
    taken(rates, 6)

    with pytest.raises(BusyError, match="more than 6 requests of this key in a minute") as caught:
        rates.take("me")

    assert caught.value.retry_after_s == pytest.approx(10)
    clock.now += caught.value.retry_after_s + 1e-6
    assert taken(rates, 2) == 1


def test_being_refused_costs_nothing() -> None:
    clock = Clock()
    rates = Rates(6, clock=clock)
    taken(rates, 6)

    for _ in range(100):
        clock.now += 0.1
        taken(rates, 1)

    assert taken(rates, 10) == 0
    clock.now += 10.001
    assert taken(rates, 10) == 1


def test_tokens_come_evenly_and_no_more_than_a_minutes_are_saved() -> None:
    clock = Clock()
    rates = Rates(60, clock=clock)
    taken(rates, 60)

    clock.now += 7.5
    after_some_seconds = taken(rates, 100)
    clock.now += 100_000
    after_a_day = taken(rates, 100)

    assert after_some_seconds == 7
    assert after_a_day == 60


def test_in_the_long_run_no_more_are_given_than_are_allowed() -> None:
    clock = Clock()
    rates = Rates(60, clock=clock)
    given = 0

    for _ in range(6000):
        clock.now += 0.1
        given += taken(rates, 1)

    # Tenths of seconds do not add up exactly.
    assert 60 + 599 <= given <= 60 + 600


def test_each_key_has_its_own() -> None:
    rates = Rates(3, clock=Clock())

    assert [taken(rates, 10, owner) for owner in ("me", "you", "me", "")] == [3, 3, 0, 3]


def test_nought_is_no_limit() -> None:
    assert taken(Rates(0, clock=Clock()), 10_000) == 10_000


def test_no_more_owners_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "_MOST_OWNERS", 3)
    rates = Rates(1, clock=Clock())

    for owner in "abcd":
        rates.take(owner)

    # The longest unheard of begins anew, the others do not.
    assert [taken(rates, 5, owner) for owner in "dcb"] == [0, 0, 0]
    assert taken(rates, 5, "a") == 1
