"""A whole engine in int8: what is rounded, how far the picture moves, what stays exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import depthflux
from depthflux.engine.preparation import prepare
from depthflux.errors import DeviceError
from depthflux.model.packing import pack
from depthflux.model.placement import Placement
from depthflux.model.quantization import (
    is_quantized,
    large_linears,
    plain_tensors,
    quantize_linears,
    write_weight,
)

REQUEST = {"prompt": "a red sphere", "size": "512*512", "num_inference_steps": 2, "seed": 3}


def int8(miniature: Path, **settings: object) -> depthflux.Engine:
    return depthflux.load(
        "exact", model=str(miniature), quantize="int8", device="cpu", compile=True, **settings
    )


def weights(engine: depthflux.Engine) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in plain_tensors(engine.model.transformer.state_dict()).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_the_blocks_large_linears_are_quantized_and_nothing_else(miniature_8x: Path) -> None:
    transformer = int8(miniature_8x).model.transformer

    rounded = [name for name, tensor in transformer.named_parameters() if is_quantized(tensor)]

    assert rounded == [f"{name}.weight" for name in large_linears(transformer)]
    assert rounded


def test_the_packed_linears_of_the_blocks_hold_what_was_fused(miniature_8x: Path) -> None:
    engine = int8(miniature_8x)
    engine.model.control_lora.set_scale(1.0)

    block = engine.model.transformer.transformer_blocks[0].attn
    packed = engine.transformer.double[0].image.qkv.weight

    parts = (block.to_q, block.to_k, block.to_v)
    assert torch.equal(packed.qdata, torch.cat([part.weight.qdata for part in parts]))
    assert packed.qdata.data_ptr() == block.to_q.weight.qdata.data_ptr()


def test_packed_quantized_linears_compute_as_they_did_apart() -> None:
    linears = nn.ModuleDict({name: nn.Linear(64, 32) for name in "qkv"}).requires_grad_(False)
    quantize_linears(linears, "qkv", "int8", Placement(torch.device("cpu"), torch.float32, ""))
    for linear in linears.values():
        write_weight(linear.weight, torch.randn(32, 64))
    tokens = torch.randn(1, 20, 64)
    apart = torch.cat([linear(tokens) for linear in linears.values()], dim=-1)

    assert torch.equal(pack(list(linears.values()))(tokens), apart)


def test_the_picture_is_nearly_the_unrounded_one(miniature_8x: Path, room: Image.Image) -> None:
    plain = depthflux.load("exact", model=str(miniature_8x), device="cpu", dtype="float32")
    engines = (plain, int8(miniature_8x, dtype="float32"))

    # Compiling takes a minute here and moves sums only.
    with torch.compiler.set_stance("force_eager"):
        exact, rounded = (
            np.asarray(engine.generate(**REQUEST, control_image=room).images[0], dtype=float)
            for engine in engines
        )

    assert 0 < np.abs(exact - rounded).mean() < 0.2, "grey values of 255"


def test_any_sequence_of_requests_ends_at_the_weights_of_a_fresh_start(miniature_8x: Path) -> None:
    used, fresh = int8(miniature_8x), int8(miniature_8x)

    for scale in (0.3, 2.0, 0.0, 0.85):
        used.model.control_lora.set_scale(scale)
    fresh.model.control_lora.set_scale(0.85)

    assert equal(weights(used), weights(fresh))


def test_a_prepared_start_has_the_weights_of_a_fresh_one(
    miniature_8x: Path, tmp_path: Path
) -> None:
    fresh = int8(miniature_8x, weights_dir=tmp_path)
    fresh.model.control_lora.set_scale(1.0)

    prepare("exact", model=str(miniature_8x), weights_dir=tmp_path, quantize="int8", device="cpu")
    started = int8(miniature_8x, weights_dir=tmp_path)
    plain = depthflux.load("exact", model=str(miniature_8x), weights_dir=tmp_path, device="cpu")

    assert started.model.control_lora.set_scale(1.0) == 0, "no linear is left to fuse"
    assert equal(weights(started), weights(fresh))
    assert plain.model.control_lora.scale is None, "what is prepared in int8 is for int8 alone"
    started.model.control_lora.set_scale(0.4)
    fresh.model.control_lora.set_scale(0.4)
    assert equal(weights(started), weights(fresh))


def test_fp8_on_the_cpu_is_refused_before_the_model_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="quantize=fp8"):
        depthflux.load("exact", model="flux", weights_dir=tmp_path, quantize="fp8", device="cpu")
