"""depthflux.depth.normalization: ranges, flat maps, skies at infinity."""

import numpy as np
import pytest

from depthflux.depth import far_value, is_quantized, normalize
from depthflux.errors import NonFiniteError

BOUNDED = ["minmax", "percentile"]
SKY = 1e10  # what Blender writes where a ray hits nothing


def ramp(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 64 * 64, dtype=np.float64).reshape(64, 64).astype(np.float32)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param(0.0, 1.0, id="already there"),
        pytest.param(-3.0, 40.0, id="usual disparity"),
        pytest.param(1e-20, 2e-20, id="tiny numbers"),
        pytest.param(1000.0, 1000.5, id="small range far from zero"),
        pytest.param(-3e38, 3e38, id="a range beyond float32"),
    ],
)
def test_minmax_brings_the_extremes_to_black_and_white(low, high):
    depth = ramp(low, high)

    unit = normalize(depth, "minmax")

    assert (unit.dtype, unit.shape) == (np.float32, depth.shape)
    assert (unit.min(), unit.max()) == (0.0, 1.0)
    assert np.all(np.diff(unit.ravel()) >= 0)  # larger stays nearer


@pytest.mark.parametrize("mode", BOUNDED)
@pytest.mark.parametrize("value", [0.0, 7.5, -2.0, SKY], ids=str)
def test_a_flat_map_becomes_mid_grey(mode, value):
    depth = np.full((20, 30), value, dtype=np.float32)

    assert np.array_equal(normalize(depth, mode), np.full((20, 30), 0.5, dtype=np.float32))


@pytest.mark.parametrize("mode", BOUNDED)
def test_rounding_noise_counts_as_flat(mode):
    depth = np.full((20, 30), 5.0, dtype=np.float32)
    depth[::2] = np.nextafter(np.float32(5.0), np.float32(6.0))

    assert set(np.unique(normalize(depth, mode))) == {0.5}


def test_percentile_keeps_its_contrast_under_a_few_values_at_infinity():
    depth = ramp(0.0, 10.0)
    depth[0, :40] = SKY  # 1 % of the map

    squeezed, kept = normalize(depth, "minmax"), normalize(depth, "percentile")

    assert np.median(squeezed) < 1e-8
    assert 0.4 < np.median(kept) < 0.6
    assert kept[0, 0] == 1.0
    assert np.isfinite(squeezed).all()


def test_percentile_falls_back_on_the_extremes_for_a_small_object_before_an_empty_sky():
    depth = np.zeros((100, 100), dtype=np.float32)
    depth[50, 50:60] = 3.0

    unit = normalize(depth, "percentile")

    assert set(np.unique(unit)) == {0.0, 1.0}
    assert unit[50, 55] == 1.0


def test_percentile_clips_two_percent_at_either_end():
    unit = normalize(ramp(0.0, 100.0), "percentile")

    assert np.mean(unit == 0.0) == pytest.approx(0.02, abs=0.001)
    assert np.mean(unit == 1.0) == pytest.approx(0.02, abs=0.001)


def test_bfl_raw_only_scales_and_shifts():
    depth = np.array([[0.0, 127.5, 255.0, 300.0]], dtype=np.float32)

    raw = normalize(depth, "bfl_raw")

    assert raw.dtype == np.float32
    assert np.array_equal(raw, depth / np.float32(127.5) - 1)
    assert raw[0, 2] == 1.0
    assert raw[0, 3] > 1.0


@pytest.mark.parametrize("mode", [*BOUNDED, "bfl_raw"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_normalize_refuses_a_map_that_is_not_finite(mode, bad):
    depth = ramp(0.0, 1.0)
    depth[3, 4] = bad

    with pytest.raises(NonFiniteError, match="1 of 4096 values that are NaN or infinite"):
        normalize(depth, mode)


@pytest.mark.parametrize("mode", [*BOUNDED, "bfl_raw"])
def test_far_is_what_zero_disparity_becomes(mode):
    depth = ramp(0.0, 255.0)

    assert normalize(depth, mode)[0, 0] == far_value(mode)
    assert is_quantized(mode) == (mode != "bfl_raw")
