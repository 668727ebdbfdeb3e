"""The two kinds of block against diffusers' own, of which they are another form."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)

from depthflux.engine.blocks import DoubleBlock, SingleBlock, modulated, rotate
from depthflux.engine.modulation import (
    DOUBLE_SCALES,
    DOUBLE_VECTORS,
    SINGLE_SCALES,
    SINGLE_VECTORS,
    compute_vectors,
)

WIDTH, HEADS, TEXT, IMAGE = 64, 2, 5, 12


@pytest.fixture
def places() -> torch.Tensor:
    rows = torch.arange(IMAGE) // 4
    image = torch.stack([torch.zeros(IMAGE), rows, torch.arange(IMAGE) % 4], dim=1)
    return torch.cat([torch.zeros(TEXT, 3), image])


@pytest.fixture
def embedding() -> FluxPosEmbed:
    return FluxPosEmbed(theta=10000, axes_dim=[8, 12, 12])


def rope_of(embedding: FluxPosEmbed, places: torch.Tensor) -> torch.Tensor:
    return torch.stack([twice[:, ::2] for twice in embedding(places)], dim=-1)[:, None].contiguous()


def random_weights(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.requires_grad_(False)
    return module


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("batch", [1, 3])
def test_a_double_block_equals_diffusers_up_to_rounding(
    batch: int, embedding: FluxPosEmbed, places: torch.Tensor
) -> None:
    block = random_weights(FluxTransformerBlock(WIDTH, HEADS, WIDTH // HEADS), seed=1)
    image, text = torch.randn(batch, IMAGE, WIDTH), torch.randn(batch, TEXT, WIDTH)
    temb = torch.randn(1, WIDTH)
    theirs = block(image, text, temb, image_rotary_emb=embedding(places))

    embedded = torch.nn.functional.silu(temb)
    ours = DoubleBlock(block)(
        image,
        text,
        compute_vectors(block.norm1.linear, embedded, DOUBLE_VECTORS, DOUBLE_SCALES)[0],
        compute_vectors(block.norm1_context.linear, embedded, DOUBLE_VECTORS, DOUBLE_SCALES)[0],
        rope_of(embedding, places),
    )

    assert relative(ours[0], theirs[1]) < 1e-6
    assert relative(ours[1], theirs[0]) < 1e-6


@pytest.mark.parametrize("batch", [1, 3])
def test_a_single_block_equals_diffusers_up_to_rounding(
    batch: int, embedding: FluxPosEmbed, places: torch.Tensor
) -> None:
    block = random_weights(FluxSingleTransformerBlock(WIDTH, HEADS, WIDTH // HEADS), seed=2)
    image, text = torch.randn(batch, IMAGE, WIDTH), torch.randn(batch, TEXT, WIDTH)
    temb = torch.randn(1, WIDTH)
    theirs = torch.cat(block(image, text, temb, image_rotary_emb=embedding(places)), dim=1)

    vectors = compute_vectors(
        block.norm.linear, torch.nn.functional.silu(temb), SINGLE_VECTORS, SINGLE_SCALES
    )
    ours = SingleBlock(block)(
        torch.cat([text, image], dim=1), vectors[0], rope_of(embedding, places)
    )

    assert relative(ours, theirs) < 1e-6


def test_what_is_written_into_a_block_by_diffusers_names_is_computed_with() -> None:
    block = random_weights(FluxSingleTransformerBlock(WIDTH, HEADS, WIDTH // HEADS), seed=3)
    ours = SingleBlock(block)
    inputs = (
        torch.randn(1, TEXT + IMAGE, WIDTH),
        torch.randn(SINGLE_VECTORS, WIDTH),
        torch.ones(TEXT + IMAGE, 1, WIDTH // HEADS // 2, 2),
    )
    before = ours(*inputs)

    block.attn.to_v.weight.data.copy_(torch.randn(WIDTH, WIDTH))

    assert not torch.equal(ours(*inputs), before)


def test_packing_costs_no_second_copy_of_the_weights() -> None:
    block = random_weights(FluxTransformerBlock(WIDTH, HEADS, WIDTH // HEADS), seed=4)

    packed = DoubleBlock(block).image.qkv

    storage = packed.weight.untyped_storage().data_ptr()
    for linear in (block.attn.to_q, block.attn.to_k, block.attn.to_v):
        assert linear.weight.untyped_storage().data_ptr() == storage


def test_rotating_compiled_and_eager_is_the_same_turn(
    monkeypatch: pytest.MonkeyPatch, embedding: FluxPosEmbed, places: torch.Tensor
) -> None:
    heads = torch.randn(2, TEXT + IMAGE, HEADS, WIDTH // HEADS)
    rope = rope_of(embedding, places)
    eager = rotate(heads, rope)

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    assert relative(rotate(heads, rope), eager) < 1e-6
    assert relative(eager, heads) > 0.1, "no turn would prove nothing"


def test_modulating_rounds_once() -> None:
    """In bfloat16 1 + scale would lose a small scale whole."""
    tokens = torch.randn(1, 7, WIDTH, dtype=torch.bfloat16)
    scale, shift = torch.full((WIDTH,), 1.001), torch.full((WIDTH,), 0.01)
    exact = torch.nn.functional.layer_norm(tokens.double(), (WIDTH,), eps=1e-6) * 1.001 + 0.01

    assert torch.equal(modulated(tokens, scale, shift), exact.to(torch.bfloat16))
