"""What the architecture implies, before anything is measured: weights and operations.

Figures to hold the measured ones against. It knows nothing of torch or files.
"""

from collections.abc import Mapping
from typing import Any

from bench_gpu.sizes import Size
from depthflux.bench.operations import step_flops
from depthflux.canvas import Canvas
from depthflux.contract import GenerationRequest

TEXT_TOKENS = 512


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


def _canvas(size: Size, picture: str) -> Canvas:
    width, height = GenerationRequest(prompt="-", size=picture).dimensions
    # A token is two latent cells wide, and each level of the VAE but the last halves the picture.
    return Canvas(width, height, grid=2 ** len(size.vae["block_out_channels"]))
