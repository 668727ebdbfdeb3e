"""`only_depth_map`: the depth map that pictures would be guided by, and nothing painted."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import depthflux
from depthflux.engine.provenance import differences
from depthflux.errors import CancelledError, WeightsMissingError

SMALL = {"prompt": "x", "size": "512*512", "num_inference_steps": 1, "seed": 5}
ALONE = SMALL | {"only_depth_map": True}


def decoded(prediction: depthflux.Prediction) -> Image.Image:
    """The one file that was answered."""
    (file,) = prediction.files
    return Image.open(io.BytesIO(file.data))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def forgetful(miniature_8x: Path) -> depthflux.Engine:
    """An engine that keeps no depth map from one request for the next."""
    return depthflux.load("reference", model=str(miniature_8x), remember="none")


@pytest.fixture
def forbidden(engine_8x: depthflux.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the estimator of this engine may be called."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a module that only painting needs was called")

    model = engine_8x.model
    for module in (model.transformer, model.vae.encoder, model.text_encoder, model.text_encoder_2):
        monkeypatch.setattr(module, "forward", refuse)


SUPPLIED = {"preprocess_depth": False}


#: Of an untrained estimator `bfl_raw` is black: its raw numbers are small. Supplied ones are not.
@pytest.mark.parametrize(
    ("image", "fields"),
    [
        pytest.param("room", {}, id="estimated"),
        pytest.param("room", {"size": "864*1636"}, id="off the grid, the default size"),
        pytest.param("room", {"size": "513*701"}, id="off the grid, odd"),
        pytest.param("room", {"fit": "cover"}, id="cover"),
        pytest.param("room", {"fit": "contain", "size": "520*700"}, id="contain"),
        pytest.param("room", {"depth_normalization": "percentile"}, id="percentile"),
        pytest.param("room", {"depth_normalization": "bfl_raw"}, id="bfl_raw"),
        pytest.param("depth_ramp", SUPPLIED, id="supplied"),
        pytest.param("depth_ramp", SUPPLIED | {"invert_depth": True}, id="supplied and inverted"),
        pytest.param(
            "depth_ramp", SUPPLIED | {"depth_normalization": "bfl_raw"}, id="supplied, bfl_raw"
        ),
    ],
)
def test_it_is_the_map_that_pictures_of_the_same_request_are_guided_by(
    image: str,
    fields: dict[str, Any],
    forgetful: depthflux.Engine,
    request: pytest.FixtureRequest,
) -> None:
    control_image = request.getfixturevalue(image)
    painted = forgetful.generate(**SMALL | fields, control_image=control_image)

    alone = forgetful.generate(**ALONE | fields, control_image=control_image)

    file = decoded(alone)
    width, height = map(int, (SMALL | fields)["size"].split("*"))
    assert file.mode == alone.depth_map.mode == "L"
    assert file.size == (width, height)
    assert same(file, painted.depth_map)
    assert same(alone.depth_map, painted.depth_map)


def test_the_packaged_miniature_gives_it_too(
    demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    painted = demo_engine.generate(**SMALL | {"seed": 1}, control_image=room)

    alone = demo_engine.generate(**ALONE, control_image=room)

    assert same(decoded(alone), painted.depth_map)
    assert len(set(decoded(alone).tobytes())) > 100
    assert alone.model == "depthflux/demo"


def test_a_predictions_picture_is_the_map_in_the_mode_that_pictures_have(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    alone = engine_8x.generate(**ALONE, control_image=room)

    (picture,) = alone.images
    assert picture.mode == "RGB"
    for channel in picture.split():
        assert same(channel, alone.depth_map)


@pytest.mark.usefixtures("forbidden")
def test_nothing_but_the_depth_is_computed(engine_8x: depthflux.Engine, room: Image.Image) -> None:
    steps: list[tuple[int, int]] = []

    alone = engine_8x.generate(
        **ALONE | {"prompt": "never encoded before"},
        control_image=room,
        on_step=lambda *step: steps.append(step),
    )

    assert steps == []
    assert set(alone.timings) == {"inference", "read", "depth", "encode"}
    with pytest.raises(AssertionError, match="only painting needs"):
        engine_8x.generate(**SMALL | {"prompt": "never encoded before"}, control_image=room)


def test_what_only_painting_needs_changes_nothing(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    plain = engine_8x.generate(**ALONE, control_image=room)

    other = engine_8x.generate(
        **ALONE | {"prompt": "y", "num_images": 4, "num_inference_steps": 50, "seed": -1},
        control_scale=0.2,
        guidance_scale=20,
        loras=[{"path": "nowhere"}],
        control_image=room,
    )

    assert same(decoded(other), decoded(plain))
    assert other.has_nsfw_contents == [False]
    assert other.record["loras"] == []


def test_the_safety_checker_never_sees_it(
    miniature_8x: Path, room: Image.Image, depth_ramp: Image.Image
) -> None:
    # Flags whatever it is shown.
    engine = depthflux.load("reference", model=str(miniature_8x), safety_threshold=0)
    painted = engine.generate(**SMALL, control_image=room)

    alone = engine.generate(**ALONE, control_image=depth_ramp, preprocess_depth=False)

    assert painted.has_nsfw_contents == [True]
    assert alone.has_nsfw_contents == [False]
    assert alone.record["safety"] == {}
    assert len(set(decoded(alone).tobytes())) > 1


def test_it_shares_what_is_kept_with_painting(
    engine_8x: depthflux.Engine, room: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = room.copy()
    changed.putpixel((3, 3), (1, 2, 3))
    calls: list[None] = []
    estimate = engine_8x.estimator.estimate
    monkeypatch.setattr(
        engine_8x.estimator, "estimate", lambda rgb: (calls.append(None), estimate(rgb))[1]
    )

    engine_8x.generate(**ALONE, control_image=changed)
    engine_8x.generate(**SMALL, control_image=changed)
    engine_8x.generate(**ALONE, control_image=changed)

    assert len(calls) == 1


def test_the_picture_is_painted_as_if_no_map_had_been_asked_for_before(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    before = engine_8x.generate(**SMALL, control_image=room)

    engine_8x.generate(**ALONE | {"num_images": 3}, control_scale=0, control_image=room)

    after = engine_8x.generate(**SMALL, control_image=room)
    assert same(after.images[0], before.images[0])


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_map_alone_gives_the_same_map_again_from_its_record(
    output_format: str, engine_8x: depthflux.Engine, room: Image.Image, tmp_path: Path
) -> None:
    made = engine_8x.generate(
        **ALONE | {"num_images": 3}, output_format=output_format, fit="cover", control_image=room
    )
    (address,) = made.save(tmp_path)["data"]["outputs"]

    record = depthflux.read_record(address.removeprefix("file://"))
    again = engine_8x.generate(depthflux.request_from_record(record))

    assert record["request"]["only_depth_map"] is True
    assert again.request.only_depth_map
    assert same(again.images[0], made.images[0])
    assert same(decoded(again), decoded(made))
    assert again.files[0].extension == output_format
    assert differences(record, again.record) == []


def test_jpeg_and_webp_come_close_to_the_map(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    for output_format, mode in (("jpeg", "L"), ("webp", "RGB")):
        made = engine_8x.generate(**ALONE, output_format=output_format, control_image=room)

        found = np.asarray(decoded(made).convert("L"), dtype=int)

        assert decoded(made).mode == mode
        assert np.abs(found - np.asarray(made.depth_map, dtype=int)).mean() < 2


def test_a_supplied_maps_warnings_are_in_the_record_and_in_the_log(
    engine_8x: depthflux.Engine, room: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    alone = engine_8x.generate(**ALONE, **SUPPLIED, control_image=room)

    assert any("coloured" in warning for warning in alone.record["warnings"])
    assert "coloured" in caplog.text


def test_it_can_be_stopped_before_it_is_begun(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    def stop() -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        engine_8x.generate(**ALONE, control_image=room, on_begin=stop)

    assert engine_8x.generate(**ALONE, control_image=room).images


def test_without_an_estimator_the_error_is_the_one_of_painting(
    miniature_8x: Path, depth_ramp: Image.Image, tmp_path: Path
) -> None:
    folder = shutil.copytree(miniature_8x, tmp_path / "model")
    shutil.rmtree(folder / "depth_estimator")
    engine = depthflux.load("reference", model=str(folder))

    with pytest.raises(WeightsMissingError, match=r"no depth estimator .* preprocess_depth=false"):
        engine.generate(**ALONE, control_image=depth_ramp)

    supplied = engine.generate(**ALONE, **SUPPLIED, control_image=depth_ramp)
    assert same(decoded(supplied), depth_ramp.point(lambda grey: grey))


def test_a_broken_estimator_is_no_map(
    engine_8x: depthflux.Engine, room: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No test has asked for this one before: the shared engine keeps depth maps.
    changed = room.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    changed.putpixel((0, 0), (1, 2, 3))

    def spoil(_module: object, _inputs: object, output: Any) -> None:
        output.predicted_depth.fill_(float("nan"))

    hook = engine_8x.estimator._model.register_forward_hook(spoil)
    try:
        with pytest.raises(depthflux.NonFiniteError):
            engine_8x.generate(**ALONE, control_image=changed)
    finally:
        hook.remove()

    assert engine_8x.generate(**ALONE, control_image=changed).images
