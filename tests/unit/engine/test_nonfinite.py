"""NaN and infinity are an error with the step's number, never a black picture.

They are put in where a spoilt weight or a number format too small would let them arise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

import depthflux
from depthflux.errors import NonFiniteError

REQUEST = {"prompt": "a blue cube", "size": "512*512", "num_inference_steps": 4, "seed": 5}


@contextmanager
def spoilt(module: torch.nn.Module, *, call: int, value: float) -> Iterator[None]:
    """One number of a module's output at its n-th call, from 1, is another."""
    calls = 0

    def spoil(_module: object, _inputs: object, output: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            tensor = output[0] if isinstance(output, tuple) else output
            tensor.view(-1)[0] = value

    hook = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 3, 4], ids=["first", "middle", "last"])
def test_one_number_that_is_not_finite_in_a_step_is_an_error_with_its_number(
    step: int, value: float, engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    with (
        spoilt(engine_8x.model.transformer, call=step, value=value),
        pytest.raises(NonFiniteError, match=f"denoising step {step} of 4 ") as caught,
    ):
        engine_8x.generate(**REQUEST, control_image=room)

    assert caught.value.step == step
    assert "\n" not in str(caught.value)


def test_the_step_is_counted_within_its_picture(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    with (
        spoilt(engine_8x.model.transformer, call=4 + 2, value=math.nan),
        pytest.raises(NonFiniteError, match="denoising step 2 of 4 ") as caught,
    ):
        engine_8x.generate(**REQUEST, num_images=2, control_image=room)

    assert caught.value.step == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_in_the_decoder_is_an_error_without_a_step(
    value: float, engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    with (
        spoilt(engine_8x.model.vae.decoder, call=1, value=value),
        pytest.raises(NonFiniteError, match="picture decoder produced NaN") as caught,
    ):
        engine_8x.generate(**REQUEST, control_image=room)

    assert caught.value.step == 0


@pytest.mark.parametrize(
    ("component", "part"),
    [("text_encoder_2", "encoder.final_layer_norm"), ("vae", "encoder")],
    ids=["prompt", "control image"],
)
def test_what_is_not_finite_before_the_loop_shows_in_its_first_step(
    component: str, part: str, engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    module = getattr(engine_8x.model, component).get_submodule(part)

    # What was encoded before is kept, so neither prompt nor picture may have been.
    unseen = room.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    request = REQUEST | {"prompt": f"a cube that no test has asked for, {component}"}

    with spoilt(module, call=1, value=math.nan), pytest.raises(NonFiniteError) as caught:
        engine_8x.generate(**request, control_image=unseen)

    assert caught.value.step == 1


def test_the_next_request_after_the_error_is_as_if_there_had_been_none(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    before = engine_8x.generate(**REQUEST, control_image=room)

    with (
        spoilt(engine_8x.model.transformer, call=2, value=math.nan),
        pytest.raises(NonFiniteError),
    ):
        engine_8x.generate(**REQUEST, control_image=room)
    after = engine_8x.generate(**REQUEST, control_image=room)

    assert np.array_equal(np.asarray(before.images[0]), np.asarray(after.images[0]))
