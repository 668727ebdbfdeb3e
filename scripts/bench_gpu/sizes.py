"""The two models that can be made, and what is painted with each. It knows nothing of files.

`full` is FLUX.1-dev. `tiny` has the same parts at a width of 32, so that everything but the time
can be rehearsed on a CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthflux.model.flux_config import CLIP_L, T5_XXL, TRANSFORMER, VAE

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """A model's dimensions and the pictures that are timed with it.

    Attributes:
        name: as `--size` takes it.
        transformer: its configuration in diffusers' words.
        vae: likewise.
        text_encoder: CLIP's, in transformers' words.
        text_encoder_2: T5's, likewise.
        rank: of the control LoRA.
        pictures: sizes, the most important first; the first is the one that four are painted of.
        odd_pictures: further sizes, to see that they compile nothing.
        steps: denoising steps of a timed picture.
        repeat: timed pictures of each kind.
    """

    name: str
    transformer: Config
    vae: Config
    text_encoder: Config
    text_encoder_2: Config
    rank: int
    pictures: tuple[str, ...]
    odd_pictures: tuple[str, ...]
    steps: int
    repeat: int

    @property
    def modules(self) -> dict[str, Config]:
        """The configurations of the components that have weights."""
        return {
            "transformer": self.transformer,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }


FULL = Size(
    name="full",
    transformer=TRANSFORMER,
    vae=VAE,
    text_encoder=CLIP_L,
    text_encoder_2=T5_XXL,
    rank=128,
    pictures=("864*1636", "1024*1024", "512*512"),
    odd_pictures=("768*1344", "640*520", "1536*512"),
    steps=28,
    repeat=3,
)
TINY = Size(
    name="tiny",
    transformer=TRANSFORMER
    | {
        "num_layers": 1,
        "num_single_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "axes_dims_rope": [4, 6, 6],
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
    },
    vae=VAE | {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 2},
    text_encoder=CLIP_L
    | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    },
    text_encoder_2=T5_XXL | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},
    rank=8,
    # 516 is no multiple of the grid, as 1636 is none.
    pictures=("512*516", "528*560"),
    odd_pictures=("544*512",),
    steps=3,
    repeat=2,
)
SIZES = {size.name: size for size in (FULL, TINY)}
