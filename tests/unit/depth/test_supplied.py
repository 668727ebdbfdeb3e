"""depthflux.depth.supplied: a depth map of the caller's, used as it is."""

import numpy as np
import pytest
from PIL import Image

from depthflux.canvas import to_grey
from depthflux.depth import normalize_supplied, read_supplied

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = np.repeat(LEVELS[..., None], 3, axis=2)
FINE = np.linspace(0, 65535, 1024).round().astype(np.uint16).reshape(32, 32)


def test_an_8_bit_map_is_used_as_it_is():
    supplied = read_supplied(GREY, is_coloured=False)

    assert (supplied.depth.dtype, supplied.depth.shape) == (np.float32, (16, 16))
    assert supplied.warnings == ()
    assert np.array_equal(to_grey(normalize_supplied(supplied.depth, "minmax")), LEVELS)


def test_an_8_bit_map_that_uses_half_the_range_is_not_stretched():
    half = GREY // 2

    supplied = read_supplied(half, is_coloured=False)

    assert np.array_equal(to_grey(normalize_supplied(supplied.depth, "minmax")), half[..., 0])
    stretched = normalize_supplied(supplied.depth, "percentile")
    assert (stretched.min(), stretched.max()) == (0.0, 1.0)


def test_a_16_bit_map_keeps_all_its_levels_until_it_is_quantized():
    rgb = np.repeat((FINE >> 8).astype(np.uint8)[..., None], 3, axis=2)

    supplied = read_supplied(rgb, FINE, is_coloured=False)

    assert len(np.unique(supplied.depth)) == 1024
    assert (supplied.depth.min(), supplied.depth.max()) == (0.0, 1.0)
    raw = normalize_supplied(supplied.depth, "bfl_raw")
    assert len(np.unique(raw)) == 1024
    assert (raw.min(), raw.max()) == (-1.0, 1.0)


def test_invert_turns_every_level_round():
    supplied = read_supplied(GREY, is_coloured=False, invert=True)

    assert np.array_equal(to_grey(supplied.depth), 255 - LEVELS)


def test_a_coloured_map_is_taken_by_luminance_with_a_warning():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))

    supplied = read_supplied(np.asarray(picture), is_coloured=True)

    assert np.array_equal(to_grey(supplied.depth), np.asarray(picture.convert("L")))
    (warning,) = supplied.warnings
    assert warning.startswith("the supplied depth map is coloured")
    assert "\n" not in warning


@pytest.mark.parametrize("invert", [False, True], ids=["as given", "inverted"])
def test_a_faint_map_is_used_with_a_warning(invert):
    millimetres = np.linspace(500, 8000, 256).astype(np.uint16).reshape(16, 16)

    supplied = read_supplied(GREY, millimetres, is_coloured=False, invert=invert)

    (warning,) = supplied.warnings
    assert "0.008 to 0.122" in warning
    assert "depth_normalization=percentile" in warning


def test_a_flat_map_stays_the_constant_it_is():
    supplied = read_supplied(np.full((8, 8, 3), 51, np.uint8), is_coloured=False)

    assert set(np.unique(to_grey(normalize_supplied(supplied.depth, "minmax")))) == {51}
    assert set(np.unique(normalize_supplied(supplied.depth, "percentile"))) == {0.5}
    assert len(supplied.warnings) == 1
