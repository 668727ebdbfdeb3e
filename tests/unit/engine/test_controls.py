"""A picture's depth is estimated and encoded once; each seed still draws its own latents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import depthflux
from depthflux.canvas import Canvas
from depthflux.contract import GenerationRequest
from depthflux.engine.controls import MOST_KEPT, ControlEncoder
from depthflux.errors import NonFiniteError
from depthflux.images import read_image

SMALL = {"prompt": "x", "size": "512*512", "num_inference_steps": 1}


class FlatEstimator:
    """Takes the red channel for depth, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def estimate(self, rgb: np.ndarray) -> np.ndarray:
        self.calls += 1
        return rgb[:, :, 0].astype(np.float32)


@pytest.fixture
def estimator() -> FlatEstimator:
    return FlatEstimator()


@pytest.fixture
def controls(engine_8x: depthflux.Engine, estimator: FlatEstimator) -> ControlEncoder:
    return ControlEncoder(engine_8x.model, estimator)


def place(controls: ControlEncoder, image: object, **fields: Any) -> Any:
    request = GenerationRequest(**SMALL | fields)
    canvas = Canvas(*request.dimensions, grid=16)
    return controls.place(read_image(image), request, canvas)


@contextmanager
def calls_of(module: torch.nn.Module) -> Iterator[list[object]]:
    """A list that grows by one with every call of a module."""
    calls: list[object] = []
    hook = module.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


def test_the_same_picture_is_estimated_once(
    controls: ControlEncoder, estimator: FlatEstimator, room: Image.Image
) -> None:
    first = place(controls, room)

    second = place(controls, room.copy(), prompt="another", seed=8)

    assert estimator.calls == 1
    assert np.array_equal(first.control, second.control)
    assert np.array_equal(np.asarray(first.picture), np.asarray(second.picture))


def test_the_same_picture_is_encoded_once(
    engine_8x: depthflux.Engine, controls: ControlEncoder, room: Image.Image
) -> None:
    with calls_of(engine_8x.model.vae.encoder) as calls, torch.no_grad():
        first = controls.encode(place(controls, room))
        second = controls.encode(place(controls, room))

    assert len(calls) == 1
    assert torch.equal(first.mean, second.mean)


def other_pixels(room: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    changed = room.copy()
    changed.putpixel((0, 0), (255, 0, 0))
    return changed, {}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(other_pixels, id="pixels"),
        pytest.param(lambda room: (room.transpose(Image.Transpose.ROTATE_90), {}), id="shape"),
        pytest.param(lambda room: (room, {"size": "512*528"}), id="size"),
        pytest.param(lambda room: (room, {"size": "513*512"}), id="crop"),
        pytest.param(lambda room: (room, {"fit": "cover"}), id="fit"),
        pytest.param(lambda room: (room, {"depth_normalization": "bfl_raw"}), id="normalisation"),
        pytest.param(lambda room: (room, {"preprocess_depth": False}), id="supplied"),
    ],
)
def test_whatever_shapes_the_control_image_makes_another(
    change: Any, engine_8x: depthflux.Engine, estimator: FlatEstimator, room: Image.Image
) -> None:
    image, fields = change(room)
    controls = ControlEncoder(engine_8x.model, estimator)
    place(controls, room)

    changed = place(controls, image, **fields)

    alone = place(ControlEncoder(engine_8x.model, estimator), image, **fields)
    assert np.array_equal(changed.control, alone.control)
    assert changed.key != place(controls, room).key


def test_a_supplied_map_and_its_inverse_are_two(
    controls: ControlEncoder, depth_ramp: Image.Image
) -> None:
    upright = place(controls, depth_ramp, preprocess_depth=False)

    inverted = place(controls, depth_ramp, preprocess_depth=False, invert_depth=True)

    assert np.array_equal(np.asarray(inverted.picture), 255 - np.asarray(upright.picture))


def test_sixteen_bits_and_eight_of_the_same_picture_are_two(controls: ControlEncoder) -> None:
    deep = np.tile(np.arange(512, dtype=np.uint16) * 100, (512, 1))
    eight = read_image(deep).rgb

    first = place(controls, deep, preprocess_depth=False, depth_normalization="bfl_raw")
    second = place(controls, eight, preprocess_depth=False, depth_normalization="bfl_raw")

    assert not np.array_equal(first.control, second.control)


