"""The models without files, around which engines are placed as the profiles say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from depthflux.bench.models import SMALL, RandomSource
from depthflux.model.offload import MODULATION
from depthflux.model.placement import Placement

CPU = Placement(torch.device("cpu"), torch.float32, "a test")
BLOCKS = {"num_layers": 1, "num_single_layers": 1}


@pytest.fixture(scope="module")
def source() -> RandomSource:
    return RandomSource("a test's", replace(SMALL, transformer=SMALL.transformer | BLOCKS))


def test_two_models_have_the_same_weights(source: RandomSource) -> None:
    first, second = (source.model(CPU).transformer.state_dict() for _ in range(2))

    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_rounded_model_holds_the_fused_weights_in_8_bits(source: RandomSource) -> None:
    plain = source.model(CPU).transformer
    rounded = source.model(CPU, "int8").transformer

    name = "single_transformer_blocks.0.proj_out"
    weight, whole = rounded.get_submodule(name).weight, plain.get_submodule(name).weight
    assert type(weight).__name__ == "Int8Tensor"
    error = (weight.dequantize() - whole).abs().max() / whole.abs().max()
    assert 0 < error < 0.01
    modulation = rounded.transformer_blocks[0].norm1.linear.weight
    assert torch.equal(modulation, plain.transformer_blocks[0].norm1.linear.weight)


def test_a_profile_s_homes_are_those_that_loading_from_files_gives(source: RandomSource) -> None:
    settings = {"device": "cpu", "dtype": "float32", "compile": False}
    model = source.engine("gpu24", settings, CPU).model

    hooked = [type(m).__name__ for m in model.text_encoder_2.modules() if hasattr(m, "_hf_hook")]
    storages = {
        parameter.untyped_storage().data_ptr()
        for name, parameter in model.transformer.named_parameters()
        if MODULATION.search(name)
    }
    assert hooked, "streamed from host memory"
    assert len(storages) == 1, "packed into one block of host memory"


def test_the_control_lora_is_fused_at_scale_1(source: RandomSource) -> None:
    model = source.model(CPU)
    fused = {name: p.clone() for name, p in model.transformer.named_parameters()}

    changed = model.control_lora.set_scale(0.0)

    linears = [m for m in model.transformer.modules() if isinstance(m, nn.Linear)]
    assert changed == len(linears)
    embedder = model.transformer.x_embedder.weight
    half = embedder.shape[1] // 2
    assert not embedder[:, half:].any()
    assert fused["x_embedder.weight"][:, half:].any()
