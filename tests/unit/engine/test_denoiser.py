"""The hot loop against the reference, its oracle; and that nothing constant or waiting is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import depthflux
from depthflux.engine.conditioning import Conditioning, condition, encode_control, encode_prompt
from depthflux.engine.constants import ConstantsMaker
from depthflux.engine.denoiser import denoise
from depthflux.engine.drawing import draw
from depthflux.engine.modulation import modulation_linears
from depthflux.engine.reference import denoise_in_diffusers_order

STEPS = 6
SEED = 9876543210


@pytest.fixture(scope="module")
def hoisted_8x(miniature_8x: Path) -> depthflux.Engine:
    """The reference's law and dtype in the hoisted order: nothing but the order differs."""
    return depthflux.load("reference", model=str(miniature_8x), order="hoisted")


def conditioned(
    engine: depthflux.Engine, *, prompt: str = "a red sphere", height: int = 96, width: int = 128
) -> Conditioning:
    control = np.linspace(-1, 1, height * width, dtype=np.float32).reshape(height, width)
    with torch.no_grad():
        return condition(
            engine.model,
            encode_prompt(engine.model, prompt),
            encode_control(engine.model, control),
            steps=STEPS,
            guidance_scale=3.5,
        )


def run(
    engine: depthflux.Engine, conditioning: Conditioning, seeds: tuple[int, ...] = (SEED,)
) -> torch.Tensor:
    constants = ConstantsMaker(engine.model).make(conditioning)
    with torch.no_grad():
        return denoise(
            engine.model, engine.transformer, conditioning, constants, seeds, lambda _pictures: None
        )


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("control_scale", [1.0, 0.4, 0.0])
def test_the_hoisted_run_equals_the_unhoisted_one_up_to_rounding(
    control_scale: float, hoisted_8x: depthflux.Engine, engine_8x: depthflux.Engine
) -> None:
    """The goal is 1e-5 after all steps, in float32."""
    for engine in (hoisted_8x, engine_8x):
        engine.model.control_lora.set_scale(control_scale)
    conditioning = conditioned(engine_8x)

    ours = run(hoisted_8x, conditioning)

    with torch.no_grad():
        theirs = denoise_in_diffusers_order(
            engine_8x.model, conditioning, SEED, lambda _pictures: None
        )
        noise, _ = draw(engine_8x.model, conditioning, SEED)
    assert relative(ours, theirs) < 1e-5
    assert relative(noise, theirs) > 0.1, "no denoising would prove nothing"


def test_each_thing_a_picture_is_conditioned_on_changes_it(hoisted_8x: depthflux.Engine) -> None:
    """The comparison above can fail: constants of another request give other latents."""
    hoisted_8x.model.control_lora.set_scale(1.0)
    usual = run(hoisted_8x, conditioned(hoisted_8x))

    other_prompt = run(hoisted_8x, conditioned(hoisted_8x, prompt="a blue cube on a grey floor"))
    hoisted_8x.model.control_lora.set_scale(0.5)
    other_scale = run(hoisted_8x, conditioned(hoisted_8x))

    assert relative(other_prompt, usual) > 1e-4
    assert relative(other_scale, usual) > 1e-4


def test_pictures_denoised_together_are_those_denoised_alone_up_to_rounding(
    hoisted_8x: depthflux.Engine,
) -> None:
    hoisted_8x.model.control_lora.set_scale(1.0)
    conditioning = conditioned(hoisted_8x)

    together = run(hoisted_8x, conditioning, (1, 2, 3))

    for i, seed in enumerate((1, 2, 3)):
        assert relative(together[i : i + 1], run(hoisted_8x, conditioning, (seed,))) < 1e-5


