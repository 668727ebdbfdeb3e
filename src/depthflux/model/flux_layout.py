"""Black Forest Labs' names for the transformer's parts, beside diffusers'.

FLUX.1-dev is published twice: as one file in its makers' key layout (what ComfyUI users keep) and
as a diffusers folder. The control LoRA exists in the former layout only. The two differ in names,
in how linears are cut (one `qkv` against three), and in the order of the halves that the last
AdaLN puts out: (shift, scale) there, (scale, shift) here.

Source: the key names and shapes of flux1-dev.safetensors, and the modules of diffusers'
FluxTransformer2DModel. Knows nothing of files or of torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Width of the MLPs over the width of the model.
MLP_RATIO = 4


@dataclass(frozen=True)
class Origin:
    """Where one of diffusers' modules comes from in Black Forest Labs' layout.

    Attributes:
        module: the name there, such as `double_blocks.0.img_attn.qkv`.
        rows: which of its output rows, (first, past the last); None for all.
        swapped: whether the two halves of its output rows change places.
    """

    module: str
    rows: tuple[int, int] | None = None
    swapped: bool = False


@dataclass(frozen=True)
class Shape:
    """What of a transformer's configuration decides its names.

    Attributes:
        width: of the model, heads times their width; 3072 for FLUX.1-dev.
        double: number of double blocks; 19.
        single: number of single blocks; 38.
        guidance: whether it is told the guidance scale.
    """

    width: int
    double: int
    single: int
    guidance: bool

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Of diffusers' configuration of a FluxTransformer2DModel."""
        return cls(
            width=config.num_attention_heads * config.attention_head_dim,
            double=config.num_layers,
            single=config.num_single_layers,
            guidance=bool(config.guidance_embeds),
        )


def linear_origins(shape: Shape) -> dict[str, Origin]:
    """Every linear of diffusers' transformer, and where it comes from."""
    linears = {
        "x_embedder": Origin("img_in"),
        "context_embedder": Origin("txt_in"),
        "proj_out": Origin("final_layer.linear"),
        "norm_out.linear": Origin("final_layer.adaLN_modulation.1", swapped=True),
    }
    embedders = {"timestep_embedder": "time_in", "text_embedder": "vector_in"}
    if shape.guidance:
        embedders["guidance_embedder"] = "guidance_in"
    for ours, theirs in embedders.items():
        linears[f"time_text_embed.{ours}.linear_1"] = Origin(f"{theirs}.in_layer")
        linears[f"time_text_embed.{ours}.linear_2"] = Origin(f"{theirs}.out_layer")
    for index in range(shape.double):
        linears.update(_double_block(index, shape.width))
    for index in range(shape.single):
        linears.update(_single_block(index, shape.width))
    return linears


def norm_origins(shape: Shape) -> dict[str, Origin]:
    """Every q/k norm of diffusers' transformer; its `weight` is called `scale` there."""
    norms = {}
    for index in range(shape.double):
        block = f"transformer_blocks.{index}.attn"
        for stream, prefix in (("img", "norm_"), ("txt", "norm_added_")):
            theirs = f"double_blocks.{index}.{stream}_attn.norm"
            norms[f"{block}.{prefix}q"] = Origin(f"{theirs}.query_norm")
            norms[f"{block}.{prefix}k"] = Origin(f"{theirs}.key_norm")
    for index in range(shape.single):
        block = f"single_transformer_blocks.{index}.attn"
        norms[f"{block}.norm_q"] = Origin(f"single_blocks.{index}.norm.query_norm")
        norms[f"{block}.norm_k"] = Origin(f"single_blocks.{index}.norm.key_norm")
    return norms


def _double_block(index: int, width: int) -> Iterator[tuple[str, Origin]]:
    """The linears of a block that has weights for picture and text of their own."""
    ours, theirs = f"transformer_blocks.{index}", f"double_blocks.{index}"
    yield f"{ours}.norm1.linear", Origin(f"{theirs}.img_mod.lin")
    yield f"{ours}.norm1_context.linear", Origin(f"{theirs}.txt_mod.lin")
    streams = (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff"),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context"),
    )
    for stream, projections, out, mlp in streams:
        for third, name in enumerate(projections):
            rows = (third * width, (third + 1) * width)
            yield f"{ours}.attn.{name}", Origin(f"{theirs}.{stream}_attn.qkv", rows)
        yield f"{ours}.attn.{out}", Origin(f"{theirs}.{stream}_attn.proj")
        yield f"{ours}.{mlp}.net.0.proj", Origin(f"{theirs}.{stream}_mlp.0")
        yield f"{ours}.{mlp}.net.2", Origin(f"{theirs}.{stream}_mlp.2")


def _single_block(index: int, width: int) -> Iterator[tuple[str, Origin]]:
    """The linears of a block that has one set of weights; q, k, v and the MLP are one linear."""
    ours, theirs = f"single_transformer_blocks.{index}", f"single_blocks.{index}"
    yield f"{ours}.norm.linear", Origin(f"{theirs}.modulation.lin")
    for third, name in enumerate(("to_q", "to_k", "to_v")):
        rows = (third * width, (third + 1) * width)
        yield f"{ours}.attn.{name}", Origin(f"{theirs}.linear1", rows)
    rows = (3 * width, (3 + MLP_RATIO) * width)
    yield f"{ours}.proj_mlp", Origin(f"{theirs}.linear1", rows)
    yield f"{ours}.proj_out", Origin(f"{theirs}.linear2")
