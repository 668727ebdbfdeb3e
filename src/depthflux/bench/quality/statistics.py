"""What may be said of figures of a few tasks: distributions, paired differences, verdicts.

The formulas are SciPy's. Knows nothing of what the figures measure.

The interval of a mean over cases decides whether a side is called better, so it has to hold at a
few cases. The usual bootstrap (BCa) does not, so ours is the studentized one, widened to Student's
t where that reaches further. How often each leaves out the true mean, where 5 % is promised, at 6,
12 and 36 cases (4,000 samples; tests/unit/bench/quality/test_quality_statistics.py counts anew
what is used), in %:

    differences              BCa             studentized    Student's t    used
    normal                   14.6  9.6  6.7   5.6 5.6 4.7    5.0  5.3  4.4   3.4 4.3 3.9
    uniform                  11.2  6.4  5.9   4.3 3.1 3.9    6.2  5.4  5.1   3.6 2.9 3.7
    heavy tails (t, 3)       15.8 12.8  9.6   5.9 7.4 8.1    4.0  4.2  5.0   2.8 3.8 4.8
    of two lognormals        19.7 16.2 12.0   6.4 9.0 8.8    3.0  3.7  4.4   2.1 3.5 4.2
    skewed: exponential      16.9 11.6  7.5   7.3 4.9 5.2   11.5  9.2  6.8   6.8 4.3 3.9
    skewed: lognormal        22.6 15.6 10.2  10.9 9.2 7.3   17.4 15.6 11.5  10.2 8.6 6.3

Where two sides are alike, a difference is as likely as its negative, so the upper rows, which are
symmetric, are what "no difference" means. The skewed ones are its limit: sides of equal means of
which one is ahead a little in most cases and far behind in a few.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from depthflux.bench.document import Bounded, Quantiles, Verdict
from depthflux.errors import NonFiniteError, show

#: Of all intervals here.
CONFIDENCE = 0.95

#: Fewer cases have no verdict. If both sides are alike, each of n differences has either sign, so
#: all have the same one in 2 of 2^n samples: 2/2^5 = 0.063, and 2/2^6 = 0.031 is the first under
#: 5 %. Below that no assumption-free test could call a side better, whatever it did.
MIN_CASES = 6

#: What the differences' interval is, for the report.
INTERVAL_OF_MEANS = (
    "Intervals of differences are of 95 %, by the studentized bootstrap over cases, widened to "
    "Student's t where that reaches further; each case counts once, as the mean of its pictures, "
    "and ratios of seconds are taken by their logarithms."
)
#: What the percentiles' interval is, for the report.
INTERVAL_OF_QUANTILES = (
    "Intervals of percentiles are distribution-free, of 95 %, between two of the measured values; "
    "the median has none below 6 tasks, and the 95th percentile no upper bound below 72."
)

#: Resamples of the bootstrap, and where their drawing begins: the same figures have the same
#: interval always.
RESAMPLES, SEED = 9_999, 0

#: Values that differ by less than this part of the largest are one value: what float64's sums and
#: logarithms lose, far below what any measure here resolves.
_ROUNDING = 1e-12
#: Of the largest number that float64 holds, a little less.
_MOST_LOGARITHM = math.log(sys.float_info.max) - 1e-9


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """Median and 95th percentile with distribution-free intervals; None of nothing.

    The percentiles are interpolated linearly; the bounds are measured values, by the binomial
    test's inversion. A bound exists only where the extreme value lies beyond the percentile with
    enough certainty: the largest of n values is above the 95th percentile but for 0.95^n of all
    samples, and each side of the interval may be wrong in 2.5 %. 0.95^72 = 0.0249 is the first
    below, so p95 has no upper bound below 72 values; likewise 0.5^6 = 0.016, so the median has
    neither below 6.

    Args:
        values: in seconds, at least 0, in any order.

    Raises:
        NonFiniteError: a value is NaN or infinite.

    Source: Conover 1999, Practical Nonparametric Statistics, 3.2, as scipy.stats.quantile_test.
    """
    _refuse_non_finite(values)
    if not values:
        return None
    return Quantiles(count=len(values), p50=_quantile(values, 0.5), p95=_quantile(values, 0.95))


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float]
) -> tuple[Bounded | None, int]:
    """Second less first, over the cases that both have.

    Args:
        first: a figure by case.
        second: likewise.

    Returns:
        The mean of the differences with its interval, whose bounds are None for one case; and the
        number of cases. None where there is none.

    Raises:
        NonFiniteError: a figure is NaN or infinite.
    """
    names = sorted(first.keys() & second.keys())
    return mean([second[name] - first[name] for name in names]), len(names)


def paired_ratio(
    first: Mapping[str, float], second: Mapping[str, float]
) -> tuple[Bounded | None, int]:
    """Second over first, over the cases that both have with figures above 0.

    A time of 0 has no ratio; such a case is left out, and the count tells.

    Args:
        first: a figure by case, such as seconds.
        second: likewise.

    Returns:
        The geometric mean of the ratios with its interval, as `paired_difference`.

    Raises:
        NonFiniteError: a figure is NaN or infinite.
    """
    _refuse_non_finite([*first.values(), *second.values()])
    names = sorted(
        name for name in first.keys() & second.keys() if first[name] > 0 and second[name] > 0
    )
    logarithms = mean([math.log(second[name]) - math.log(first[name]) for name in names])
    if logarithms is None:
        return None, 0
    low, high = (
        # As of an infinite one: what float64 cannot hold bounds nothing.
        None if bound is None or bound > _MOST_LOGARITHM else math.exp(bound)
        for bound in (logarithms.low, logarithms.high)
    )
    value = math.exp(min(logarithms.value, _MOST_LOGARITHM))
    return Bounded(value=value, low=low, high=high), len(names)


def mean(values: Sequence[float]) -> Bounded | None:
    """The mean with its interval; None of nothing.

    The bounds are None for one value, and the mean itself where all values are the same. Below
    `MIN_CASES` they are Student's alone: of so few values too many resamples are one value over
    and over. A bound that lies infinitely far, as where most of many values are one, is None, too.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    from scipy import stats

    _refuse_non_finite(values)
    if not values:
        return None
    value = math.fsum(values) / len(values)
    if len(values) == 1:
        return Bounded(value=value, low=None, high=None)
    if max(values) - min(values) <= _ROUNDING * max(abs(one) for one in values):
        return Bounded(value=value, low=value, high=value)
    error = float(stats.sem(values))
    below, above = (float(bound) for bound in stats.t.interval(CONFIDENCE, df=len(values) - 1))
    if len(values) >= MIN_CASES:
        least, most = _studentized(values)
        below, above = min(below, least), max(above, most)
    # The error's sign turns round: what resamples lie too high, the truth may lie lower.
    low, high = value - above * error, value - below * error
    return Bounded(
        value=value,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
    )


