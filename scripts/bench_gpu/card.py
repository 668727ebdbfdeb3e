"""What the architecture implies, before anything is measured: weights and operations.

Figures to hold the measured ones against. It knows nothing of torch or files.
"""

from collections.abc import Mapping
from typing import Any

from bench_gpu.sizes import Config, Size
from depthflux.canvas import Canvas
from depthflux.contract import GenerationRequest

TEXT_TOKENS = 512
#: Numbers that a timestep or a guidance scale is spread over before its MLP.
SINUSOIDS = 256


def card(size: Size, weights_bytes: Mapping[str, int]) -> dict[str, Any]:
    """Bytes of weights and, for each picture size, tokens and operations of one denoising step."""
    return {
        "weights_bytes": dict(weights_bytes),
        "transformer_blocks": {
            "double": size.transformer["num_layers"],
            "single": size.transformer["num_single_layers"],
        },
        "text_tokens": TEXT_TOKENS,
        "pictures": {name: picture_card(size, name) for name in size.pictures},
    }


def picture_card(size: Size, picture: str) -> dict[str, Any]:
    """One picture size: what is painted, its tokens, and operations of one step."""
    tokens = image_tokens(size, picture)
    flops = step_flops(size.transformer, image_tokens=tokens, text_tokens=TEXT_TOKENS)
    canvas = _canvas(size, picture)
    return {
        "painted": f"{canvas.painted_width}*{canvas.painted_height}",
        "image_tokens": tokens,
        "step_teraflops": {name: round(count / 1e12, 6) for name, count in flops.items()},
    }


def image_tokens(size: Size, picture: str) -> int:
    """Packed tokens that a picture of the asked size is painted with."""
    canvas = _canvas(size, picture)
    return (canvas.painted_width // canvas.grid) * (canvas.painted_height // canvas.grid)


def step_flops(config: Config, *, image_tokens: int, text_tokens: int) -> dict[str, int]:
    """Floating-point operations of one pass through the transformer, two for each multiply-add.

    With width d and N tokens, image and text together: each block, double or single, has linears
    of 12·d² weights for every token (q, k, v, out, and an MLP of 4·d) and attention with two
    products of N·N·d. Modulation sees one row a step: 12·d² weights for a double block, 3·d² for a
    single one, 2·d² at the end. A test counts them in the real module.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    double, single = config["num_layers"], config["num_single_layers"]
    tokens = image_tokens + text_tokens
    channels = config["in_channels"]
    # The control's latents come in behind the picture's, and do not go out.
    ends = image_tokens * (2 * channels + channels) + text_tokens * config["joint_attention_dim"]
    embedded = 2 * SINUSOIDS + config["pooled_projection_dim"] + 3 * width
    rows = (12 * double + 3 * single + 2) * width
    parts = {
        "linear": 2 * 12 * width**2 * (double + single) * tokens,
        "attention": 2 * 2 * width * tokens**2 * (double + single),
        "embedders": 2 * width * ends,
        "modulation": 2 * width * (rows + embedded),
    }
    return parts | {"total": sum(parts.values())}


def _canvas(size: Size, picture: str) -> Canvas:
    width, height = GenerationRequest(prompt="-", size=picture).dimensions
    # A token is two latent cells wide, and each level of the VAE but the last halves the picture.
    return Canvas(width, height, grid=2 ** len(size.vae["block_out_channels"]))
