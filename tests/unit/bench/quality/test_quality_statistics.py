"""depthflux.bench.quality.statistics: known values, missing bounds, and how often it is wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from depthflux.bench.document import Bounded
from depthflux.bench.quality.statistics import (
    MIN_CASES,
    cut,
    mean,
    paired_difference,
    paired_ratio,
    quantiles,
    verdict,
)
from depthflux.errors import NonFiniteError


def by_case(values) -> dict[str, float]:
    return {f"case-{index}": float(value) for index, value in enumerate(values)}


def test_quantiles_of_nothing_are_none():
    assert quantiles([]) is None


def test_quantiles_are_numpys_and_their_bounds_are_measured_values():
    values = [float(value) for value in range(100, 0, -1)]

    result = quantiles(values)

    assert result is not None
    assert result.count == 100
    assert (result.p50.value, result.p95.value) == (50.5, pytest.approx(95.05))
    # Order statistics 40 and 61 of 100: the binomial's 2.5 % on either side.
    assert (result.p50.low, result.p50.high) == (40.0, 61.0)
    assert result.p95.low in values
    assert result.p95.high in values


@pytest.mark.parametrize(("count", "has_bounds"), [(1, False), (5, False), (6, True)])
def test_the_median_has_an_interval_from_6_values_on(count, has_bounds):
    result = quantiles([float(value) for value in range(count)])

    assert result is not None
    expected = (0.0, float(count - 1)) if has_bounds else (None, None)
    assert (result.p50.low, result.p50.high) == expected


@pytest.mark.parametrize(("count", "high"), [(59, None), (71, None), (72, 71.0)])
def test_the_95th_percentile_has_an_upper_bound_from_72_values_on(count, high):
    result = quantiles([float(value) for value in range(count)])

    assert result is not None
    assert result.p95.high == high
    assert result.p95.low is not None


def test_quantiles_of_equal_values_are_that_value():
    result = quantiles([2.5] * 80)

    assert result is not None
    assert result.p50 == result.p95 == Bounded(value=2.5, low=2.5, high=2.5)


def test_a_difference_is_second_less_first_over_the_cases_that_both_have():
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "only-first": 100.0}
    second = {"a": 2.0, "b": 2.0, "c": 5.0, "only-second": -100.0}

    difference, cases = paired_difference(first, second)

    # Differences 1, 0, 2: mean 1, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
    assert cases == 3
    assert difference is not None
    assert difference.value == 1.0
    assert difference.low == pytest.approx(1 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert difference.high == pytest.approx(1 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_the_interval_of_few_cases_is_that_of_scipys_t_test():
    values = np.random.default_rng(0).normal(size=MIN_CASES - 1).tolist()

    interval = mean(values)

    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_the_interval_of_more_cases_is_the_bootstraps_and_never_narrower_than_students():
    values = [0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.7, 9.0]

    interval = mean(values)

    students = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval is not None
    assert interval.low == pytest.approx(students.low)
    # One large value of eight: the truth may lie far above, and Student's does not know.
    assert interval.high > interval.value + 2 * (students.high - interval.value)
    assert math.isfinite(interval.high)


def test_a_mean_that_is_one_of_the_values_has_an_interval():
    interval = mean([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0])

    assert interval is not None
    assert interval.low == pytest.approx(-interval.high)


def test_cases_in_another_order_give_the_same_bits():
    first, second = by_case(np.geomspace(1, 7, 9)), by_case(np.linspace(2, 5, 9))

    backwards = dict(reversed(first.items())), dict(reversed(second.items()))

    assert paired_difference(first, second) == paired_difference(*backwards)
    assert paired_ratio(first, second) == paired_ratio(*backwards)


@pytest.mark.parametrize("compare", [paired_difference, paired_ratio])
def test_without_a_common_case_there_is_nothing_to_compare(compare):
    assert compare({"a": 1.0}, {"b": 1.0}) == (None, 0)


@pytest.mark.parametrize("compare", [paired_difference, paired_ratio])
def test_one_case_has_a_figure_and_no_interval(compare):
    compared, cases = compare({"a": 1.0}, {"a": 1.0})

    assert cases == 1
    assert (compared.low, compared.high) == (None, None)


@pytest.mark.parametrize("offset", [0.0, 0.1, -3.0])
def test_the_interval_of_equal_differences_is_their_value(offset):
    # 0.1 is not exact in binary, so the differences agree only up to rounding.
    first = by_case([0.1, 0.2, 0.3, 0.7, 1.1, 1e-3])
    second = {name: value + offset for name, value in first.items()}

    difference, _ = paired_difference(first, second)

    assert difference is not None
    assert difference.value == pytest.approx(offset)
    assert difference.low == difference.high == difference.value


def test_a_ratio_is_the_geometric_mean_of_second_over_first():
    first, second = {"a": 1.0, "b": 1.0, "c": 10.0}, {"a": 2.0, "b": 8.0, "c": 40.0}

    ratio, cases = paired_ratio(first, second)
    inverse, _ = paired_ratio(second, first)

    assert cases == 3
    assert ratio is not None
    assert inverse is not None
    assert ratio.value == pytest.approx(4.0)
    assert inverse.value == pytest.approx(0.25)
    # Faster by so much is slower by so much seen from the other side.
    assert inverse.low == pytest.approx(1 / ratio.high)
    assert inverse.high == pytest.approx(1 / ratio.low)


def test_a_time_of_zero_has_no_ratio_and_is_not_counted():
    ratio, cases = paired_ratio({"a": 0.0, "b": 2.0}, {"a": 1.0, "b": 4.0})

    assert cases == 1
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "compute",
    [
        lambda bad: quantiles([1.0, bad]),
        lambda bad: mean([bad]),
        lambda bad: paired_difference({"a": 1.0}, {"a": bad}),
        lambda bad: paired_ratio({"a": bad}, {"a": 1.0}),
    ],
    ids=["quantiles", "mean", "paired_difference", "paired_ratio"],
)
def test_what_is_not_finite_is_refused(compute, bad):
    with pytest.raises(NonFiniteError, match="only finite figures can be compared") as caught:
        compute(bad)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "neutral", "expected"),
    [
        (0.1, 0.3, True, 0.0, "better"),
        (0.1, 0.3, False, 0.0, "worse"),
        (-0.3, -0.1, True, 0.0, "worse"),
        (-0.3, -0.1, False, 0.0, "better"),
        (-0.1, 0.3, True, 0.0, "no difference shown"),
        (0.0, 0.3, True, 0.0, "no difference shown"),
        (0.0, 0.0, True, 0.0, "no difference shown"),
        (0.5, 0.9, False, 1.0, "better"),
        (0.9, 1.1, False, 1.0, "no difference shown"),
        (0.1, 0.3, None, 0.0, "unknown"),
        (None, None, True, 0.0, "unknown"),
        (0.1, None, True, 0.0, "better"),
        (-0.1, None, True, 0.0, "no difference shown"),
        (None, 0.9, False, 1.0, "better"),
    ],
)
def test_nothing_is_called_better_within_the_interval(
    low, high, higher_is_better, neutral, expected
):
    ends = [end for end in (low, high) if end is not None]
    middle = sum(ends) / len(ends) if ends else 0.2
    difference = Bounded(value=middle, low=low, high=high)

    said = verdict(difference, MIN_CASES, higher_is_better=higher_is_better, neutral=neutral)

    assert said == expected


def test_a_bound_that_lies_infinitely_far_is_none_so_that_a_document_can_hold_it():
    # Most resamples of these are one value over and over, which has no error of its own.
    found = mean([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])

    assert found is not None
    assert found.high is None
    assert found.low is not None
    assert found.low < 0


def test_times_that_nothing_could_have_taken_overflow_nothing():
    first = {name: 1e-300 for name in "abc"}
    second = {"a": 5e300, "b": 1.0, "c": 1.0}

    ratio, cases = paired_ratio(first, second)

    assert cases == 3
    assert ratio is not None
    assert math.isfinite(ratio.value)
    assert ratio.high is None


def test_an_interval_ends_with_its_measure_s_range():
    wide = Bounded(value=0.9, low=-1.2, high=1.1)

    assert cut(wide, -1.0, 1.0) == Bounded(value=0.9, low=-1.0, high=1.0)
    assert cut(wide, None, None) == wide
    assert cut(Bounded(value=0.9, low=None, high=None), 0.0, 1.0).high is None


def test_too_few_cases_have_no_verdict_however_clear_they_look():
    clear = Bounded(value=1.0, low=0.9, high=1.1)

    assert verdict(clear, MIN_CASES - 1, higher_is_better=True, neutral=0.0) == "unknown"
    assert verdict(None, 0, higher_is_better=True, neutral=0.0) == "unknown"


def test_the_least_cases_are_the_first_at_which_one_sign_throughout_is_rare():
    def chance_of_one_sign(cases: int) -> float:
        return float(stats.binomtest(cases, cases).pvalue)

    assert chance_of_one_sign(MIN_CASES) < 0.05 < chance_of_one_sign(MIN_CASES - 1)


#: Two sides that are alike: their difference is as likely as its negative.
ALIKE = {
    "normal": lambda rng: rng.normal(),
    "uniform": lambda rng: rng.uniform(),
    "heavy tails": lambda rng: rng.standard_t(3),
    "lognormal seconds": lambda rng: rng.lognormal(),
}
RUNS = 1000


@pytest.mark.parametrize("cases", [6, 12])
@pytest.mark.parametrize("side", ALIKE.values(), ids=ALIKE)
def test_two_alike_sides_are_told_apart_in_about_one_of_twenty_runs(side, cases):
    rng = np.random.default_rng(20)

    def run() -> str:
        first, second = ([side(rng) for _ in range(cases)] for _ in range(2))
        difference, count = paired_difference(by_case(first), by_case(second))
        return verdict(difference, count, higher_is_better=True, neutral=0.0)

    verdicts = [run() for _ in range(RUNS)]

    wrong = sum(said != "no difference shown" for said in verdicts) / RUNS
    # 5 % and three standard errors of the count; 2.0 to 5.0 % when this was written.
    assert wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


def test_a_clear_difference_is_seen_in_most_runs():
    rng = np.random.default_rng(21)
    verdicts = []
    for _ in range(200):
        first = rng.normal(size=12)
        difference, cases = paired_difference(
            by_case(first), by_case(first + 1.5 + rng.normal(size=12))
        )
        verdicts.append(verdict(difference, cases, higher_is_better=True, neutral=0.0))

    assert verdicts.count("better") > 180
    assert verdicts.count("worse") == 0


def test_seconds_that_differ_by_a_factor_are_told_apart_however_skewed_they_are():
    rng = np.random.default_rng(22)
    first = by_case(rng.lognormal(sigma=1.5, size=12))
    second = {name: value * rng.uniform(0.4, 0.6) for name, value in first.items()}

    ratio, cases = paired_ratio(first, second)

    assert ratio is not None
    assert 0.4 < ratio.value < 0.6
    assert verdict(ratio, cases, higher_is_better=False, neutral=1.0) == "better"
