"""What a denoising step computes, by the architecture: kinds of matrix product, and attention.

Figures to hold the measured ones against; they are known before anything runs. Knows nothing of
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Numbers that a timestep or a guidance scale is spread over before its MLP.
SINUSOIDS = 256


class Product(NamedTuple):
    """One kind of matrix product of a step.

    Attributes:
        name: what it is.
        rows: tokens, or 1.
        inputs: of the linear.
        outputs: of the linear.
        times: how often a step computes it.
    """

    name: str
    rows: int
    inputs: int
    outputs: int
    times: int

    @property
    def flops(self) -> int:
        """Of all times, two for each multiply-add."""
        return 2 * self.rows * self.inputs * self.outputs * self.times


class Attention(NamedTuple):
    """The attention of a step.

    Attributes:
        heads: of each block.
        tokens: picture and text together.
        head_width: numbers of a head.
        times: blocks.
    """

    heads: int
    tokens: int
    head_width: int
    times: int

    @property
    def flops(self) -> int:
        """Of all blocks: two products of tokens · tokens · width each."""
        return 4 * self.tokens**2 * self.heads * self.head_width * self.times


def block_products(
    config: Mapping[str, Any], *, image_tokens: int, text_tokens: int
) -> list[Product]:
    """The blocks' large linears, by shape; q, k and v count as one product.

    With width d: both streams of a double block have q, k, v (3·d²), out (d²) and an MLP of 4·d
    (8·d²); a single block q, k, v with the MLP's first layer (7·d²), and out (5·d²).
    """
    width = _width(config)
    double, single = config["num_layers"], config["num_single_layers"]
    products = []
    for stream, tokens in (("image", image_tokens), ("text", text_tokens)):
        products += [
            Product(f"double {stream} qkv", tokens, width, 3 * width, double),
            Product(f"double {stream} out", tokens, width, width, double),
            Product(f"double {stream} up", tokens, width, 4 * width, double),
            Product(f"double {stream} down", tokens, 4 * width, width, double),
        ]
    together = image_tokens + text_tokens
    return [
        *products,
        Product("single qkv up", together, width, 7 * width, single),
        Product("single out", together, 5 * width, width, single),
    ]


def attention(config: Mapping[str, Any], *, image_tokens: int, text_tokens: int) -> Attention:
    """The attention of all blocks."""
    blocks = config["num_layers"] + config["num_single_layers"]
    heads, head_width = config["num_attention_heads"], config["attention_head_dim"]
    return Attention(heads, image_tokens + text_tokens, head_width, blocks)


def step_flops(config: Mapping[str, Any], *, image_tokens: int, text_tokens: int) -> dict[str, int]:
    """Floating-point operations of one pass through the transformer, by kind and in total.

    Args:
        config: the transformer's, in diffusers' words; `in_channels` those of the picture alone.
        image_tokens: of the picture.
        text_tokens: that the transformer reads.

    Returns:
        `linear` for the blocks, `attention`, `embedders` for the first and the last layers,
        `modulation` for what sees one row a step: 12·d² weights for a double block, 3·d² for a
        single one, 2·d² at the end; and `total`.
    """
    tokens = {"image_tokens": image_tokens, "text_tokens": text_tokens}
    width, channels = _width(config), config["in_channels"]
    # The control's latents come in behind the picture's, and do not go out.
    ends = image_tokens * 3 * channels + text_tokens * config["joint_attention_dim"]
    embedded = 2 * SINUSOIDS + config["pooled_projection_dim"] + 3 * width
    rows = (12 * config["num_layers"] + 3 * config["num_single_layers"] + 2) * width
    parts = {
        "linear": sum(product.flops for product in block_products(config, **tokens)),
        "attention": attention(config, **tokens).flops,
        "embedders": 2 * width * ends,
        "modulation": 2 * width * (rows + embedded),
    }
    return parts | {"total": sum(parts.values())}


def _width(config: Mapping[str, Any]) -> int:
    width: int = config["num_attention_heads"] * config["attention_head_dim"]
    return width