def test_an_array_that_changed_in_place_is_another_picture(
    controls: ControlEncoder, estimator: FlatEstimator
) -> None:
    source = read_image(np.full((64, 64, 3), 9, dtype=np.uint8))
    request = GenerationRequest(**SMALL)
    canvas = Canvas(512, 512, grid=16)
    controls.place(source, request, canvas)

    source.rgb[:, :32] = 200
    controls.place(source, request, canvas)

    assert estimator.calls == 2


def test_a_kept_map_repeats_its_warnings(controls: ControlEncoder, room: Image.Image) -> None:
    first = place(controls, room, preprocess_depth=False)

    second = place(controls, room, preprocess_depth=False)

    assert any("coloured" in warning for warning in first.warnings)
    assert second.warnings == first.warnings


def test_drawing_on_a_depth_picture_does_not_reach_the_next_one(
    controls: ControlEncoder, room: Image.Image
) -> None:
    before = np.asarray(place(controls, room).picture).copy()

    place(controls, room).picture.paste(0, (0, 0, 512, 512))

    assert np.array_equal(np.asarray(place(controls, room).picture), before)


def test_the_last_pictures_only_are_kept(
    controls: ControlEncoder, estimator: FlatEstimator
) -> None:
    pictures = [np.full((64, 64, 3), i, dtype=np.uint8) for i in range(MOST_KEPT + 1)]
    for picture in pictures:
        place(controls, picture)

    place(controls, pictures[-1])
    assert estimator.calls == MOST_KEPT + 1
    place(controls, pictures[0])
    assert estimator.calls == MOST_KEPT + 2


def test_nothing_is_kept_where_nothing_is_to_be(
    engine_8x: depthflux.Engine, estimator: FlatEstimator, room: Image.Image
) -> None:
    controls = ControlEncoder(engine_8x.model, estimator, keeps=False)

    with calls_of(engine_8x.model.vae.encoder) as calls, torch.no_grad():
        for _ in range(2):
            controls.encode(place(controls, room))

    assert (estimator.calls, len(calls)) == (2, 2)


# Through the engine ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engines(miniature_8x: Path) -> dict[str, depthflux.Engine]:
    return {
        remember: depthflux.load("reference", model=str(miniature_8x), remember=remember)
        for remember in ("none", "memory")
    }


def test_seeds_keep_their_pictures_whether_the_cache_is_cold_or_warm(
    engines: dict[str, depthflux.Engine], room: Image.Image
) -> None:
    def pictures(remember: str) -> list[np.ndarray]:
        return [
            np.asarray(engines[remember].generate(**SMALL, seed=s, control_image=room).images[0])
            for s in (5, 6, 5)
        ]

    without, kept = pictures("none"), pictures("memory")

    assert not np.array_equal(without[0], without[1])
    assert np.array_equal(kept[0], kept[2])
    for a, b in zip(without, kept, strict=True):
        assert np.array_equal(a, b)


def test_a_second_request_estimates_and_encodes_nothing(
    engines: dict[str, depthflux.Engine], depth_ramp: Image.Image
) -> None:
    engine = engines["memory"]
    model = engine.model
    first = engine.generate(**SMALL, seed=1, control_image=depth_ramp)

    with (
        calls_of(engine.estimator._model) as estimator,
        calls_of(model.vae.encoder) as vae,
        calls_of(model.text_encoder_2) as t5,
    ):
        second = engine.generate(**SMALL, seed=2, control_image=depth_ramp)

    assert (estimator, vae, t5) == ([], [], [])
    assert np.array_equal(np.asarray(first.depth_map), np.asarray(second.depth_map))


def test_the_record_does_not_tell_a_warm_cache_from_a_cold_one(
    engines: dict[str, depthflux.Engine], room: Image.Image
) -> None:
    request = SMALL | {"prompt": "long words " * 90, "seed": 3, "preprocess_depth": False}
    first, second = (
        engines["memory"].generate(**request, control_image=room).record for _ in range(2)
    )

    assert len(first["warnings"]) == 2
    for own in ("prediction", "created_at"):
        del first[own], second[own]
    assert first == second


def test_an_encoders_fault_of_a_moment_does_not_meet_the_next_request(
    engines: dict[str, depthflux.Engine], depth_ramp: Image.Image
) -> None:
    engine = engines["memory"]
    request = SMALL | {"fit": "contain"}

    def spoil(_module: object, _inputs: object, output: torch.Tensor) -> None:
        output.view(-1)[0] = float("nan")

    hook = engine.model.vae.encoder.register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteError):
            engine.generate(**request, control_image=depth_ramp)
    finally:
        hook.remove()

    assert engine.generate(**request, control_image=depth_ramp).images
