"""Quantiles, robust slopes and their intervals. Knows nothing of where numbers come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Resamples for an interval; its ends hardly move with more.
RESAMPLES = 400
#: The bootstrap's own seed: the same samples give the same interval.
_SEED = 1


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Count, p5, p50, p95, p99, least and most; in the unit of the values, zeros for none."""
    if not values:
        return {"count": 0} | dict.fromkeys(("p5", "p50", "p95", "p99", "min", "max"), 0.0)
    p5, p50, p95, p99 = np.percentile(values, (5, 50, 95, 99))
    figures = {"p5": p5, "p50": p50, "p95": p95, "p99": p99, "min": min(values), "max": max(values)}
    return {"count": len(values)} | {name: round(float(v), 3) for name, v in figures.items()}


def theil_sen(times: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The median slope between all pairs, which single jumps of memory do not bend.

    Args:
        times: float64 [N].
        values: float64 [N].

    Returns:
        The slope, in units of values by units of times; 0 where all times are equal.
    """
    earlier, later = np.triu_indices(len(times), k=1)
    spans = times[later] - times[earlier]
    apart = spans != 0
    slopes = (values[later] - values[earlier])[apart] / spans[apart]
    return float(np.median(slopes)) if len(slopes) else 0.0


def slope_with_interval(
    times: Sequence[float], values: Sequence[float], *, block: int
) -> tuple[float, float, float]:
    """Theil-Sen's slope with a 95 % interval from a bootstrap.

    Args:
        times: of the samples, rising.
        values: of the samples.
        block: samples drawn together: neighbours are alike, and drawn one by one they would make
            the interval far too narrow.

    Returns:
        The slope, its lower and its upper end.
    """
    at, of = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    count = len(at)
    block = max(1, min(block, count // 4 or 1))
    random = np.random.default_rng(_SEED)
    slopes = []
    for _ in range(RESAMPLES):
        starts = random.integers(0, count - block + 1, size=-(-count // block))
        drawn = np.sort((starts[:, None] + np.arange(block)).ravel()[:count])
        slopes.append(theil_sen(at[drawn], of[drawn]))
    low, high = np.percentile(slopes, (2.5, 97.5))
    return theil_sen(at, of), float(low), float(high)