class _Watch(TorchDispatchMode):
    """Counts operators, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched(hoisted_8x: depthflux.Engine) -> Iterator[dict[str, int]]:
    """Operators of one step, from after the constants until before the last look."""
    hoisted_8x.model.control_lora.set_scale(1.0)
    conditioning = conditioned(hoisted_8x)
    constants = ConstantsMaker(hoisted_8x.model).make(conditioning)
    transformer = hoisted_8x.transformer
    noise, control = draw(hoisted_8x.model, conditioning, SEED)
    with torch.no_grad():
        ends = transformer.ends(control)
        with _Watch() as watch:
            transformer.velocity(noise.float(), ends, constants, constants.modulations[0])
    return watch.counts


# What reads a number or a size out of a tensor, and so waits for a device.
WAITING = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique", "_to_cpu")


def test_a_step_never_waits_for_the_device(watched: dict[str, int]) -> None:
    assert watched["addmm"] > 0
    assert not set(watched) & set(WAITING)


def test_a_step_holds_no_sine_cosine_or_sigmoid_of_what_is_constant(
    watched: dict[str, int],
) -> None:
    """Rotary embedding, timestep embedding and AdaLN are made before the loop."""
    assert not set(watched) & {"sin", "cos", "silu", "exp", "complex", "arange"}


def test_a_step_has_one_matrix_product_for_each_packed_layer(
    watched: dict[str, int], hoisted_8x: depthflux.Engine
) -> None:
    """Double blocks: qkv, out, up, down in two streams; single: qkv with up, out. And the ends."""
    double, single = len(hoisted_8x.transformer.double), len(hoisted_8x.transformer.single)

    products = sum(watched.get(name, 0) for name in ("addmm", "mm"))

    assert products == 8 * double + 2 * single + 2


@contextmanager
def forbidden(linears: list[torch.nn.Linear]) -> Iterator[None]:
    """Weights that fail whoever computes with them."""
    kept = [linear.weight.data for linear in linears]
    for linear in linears:
        linear.weight.data = torch.empty(0)
    try:
        yield
    finally:
        for linear, weight in zip(linears, kept, strict=True):
            linear.weight.data = weight


def test_the_loop_does_without_the_modulation_linears(hoisted_8x: depthflux.Engine) -> None:
    hoisted_8x.model.control_lora.set_scale(1.0)
    conditioning = conditioned(hoisted_8x)
    expected = run(hoisted_8x, conditioning)
    constants = ConstantsMaker(hoisted_8x.model).make(conditioning)
    linears = [linear for _, linear in modulation_linears(hoisted_8x.model.transformer)]

    with forbidden(linears), torch.no_grad():
        again = denoise(
            hoisted_8x.model,
            hoisted_8x.transformer,
            conditioning,
            constants,
            (SEED,),
            lambda _pictures: None,
        )

    assert torch.equal(again, expected)


def test_a_second_request_computes_no_modulation_again_but_another_scale_does(
    hoisted_8x: depthflux.Engine,
) -> None:
    lora, maker = hoisted_8x.model.control_lora, ConstantsMaker(hoisted_8x.model)
    lora.set_scale(1.0)
    conditioning = conditioned(hoisted_8x)
    first = maker.make(conditioning)
    linears = [linear for _, linear in modulation_linears(hoisted_8x.model.transformer)]

    with forbidden(linears):
        second = maker.make(conditioning)
    lora.set_scale(0.5)
    third = maker.make(conditioning)

    assert second.modulations is first.modulations
    assert second.text is first.text
    assert not torch.equal(third.modulations[0].single[0], first.modulations[0].single[0])
    assert not torch.equal(third.text, first.text)


def test_pictures_of_the_hoisted_order_are_those_of_the_reference(
    hoisted_8x: depthflux.Engine, engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    request = {"prompt": "a cone", "size": "512*528", "seed": 4, "num_inference_steps": 3}

    ours, theirs = (
        np.asarray(engine.generate(**request, control_image=room).images[0], dtype=int)
        for engine in (hoisted_8x, engine_8x)
    )

    assert np.abs(ours - theirs).max() <= 1


def test_max_batch_denoises_together_and_paints_the_same_pictures(
    miniature_8x: Path, hoisted_8x: depthflux.Engine, room: Image.Image
) -> None:
    request = {"prompt": "a cone", "size": "512*512", "num_images": 3, "num_inference_steps": 2}
    together = depthflux.load("reference", model=str(miniature_8x), order="hoisted", max_batch=2)
    batches: list[int] = []
    block = together.transformer.double[0]
    hook = block.register_forward_hook(lambda _m, inputs, _o: batches.append(len(inputs[0])))
    done: list[int] = []

    ours = together.generate(
        **request, seed=1, control_image=room, on_step=lambda step, _total: done.append(step)
    )
    hook.remove()

    alone = hoisted_8x.generate(**request, seed=1, control_image=room)
    assert batches == [2, 2, 1, 1]
    assert done == [2, 4, 5, 6]
    for mine, theirs in zip(ours.images, alone.images, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(theirs, dtype=int)).max() <= 1