def cut(bounded: Bounded, least: float | None, most: float | None) -> Bounded:
    """A figure whose interval ends where its measure's range does.

    Args:
        bounded: as `mean` gives it.
        least: of the range; None where it has no end there.
        most: likewise.
    """
    low, high = bounded.low, bounded.high
    return Bounded(
        value=bounded.value,
        low=max(low, least) if low is not None and least is not None else low,
        high=min(high, most) if high is not None and most is not None else high,
    )


def verdict(
    difference: Bounded | None, cases: int, *, higher_is_better: bool | None, neutral: float
) -> Verdict:
    """What may be said of the second side; nothing is called better within the interval.

    Args:
        difference: of the second side against the first, as `paired_difference` gives it.
        cases: that it stands on.
        higher_is_better: None where neither is, which is `unknown` always.
        neutral: the difference of two alike sides: 0, or 1 for a ratio.
    """
    if difference is None or higher_is_better is None or cases < MIN_CASES:
        return "unknown"
    if difference.low is None and difference.high is None:
        return "unknown"
    # Of so many cases a bound that there is none of lies infinitely far.
    low = -math.inf if difference.low is None else difference.low
    high = math.inf if difference.high is None else difference.high
    if low <= neutral <= high:
        return "no difference shown"
    return "better" if (difference.value > neutral) == higher_is_better else "worse"


def _studentized(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of resampled means, in their own standard errors.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, 12.5 (bootstrap-t).
    """
    import numpy as np

    # Sorted, so that the cases' order decides nothing.
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    chosen = np.random.default_rng(SEED).integers(0, len(ordered), (RESAMPLES, len(ordered)))
    resampled = ordered[chosen]
    distance = resampled.mean(axis=1) - ordered.mean()
    error = resampled.std(axis=1, ddof=1) / math.sqrt(len(ordered))
    is_varied = error > _ROUNDING * np.abs(ordered).max()
    # One value over and over has no error of its own; it lies infinitely many of them away.
    far = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    distances = np.where(is_varied, distance / np.where(is_varied, error, 1), far)
    bounds = np.quantile(distances, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return float(bounds[0]), float(bounds[1])


def _quantile(values: Sequence[float], part: float) -> Bounded:
    """One percentile, `part` of 1, and its interval."""
    import numpy as np
    from scipy import stats

    interval = stats.quantile_test(values, q=0.0, p=part).confidence_interval(CONFIDENCE)
    low, high = (float(bound) for bound in interval)
    return Bounded(
        value=float(np.quantile(values, part)),
        low=None if math.isnan(low) else low,
        high=None if math.isnan(high) else high,
    )


def _refuse_non_finite(values: Iterable[float]) -> None:
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise NonFiniteError(
            f"{len(bad)} of the figures to be compared are NaN or infinite, such as "
            f"{show(bad[0])}; only finite figures can be compared; leave out what was not measured."
        )
