"""depthflux.canvas: sizes, placement to the pixel, and the control image's arithmetic."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthflux.canvas import Canvas, control_image, depth_picture, place
from depthflux.errors import GenerationError, InvalidParameterError

sides = st.integers(512, 1536)
grids = st.sampled_from([8, 16, 32])
fits = st.sampled_from(["stretch", "cover", "contain"])
few = settings(max_examples=25, deadline=None, derandomize=True)


def step_edge(width: int, height: int, column: int) -> np.ndarray:
    depth = np.zeros((height, width), dtype=np.float32)
    depth[:, column:] = 1.0
    return depth


def random_depth(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@pytest.mark.parametrize(
    ("width", "height", "grid", "painted", "corner"),
    [
        pytest.param(512, 512, 16, (512, 512), (0, 0), id="on the grid nothing is added"),
        pytest.param(864, 1636, 16, (864, 1648), (0, 6), id="the endpoint's default size"),
        pytest.param(864, 1636, 32, (864, 1664), (0, 14), id="the same with a 16x VAE"),
        pytest.param(513, 527, 16, (528, 528), (7, 0), id="an odd surplus leaves the rest right"),
    ],
)
def test_canvas_paints_the_next_multiple_of_its_grid(width, height, grid, painted, corner):
    canvas = Canvas(width, height, grid)

    assert (canvas.painted_width, canvas.painted_height) == painted
    assert (canvas.left, canvas.top) == corner


def test_canvas_refuses_a_size_of_nothing():
    with pytest.raises(InvalidParameterError, match="height=0: must be 1 or more"):
        Canvas(512, 0, 16)


@few
@given(sides, sides, grids)
def test_crop_gives_exactly_the_asked_size(width, height, grid):
    canvas = Canvas(width, height, grid)
    painted = np.zeros((canvas.painted_height, canvas.painted_width, 3), dtype=np.uint8)
    painted[canvas.rows, canvas.columns] = 255

    from_array, from_picture = canvas.crop(painted), canvas.crop(Image.fromarray(painted))

    assert from_array.shape == (height, width, 3)
    assert from_picture.size == (width, height)
    assert from_array.min() == 255
    assert np.array_equal(from_array, np.asarray(from_picture))
    # Even cropping: both sides lose the same, up to one pixel.
    right = canvas.painted_width - width - canvas.left
    assert 0 <= right - canvas.left <= 1
    assert canvas.painted_width - width < grid


def test_crop_refuses_a_picture_of_another_size():
    canvas = Canvas(864, 1636, 16)

    with pytest.raises(GenerationError, match=r"painted 864x1636 pixels where .* 864x1648"):
        canvas.crop(np.zeros((1636, 864, 3), dtype=np.uint8))


@few
@given(sides, sides, grids, fits, st.data())
def test_an_edge_stays_at_its_column_when_the_sizes_agree(width, height, grid, fit, data):
    canvas = Canvas(width, height, grid)
    column = data.draw(st.integers(1, width - 1))
    depth = step_edge(width, height, column)

    placed = place(depth, canvas, fit)

    assert placed.dtype == np.float32
    assert placed.shape == (canvas.painted_height, canvas.painted_width)
    assert np.array_equal(canvas.crop(placed), depth)
    # The surplus goes on with what is beside it, so the model sees no edge at the crop.
    assert set(np.unique(placed[:, : canvas.left + 1])) == {0.0}
    assert set(np.unique(placed[:, canvas.left + width - 1 :])) == {1.0}


def test_place_is_bit_equal_inside_the_frame_when_the_sizes_agree():
    canvas = Canvas(700, 521, 16)
    depth = random_depth(700, 521)

    for fit in ("stretch", "cover", "contain"):
        assert np.array_equal(canvas.crop(place(depth, canvas, fit)), depth)


@few
@given(st.integers(3, 900), st.integers(3, 900), sides, sides, fits)
def test_place_never_leaves_the_range_of_the_map(map_width, map_height, width, height, fit):
    canvas = Canvas(width, height, 16)
    depth = step_edge(map_width, map_height, map_width // 2) * np.float32(3.3) - np.float32(1.1)

    placed = place(depth, canvas, fit, far=float(depth.min()))

    assert placed.shape == (canvas.painted_height, canvas.painted_width)
    assert placed.min() >= depth.min()
    assert placed.max() <= depth.max()


@few
@given(st.integers(3, 700), st.integers(3, 700), st.integers(256, 700), fits)
def test_place_of_a_mirrored_map_is_the_mirrored_place(map_width, map_height, half, fit):
    # An even surplus and an even rest of `contain` are what can be symmetric at all.
    canvas = Canvas(2 * half, 640, 16)
    depth = random_depth(map_width, map_height)
    scale = min(canvas.width / map_width, canvas.height / map_height)
    if fit == "contain" and (canvas.width - round(map_width * scale)) % 2:
        fit = "stretch"

    mirrored = place(np.ascontiguousarray(depth[:, ::-1]), canvas, fit)

    np.testing.assert_allclose(mirrored, place(depth, canvas, fit)[:, ::-1], atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3], ids=["doubled", "tripled"])
def test_stretch_keeps_an_edge_at_the_scaled_column(factor):
    canvas = Canvas(factor * 300, factor * 256, 16)

    row = canvas.crop(place(step_edge(300, 256, 100), canvas, "stretch"))[0]

    # The middle of the ramp lies between the two columns that meet at the scaled edge.
    assert row[factor * 100 - 1] < 0.5 < row[factor * 100]
    assert row[factor * 100 - 1] + row[factor * 100] == pytest.approx(1.0)


def test_shrinking_averages_instead_of_picking_pixels():
    canvas = Canvas(512, 512, 16)
    stripes = np.zeros((2048, 2048), dtype=np.float32)
    stripes[:, ::2] = 1.0

    placed = place(stripes, canvas, "stretch")

    # Picking every fourth column would give all 0 or all 1.
    np.testing.assert_allclose(placed[:, 2:-2], 0.5, atol=0.01)


def test_cover_crops_the_middle():
    # 1024x512 onto a square: the middle half of the width is kept, at its own scale.
    canvas = Canvas(512, 512, 16)
    depth = random_depth(1024, 512)

    placed = place(depth, canvas, "cover")

    np.testing.assert_allclose(placed, depth[:, 256:768], atol=1e-6)


def test_contain_centres_the_map_and_fills_the_rest_with_far():
    canvas = Canvas(512, 512, 16)
    depth = random_depth(512, 256) * np.float32(0.5) + np.float32(0.5)

    placed = place(depth, canvas, "contain", far=-1.0)

    assert np.array_equal(placed[128:384], depth)
    assert set(np.unique(placed[:128])) == set(np.unique(placed[384:])) == {-1.0}


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1)], ids=str)
def test_place_takes_maps_of_extreme_shape(fit, shape):
    canvas = Canvas(520, 600, 16)

    placed = place(np.full(shape, 0.25, dtype=np.float32), canvas, fit, far=0.25)

    assert placed.shape == (608, 528)
    assert set(np.unique(placed)) == {0.25}


def test_control_image_equals_what_diffusers_makes_of_the_saved_picture():
    canvas = Canvas(864, 1648, 16)
    placed = place(random_depth(640, 480), canvas, "stretch")
    placed[0, :256] = np.arange(256, dtype=np.float32) / 255.0  # every level at least once

    ours = control_image(placed, quantized=True)

    saved = depth_picture(placed, canvas, quantized=True).convert("RGB")
    theirs = VaeImageProcessor(vae_scale_factor=16).preprocess(saved, height=1648, width=864)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    assert theirs.dtype == torch.float32
    for channel in theirs[0].numpy():
        assert np.array_equal(channel, ours)
    assert (ours.min(), ours.max()) == (-1.0, 1.0)


def test_control_image_brings_an_8_bit_map_back_level_by_level():
    levels = np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0)

    unit = levels.astype(np.float32) / np.float32(255.0)

    assert np.array_equal(
        np.asarray(depth_picture(unit, Canvas(256, 4, 4), quantized=True)), levels
    )


def test_control_image_rounds_halves_to_even_like_diffusers():
    halves = np.array([[0.5 / 255, 1.5 / 255, 126.5 / 255, 127.5 / 255]], dtype=np.float32)

    ours = control_image(halves, quantized=True)

    saved = VaeImageProcessor.numpy_to_pil(halves[None, :, :, None].repeat(3, axis=3))[0]
    expected = np.asarray(saved)[..., 0].astype(np.float32) / 255.0 * 2.0 - 1.0
    assert np.array_equal(ours, expected)


def test_control_image_passes_floats_through_unquantized():
    placed = np.array([[-1.25, -0.3333333, 0.0, 1.75]], dtype=np.float32)

    assert np.array_equal(control_image(placed, quantized=False), placed)


def test_depth_picture_shows_near_as_white_at_the_asked_size():
    canvas = Canvas(700, 520, 16)
    placed = place(step_edge(700, 520, 350), canvas, "stretch")

    grey = depth_picture(placed, canvas, quantized=True)
    raw = depth_picture(placed * 4.0 - 2.0, canvas, quantized=False)

    assert (grey.mode, grey.size) == ("L", (700, 520))
    assert [grey.getpixel((349, 9)), grey.getpixel((350, 9))] == [0, 255]
    assert np.array_equal(np.asarray(grey), np.asarray(raw))
