"""What a GPU drew over spans of time, from samples of its power."""

from __future__ import annotations

import pytest

from depthflux.bench.gpu_samples import GpuSamples, merged


def sampled(*power: tuple[float, float | None]) -> GpuSamples:
    """A GPU whose power was sampled at some moments."""
    samples = GpuSamples("cpu")
    for moment, watts in power:
        samples._samples.append((moment, [1000.0, watts, 40.0, 99.0, 1.0]))
    return samples


def test_energy_is_the_area_below_the_power() -> None:
    energy = sampled((0.0, 100.0), (10.0, 100.0), (20.0, 300.0)).energy([(0.0, 20.0)])

    assert energy is not None
    assert energy.joules == pytest.approx(10 * 100 + 10 * 200)
    assert energy.seconds == 20


def test_only_the_spans_count_each_moment_once() -> None:
    energy = sampled((0.0, 50.0), (30.0, 50.0)).energy([(10.0, 14.0), (2.0, 4.0), (12.0, 16.0)])

    assert energy is not None
    assert energy.joules == pytest.approx(8 * 50)
    assert energy.seconds == 8


def test_power_is_taken_to_stay_beyond_the_first_and_last_sample() -> None:
    energy = sampled((10.0, 100.0), (12.0, 200.0)).energy([(8.0, 14.0)])

    assert energy is not None
    assert energy.joules == pytest.approx(2 * 100 + 2 * 150 + 2 * 200)


@pytest.mark.parametrize(
    ("power", "spans"),
    [
        pytest.param([(0.0, 100.0)], [(0.0, 1.0)], id="one sample"),
        pytest.param([(0.0, None), (1.0, None)], [(0.0, 1.0)], id="power is not told"),
        pytest.param([(0.0, 1.0), (1.0, 1.0)], [], id="nothing was under way"),
    ],
)
def test_what_was_not_sampled_is_none(
    power: list[tuple[float, float | None]], spans: list[tuple[float, float]]
) -> None:
    assert sampled(*power).energy(spans) is None


def test_spans_that_touch_or_overlap_are_one() -> None:
    assert merged([(5, 6), (1, 2), (2, 3), (1.5, 2.5)]) == [(1, 3), (5, 6)]
