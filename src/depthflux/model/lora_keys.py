"""The names that LoRA files have for the transformer's linears and for what changes them.

A key is a linear's name and the name of a part of its change. Both have several spellings:

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight           diffusers, peft, ai-toolkit
    transformer_blocks.0.attn.to_q.lora_A.weight                       diffusers' model alone
    lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight   OneTrainer
    double_blocks.0.img_attn.qkv.lora_A.weight                         Black Forest Labs
    diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight      ComfyUI
    base_model.model.double_blocks.0.img_attn.qkv.lora_A.weight        fal
    lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight            kohya
    double_blocks.0.processor.qkv_lora1.down.weight                    xlabs

The last five follow the makers' own cut of the linears, which is another than diffusers'.

Source: the files that these trainers write, and diffusers 0.42's conversions of them. Knows nothing
of tensors.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from depthflux.model.flux_layout import Shape, linear_origins

Part = Literal["down", "up", "bias", "alpha"]

#: How the parts of a linear's change are spelt, after the linear's name and a dot. An ending that
#: is the end of another one comes later.
ENDINGS: dict[str, Part] = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_B.bias": "bias",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_B.default.bias": "bias",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "down.weight": "down",
    "up.weight": "up",
    "alpha": "alpha",
}
#: Beginnings of keys that are for a text encoder.
TEXT_ENCODERS = ("text_encoder", "lora_te")
#: Kinds of changes that are more than a LoRA or other than one, and what tells them: a part of a
#: key between dots.
OTHER_KINDS = {
    "DoRA": r"dora_scale|lora_magnitude_vector",
    "LoHa": r"hada_\w+",
    "LoKr": r"lokr_\w+",
    "OFT": r"b?oft_\w+",
    "whole differences": r"diff|diff_b",
}


class Place(NamedTuple):
    """Which linear of diffusers' transformer a part is for.

    Attributes:
        linear: its name.
        rows: which of the part's output rows, (first, past the last); None for all.
        swapped: whether the two halves of the output rows change places.
    """

    linear: str
    rows: tuple[int, int] | None = None
    swapped: bool = False


def places(shape: Shape) -> dict[str, list[Place]]:
    """What every spelling of a linear's name stands for; several linears where they are one there.

    Args:
        shape: of the transformer, which decides what linears there are.
    """
    found: dict[str, list[Place]] = {}
    for linear, origin in linear_origins(shape).items():
        for name in _diffusers_spellings(linear):
            found.setdefault(name, []).append(Place(linear))
        for name in _makers_spellings(origin.module):
            found.setdefault(name, []).append(Place(linear, origin.rows, origin.swapped))
    for name, linears in _processors(shape).items():
        rows = [(i * shape.width, (i + 1) * shape.width) for i in range(len(linears))]
        cut = rows if len(linears) > 1 else [None]
        for prefix in ("", "diffusion_model."):
            found[prefix + name] = [
                Place(linear, part) for linear, part in zip(linears, cut, strict=True)
            ]
    return found


def split(key: str) -> tuple[str, Part] | None:
    """A key as a linear's name and the part of its change; None where it is no such key."""
    for ending, part in ENDINGS.items():
        if key.endswith(f".{ending}"):
            return key.removesuffix(f".{ending}"), part
    return None


def other_kind(key: str) -> str | None:
    """Which kind of change that is no plain LoRA a key belongs to; None where it is none."""
    for kind, mark in OTHER_KINDS.items():
        if any(re.fullmatch(mark, part) for part in key.split(".")):
            return kind
    return None


def _diffusers_spellings(linear: str) -> list[str]:
    return [f"transformer.{linear}", linear, f"lora_transformer_{linear.replace('.', '_')}"]


def _makers_spellings(module: str) -> list[str]:
    dotted = [f"{prefix}{module}" for prefix in ("", "diffusion_model.", "base_model.model.")]
    return [*dotted, f"lora_unet_{module.replace('.', '_')}"]


def _processors(shape: Shape) -> dict[str, list[str]]:
    """The names that xlabs gives; of a single block it changes q, k and v, not the MLP beside."""
    names = {}
    for index in range(shape.double):
        ours, theirs = f"transformer_blocks.{index}.attn", f"double_blocks.{index}.processor"
        names[f"{theirs}.qkv_lora1"] = [f"{ours}.to_{part}" for part in "qkv"]
        names[f"{theirs}.qkv_lora2"] = [f"{ours}.add_{part}_proj" for part in "qkv"]
        names[f"{theirs}.proj_lora1"] = [f"{ours}.to_out.0"]
        names[f"{theirs}.proj_lora2"] = [f"{ours}.to_add_out"]
    for index in range(shape.single):
        ours, theirs = f"single_transformer_blocks.{index}", f"single_blocks.{index}.processor"
        names[f"{theirs}.qkv_lora"] = [f"{ours}.attn.to_{part}" for part in "qkv"]
        names[f"{theirs}.proj_lora"] = [f"{ours}.proj_out"]
    return names
