"""Operations of a step: the formula against the published figure and against torch's own count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from depthflux.bench.models import FULL, SMALL, RandomSource
from depthflux.bench.operations import block_products, step_flops
from depthflux.model.control_lora import grow_input_embedder
from depthflux.model.flux_config import TRANSFORMER
from depthflux.model.placement import Placement


@pytest.mark.parametrize(
    ("width", "height", "teraflops"),
    [
        pytest.param(512, 512, 21.5, id="512"),
        pytest.param(1024, 1024, 74.4, id="1024"),
        pytest.param(864, 1632, 103.1, id="hosted-default"),
    ],
)
def test_flux_s_step_has_the_operations_of_the_design(
    width: int, height: int, teraflops: float
) -> None:
    tokens = (width // 16) * (height // 16)

    flops = step_flops(TRANSFORMER, image_tokens=tokens, text_tokens=512)

    assert flops["total"] / 1e12 == pytest.approx(teraflops, rel=2e-3)
    products = block_products(TRANSFORMER, image_tokens=tokens, text_tokens=512)
    assert flops["linear"] == sum(product.flops for product in products)
    assert flops["linear"] == 57 * 24 * 3072**2 * (tokens + 512)


def test_torch_counts_the_same_operations() -> None:
    image, text = 64, 16
    transformer = SMALL.module("transformer")
    grow_input_embedder(transformer)
    config = transformer.config

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        transformer(
            hidden_states=torch.empty(1, image, config.in_channels),
            timestep=torch.empty(1),
            guidance=torch.empty(1),
            pooled_projections=torch.empty(1, config.pooled_projection_dim),
            encoder_hidden_states=torch.empty(1, text, config.joint_attention_dim),
            txt_ids=torch.empty(text, 3),
            img_ids=torch.empty(image, 3),
        )

    flops = step_flops(SMALL.transformer, image_tokens=image, text_tokens=text)
    assert counter.get_total_flops() == flops["total"]


def test_equal_names_draw_equal_weights_and_no_weight_is_zero() -> None:
    placement = Placement(torch.device("cpu"), torch.float32, "a test")
    blocks = {"num_layers": 1, "num_single_layers": 1}
    source = RandomSource("a test's", replace(SMALL, transformer=SMALL.transformer | blocks))

    first, second = source.model(placement), source.model(placement)

    for name, parameter in first.transformer.named_parameters():
        assert torch.equal(parameter, second.transformer.get_parameter(name))
        assert parameter.std() > 0.01
    norm = first.transformer.transformer_blocks[0].attn.norm_q.weight
    assert norm.mean() == pytest.approx(1, abs=0.02)


def test_an_outline_counts_flux_s_parameters_without_making_them() -> None:
    outline = RandomSource("full", FULL).outline()

    assert outline.parameters["transformer"] == pytest.approx(11.90e9, rel=1e-3)
    assert outline.parameters["modulation"] == pytest.approx(3.247e9, rel=1e-3)
    assert outline.text_tokens == 512
    assert outline.pixels_a_token == 16
