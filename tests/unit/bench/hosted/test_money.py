"""What pictures cost: estimates, the budget that several threads ask, and electricity."""

from __future__ import annotations

import threading
from decimal import Decimal
from pathlib import Path

import pytest

from depthflux.bench.hosted.money import (
    POWER_UNKNOWN,
    Budget,
    electricity,
    estimate,
    exact,
    hosted_cost,
    local_cost,
    usd,
)
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.suites import Case


def task_of(pictures: int) -> Task:
    case = Case("cube", Path("cube.png"), "0" * 64, {"num_images": pictures})
    return Task("cube-0", case, 0, case.fields)


def test_an_estimate_says_pictures_price_sum_and_who_is_paid() -> None:
    tasks = [task_of(1), task_of(2), *(task_of(1) for _ in range(33))]

    told = estimate(tasks, 0.03).sentence("api.wavespeed.ai")

    assert told == "36 pictures x 0.03 USD = 1.08 USD at api.wavespeed.ai"


def test_an_estimate_without_a_price_says_so() -> None:
    told = estimate([task_of(1)], None).sentence("localhost:8000")

    assert told == (
        "1 picture at localhost:8000; what they cost is not known: see --price-per-picture"
    )


def test_an_estimate_of_nothing_is_nothing() -> None:
    assert estimate([], 0.03).usd == Decimal(0)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (1.08, "1.08 USD"),
        (2.0, "2 USD"),
        (100.0, "100 USD"),
        (0.0035, "0.0035 USD"),
        (0.00001, "0.00001 USD"),
        (0.0, "0 USD"),
    ],
)
def test_an_amount_is_told_without_losing_a_digit(amount: float, text: str) -> None:
    assert usd(exact(amount)) == text


def test_a_limit_is_reached_exactly_and_never_exceeded() -> None:
    """In binary, three times a tenth is more than 0.3."""
    budget = Budget(0.1, 0.3)

    taken = [budget.take(1) for _ in range(5)]

    assert taken == [True, True, True, False, False]
    assert budget.spent == Decimal("0.3")
    assert 0.1 * 3 > 0.3


def test_a_task_that_does_not_fit_counts_nothing_and_a_smaller_one_still_fits() -> None:
    budget = Budget(1.0, 3.0)

    assert budget.take(2)
    assert not budget.take(2)
    assert budget.take(1)
    assert budget.pictures == 3


def test_what_was_surely_not_taken_can_be_spent_again() -> None:
    budget = Budget(1.0, 2.0)
    assert budget.take(2)
    assert not budget.take(1)

    budget.refund(2)

    assert budget.spent == 0
    assert budget.take(2)


def test_a_run_that_goes_on_begins_with_what_it_has_spent() -> None:
    budget = Budget(0.5, 2.0, charged_pictures=3)

    assert budget.spent == Decimal("1.5")
    assert budget.take(1)
    assert not budget.take(1)


def test_a_limit_below_what_is_spent_already_takes_nothing() -> None:
    assert not Budget(1.0, 2.0, charged_pictures=5).take(1)


def test_without_a_limit_everything_is_taken_and_counted() -> None:
    priced, unpriced = Budget(0.03, None), Budget(None, None)

    assert all(budget.take(4) for budget in (priced, unpriced) for _ in range(1000))
    assert priced.spent == Decimal(120)
    assert unpriced.spent is None
    assert unpriced.pictures == 4000


def test_threads_together_never_take_more_than_the_limit() -> None:
    budget, taken, start = Budget(0.01, 5.0), [], threading.Barrier(8)

    def spend() -> None:
        start.wait()
        for turn in range(400):
            if budget.take(1):
                taken.append(1)
                if turn % 4 == 0:
                    taken.pop()
                    budget.refund(1)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == budget.pictures == 500


def test_the_hosted_side_costs_its_price_and_what_was_not_completed_is_in_the_sum() -> None:
    cost = hosted_cost(charged_pictures=36, received_pictures=34, price_usd=0.03)

    assert cost.usd_per_picture == pytest.approx(1.08 / 34)
    assert cost.usd_total == 1.08
    assert cost.mean_watts is None
    assert cost.how == (
        "36 pictures count as paid, at the price of 0.03 USD each that was given. 2 of them are "
        "of tasks that were not completed, so a picture that counts costs more than that."
    )


def test_a_hosted_picture_costs_the_price_where_all_came_and_is_unknown_where_none_did() -> None:
    all_came = hosted_cost(charged_pictures=3, received_pictures=3, price_usd=0.03)
    none_came = hosted_cost(charged_pictures=1, received_pictures=0, price_usd=0.03)

    assert (all_came.usd_per_picture, all_came.usd_total) == (0.03, 0.09)
    assert all_came.how == "3 pictures count as paid, at the price of 0.03 USD each that was given."
    assert (none_came.usd_per_picture, none_came.usd_total) == (None, 0.03)
    assert none_came.how == (
        "1 picture counts as paid, at the price of 0.03 USD each that was given. 1 of them is "
        "of a task that was not completed."
    )


def test_the_hosted_side_s_cost_is_not_known_without_a_price() -> None:
    cost = hosted_cost(charged_pictures=36, received_pictures=36, price_usd=None)

    assert cost.usd_total is None
    assert cost.how == "The price of a picture was not given (--price-per-picture)."


def test_electricity_is_joules_over_three_point_six_million_times_the_price() -> None:
    """A kilowatt for an hour is a kilowatt hour."""
    assert electricity(1000 * 3600.0, 10, 0.30) == (pytest.approx(0.03), pytest.approx(0.30))
    assert electricity(3600.0, 0, 0.30) == (None, pytest.approx(0.0003))


def test_the_local_side_costs_its_electricity() -> None:
    cost = local_cost(
        joules=72_000.0, busy_seconds=120.0, pictures=36, usd_per_kwh=0.30, source="By NVML."
    )

    assert cost.mean_watts == 600.0
    assert cost.joules_per_picture == 2000.0
    assert cost.usd_total == pytest.approx(0.006)
    assert cost.usd_per_picture == pytest.approx(0.006 / 36)
    assert cost.how == "By NVML. Electricity alone, at 0.3 USD a kWh."


def test_power_is_told_without_a_price_of_electricity() -> None:
    cost = local_cost(joules=100.0, busy_seconds=2.0, pictures=1, usd_per_kwh=None, source="X.")

    assert (cost.mean_watts, cost.joules_per_picture) == (50.0, 100.0)
    assert (cost.usd_per_picture, cost.usd_total) == (None, None)
    assert cost.how == "X. The price of electricity was not given (--electricity-per-kwh)."


def test_nothing_is_told_of_the_local_side_where_power_is_not_known() -> None:
    cost = local_cost(joules=None, busy_seconds=2.0, pictures=1, usd_per_kwh=0.3, source="")

    assert (cost.usd_total, cost.mean_watts, cost.joules_per_picture) == (None, None, None)
    assert cost.how == POWER_UNKNOWN


def test_a_side_without_pictures_has_no_cost_of_one() -> None:
    cost = local_cost(joules=7.2, busy_seconds=0.0, pictures=0, usd_per_kwh=1.0, source="X.")

    assert (cost.usd_per_picture, cost.joules_per_picture, cost.mean_watts) == (None, None, None)
    assert cost.usd_total == pytest.approx(2e-6)
