"""The order in which systems run, and what is told of repeated figures.

A round runs every system once; every other round in reverse order, so that a device that grows
hot or slow treats all alike, and two figures of one round make a pair. Knows nothing of what runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

Spread = dict[str, float]
#: Digits that are kept; a microsecond where the figure is in seconds.
DIGITS = 6


def in_order(systems: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Rounds from 0 and the systems in each: A B C, then C B A, and so on."""
    for number in range(rounds):
        for name in systems if number % 2 == 0 else reversed(systems):
            yield number, name


def spread(values: Sequence[float]) -> Spread | None:
    """Median, minimum and maximum; None of nothing."""
    if not values:
        return None
    return {
        "median": round(statistics.median(values), DIGITS),
        "min": round(min(values), DIGITS),
        "max": round(max(values), DIGITS),
    }


def paired_ratios(
    baseline: Mapping[int, float], system: Mapping[int, float]
) -> dict[str, object] | None:
    """Baseline over system, round by round: above 1 the system is faster.

    Args:
        baseline: seconds by round.
        system: likewise.

    Returns:
        The ratios of the rounds that both have, in order, and their spread; None of no round.
    """
    rounds = sorted(baseline.keys() & system.keys())
    ratios = [baseline[number] / system[number] for number in rounds]
    if not ratios:
        return None
    return {"rounds": [round(ratio, DIGITS) for ratio in ratios], **(spread(ratios) or {})}
