"""A request's further LoRAs through the whole engine: their effect, and that none stays behind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import depthflux
from depthflux.contract import Lora
from depthflux.errors import InvalidParameterError

#: By file: the linears it changes, overlapping with the others' and with the control LoRA's.
CHANGED = {
    "ink": ("x_embedder", "transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_out"),
    "wash": ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.2"),
    "lead": ("transformer_blocks.0.attn.to_q", "norm_out.linear", "context_embedder"),
}


@pytest.fixture(scope="module")
def loras_dir(tmp_path_factory: pytest.TempPathFactory, miniature_8x: Path) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    transformer = FluxControlPipeline.from_pretrained(miniature_8x).transformer
    for seed, (name, linears) in enumerate(CHANGED.items()):
        draw, tensors = torch.Generator().manual_seed(seed), {}
        for linear in linears:
            module = transformer.get_submodule(linear)
            down = torch.randn(3, module.in_features, generator=draw) / module.in_features**0.5
            up = 0.4 * torch.randn(module.out_features, 3, generator=draw)
            tensors |= {
                f"transformer.{linear}.lora_A.weight": down,
                f"transformer.{linear}.lora_B.weight": up,
            }
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def fresh(miniature: Path, loras_dir: Path, **settings: Any) -> depthflux.Engine:
    return depthflux.load("reference", model=str(miniature), loras_dir=loras_dir, **settings)


@pytest.fixture(scope="module")
def engine(miniature_8x: Path, loras_dir: Path) -> Iterator[depthflux.Engine]:
    return fresh(miniature_8x, loras_dir)


def paint(
    engine: depthflux.Engine, control: Image.Image, *loras: tuple[str, float], **fields: Any
) -> np.ndarray:
    prediction = engine.generate(
        prompt="a red cube",
        control_image=control,
        preprocess_depth=False,
        size="512*512",
        num_inference_steps=1,
        seed=5,
        enable_safety_checker=False,
        loras=[{"path": path, "scale": scale} for path, scale in loras],
        **fields,
    )
    return np.asarray(prediction.images[0])


def weights(engine: depthflux.Engine) -> dict[str, torch.Tensor]:
    state = engine.model.transformer.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_lora_changes_the_picture_and_the_next_request_has_nothing_of_it(
    engine: depthflux.Engine, depth_ramp: Image.Image
) -> None:
    before = paint(engine, depth_ramp)

    within = paint(engine, depth_ramp, ("ink", 1.0))
    more = paint(engine, depth_ramp, ("ink", 2.0))

    assert not np.array_equal(within, before)
    assert not np.array_equal(more, within)
    assert np.array_equal(paint(engine, depth_ramp), before)


def test_the_order_of_the_loras_changes_no_bit(
    engine: depthflux.Engine, depth_ramp: Image.Image
) -> None:
    """All six orders of three LoRAs on one linear, whose float sums depend on their order."""
    loras = [("ink", 0.7), ("wash", -1.3), ("lead", 0.1)]
    pictures, states = [], []
    for order in itertools.permutations(loras):
        pictures.append(paint(engine, depth_ramp, *order))
        states.append(weights(engine))
        # Without it the later orders would be found fused already.
        engine.model.control_lora.set_scale(0.0)

    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    assert all(equal(state, states[0]) for state in states)


def test_any_sequence_of_requests_ends_where_a_fresh_engine_does(
    engine: depthflux.Engine, miniature_8x: Path, loras_dir: Path, depth_ramp: Image.Image
) -> None:
    paint(engine, depth_ramp, ("ink", 1.0), ("wash", 0.5), control_scale=0.4)
    paint(engine, depth_ramp, control_scale=2.0)
    paint(engine, depth_ramp, ("lead", -2.0), ("ink", 3.0))
    paint(engine, depth_ramp, ("ink", 0.0), control_scale=0.0)
    last = paint(engine, depth_ramp, ("wash", 0.3), control_scale=0.9)
    other = fresh(miniature_8x, loras_dir)

    assert np.array_equal(last, paint(other, depth_ramp, ("wash", 0.3), control_scale=0.9))
    assert equal(weights(engine), weights(other))


def test_scale_zero_has_no_effect(engine: depthflux.Engine, depth_ramp: Image.Image) -> None:
    without = paint(engine, depth_ramp, ("wash", 1.0))
    state = weights(engine)

    assert np.array_equal(paint(engine, depth_ramp, ("ink", 0.0), ("wash", 1.0)), without)
    assert equal(weights(engine), state)


def test_a_lora_given_twice_counts_with_both_scales(engine: depthflux.Engine) -> None:
    def fused(*scales: float) -> torch.Tensor:
        taken = engine.loras.take([Lora(path="ink", scale=scale) for scale in scales])
        engine.model.control_lora.set_scale(1.0, [one.lora for one in taken])
        return weights(engine)["single_transformer_blocks.0.proj_out.weight"]

    once, twice = fused(0.75), fused(0.5, 0.25)

    assert torch.allclose(once, twice, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(twice, fused(0.5), atol=1e-3)


def test_repeating_a_request_fuses_nothing_again(engine: depthflux.Engine) -> None:
    taken = [one.lora for one in engine.loras.take([Lora(path="ink"), Lora(path="wash")])]
    engine.model.control_lora.set_scale(0.8, taken)

    assert engine.model.control_lora.set_scale(0.8, taken[::-1]) == 0


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_control_and_further_loras_together_are_the_weights_that_diffusers_fuses(
    engine: depthflux.Engine, miniature_8x: Path, loras_dir: Path, depth_ramp: Image.Image
) -> None:
    pipeline = FluxControlPipeline.from_pretrained(miniature_8x, dtype=torch.float32)
    control = load_file(miniature_8x / "control_lora.safetensors")
    pipeline.load_lora_weights(control, adapter_name="control")
    # diffusers pads the LoRA of the 64-channel embedder to the grown one's 128.
    scales = {"ink": 0.7, "wash": -0.4}
    for name in scales:
        pipeline.load_lora_weights(load_file(loras_dir / f"{name}.safetensors"), adapter_name=name)
    pipeline.set_adapters(["control", *scales], [1.0, *scales.values()])
    pipeline.fuse_lora(adapter_names=["control", *scales])
    state = pipeline.transformer.state_dict()
    theirs = {n.replace(".base_layer", ""): t for n, t in state.items() if "lora_" not in n}

    paint(engine, depth_ramp, *scales.items())

    ours = weights(engine)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-5, atol=2e-6), name


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("inc", "did you mean ink?"),
        ("../ink", "is no name in"),
        ("/etc/passwd", "allow_lora_paths"),
        ("https://127.0.0.1/x", "allow_lora_urls"),
        ("misfit", "it does not fit the transformer"),
    ],
)
def test_a_bad_lora_is_refused_before_anything_is_painted_or_changed(
    engine: depthflux.Engine, loras_dir: Path, depth_ramp: Image.Image, path: str, problem: str
) -> None:
    wide = {f"transformer.proj_out.lora_{part}.weight": torch.ones(5, 5) for part in "AB"}
    save_file(wide, loras_dir / "misfit.safetensors")
    paint(engine, depth_ramp, ("ink", 1.0))
    state, steps = weights(engine), []

    with pytest.raises(InvalidParameterError) as caught:
        paint(
            engine,
            depth_ramp,
            ("wash", 1.0),
            (path, 1.0),
            on_step=lambda step, total: steps.append(step),
        )

    assert caught.value.field == "loras"
    assert str(caught.value).startswith("loras[1].path=")
    assert problem in str(caught.value)
    assert steps == []
    assert equal(weights(engine), state)


def test_a_lora_that_was_trained_on_meanwhile_is_read_anew(
    engine: depthflux.Engine, loras_dir: Path, depth_ramp: Image.Image
) -> None:
    path = loras_dir / "growing.safetensors"
    tensors = load_file(loras_dir / "ink.safetensors")
    save_file(tensors, path)
    first = paint(engine, depth_ramp, ("growing", 1.0))

    save_file({name: 2 * tensor for name, tensor in tensors.items()}, path)

    assert not np.array_equal(paint(engine, depth_ramp, ("growing", 1.0)), first)
