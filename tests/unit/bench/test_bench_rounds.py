"""The order of the runs, and the figures made of them."""

from __future__ import annotations

from depthflux.bench.rounds import in_order, paired_ratios, spread


def test_every_other_round_is_reversed() -> None:
    runs = list(in_order(["E", "C", "exact"], 3))

    assert runs == [
        *((0, name) for name in ("E", "C", "exact")),
        *((1, name) for name in ("exact", "C", "E")),
        *((2, name) for name in ("E", "C", "exact")),
    ]


def test_a_spread_is_median_minimum_and_maximum() -> None:
    assert spread([3.0, 1.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}
    assert spread([]) is None


def test_ratios_are_taken_within_a_round() -> None:
    # A device that slows down: between rounds it would hide that the system is twice as fast.
    baseline = {0: 2.0, 1: 4.0, 2: 8.0}
    system = {0: 1.0, 1: 2.0, 2: 4.0}

    ratios = paired_ratios(baseline, system)

    assert ratios == {"rounds": [2.0, 2.0, 2.0], "median": 2.0, "min": 2.0, "max": 2.0}


def test_a_round_that_one_side_lacks_makes_no_pair() -> None:
    assert paired_ratios({0: 2.0, 1: 9.0}, {0: 1.0}) == {
        "rounds": [2.0],
        "median": 2.0,
        "min": 2.0,
        "max": 2.0,
    }
    assert paired_ratios({0: 2.0}, {}) is None
