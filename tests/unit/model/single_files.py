"""A model's folder written again as the single files that ComfyUI users keep.

The key names and shapes of those files are spelled out here once more, and where each number goes
is found by diffusers' own converters: they are run on the numbers' places instead of the numbers.
So nothing here shares anything with the layout tables under test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType

import torch
from bfl_reference import Size, linear_shapes, norm_names
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]
MODULE_FILES = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
}
#: Bytes of one number.
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
#: What each single file is called in ComfyUI's folders.
SINGLE_FILES = {
    "transformer": "flux1-dev.safetensors",
    "vae": "ae.safetensors",
    "text_encoder": "clip_l.safetensors",
    "text_encoder_2": "t5xxl_fp16.safetensors",
}
#: Where ComfyUI keeps it.
COMFYUI = {
    "transformer": "models/diffusion_models",
    "vae": "models/vae",
    "text_encoder": "models/text_encoders",
    "text_encoder_2": "models/clip",
}


def flux_shapes(size: Size) -> Shapes:
    """Every tensor of Black Forest Labs' transformer file."""
    shapes: Shapes = {}
    for name, shape in linear_shapes(size).items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | dict.fromkeys(norm_names(size), (size.head_width,))


def vae_shapes(
    channels: tuple[int, ...], blocks: int, latent_channels: int = 16, *, attention: bool = True
) -> Shapes:
    """Every tensor of an autoencoder's file by its makers' names.

    Args:
        channels: of each resolution, the finest first.
        blocks: residual blocks of a resolution on the way down; one more on the way up.
        latent_channels: of a latent.
        attention: whether the coarsest resolution has an attention block.
    """
    width = channels[-1]
    return {
        **convolution("encoder.conv_in", 3, channels[0]),
        **_way_down(channels, blocks),
        **_middle("encoder.mid", width, attention=attention),
        **norm("encoder.norm_out", width),
        **convolution("encoder.conv_out", width, 2 * latent_channels),
        **convolution("decoder.conv_in", latent_channels, width),
        **_middle("decoder.mid", width, attention=attention),
        **_way_up(channels, blocks),
        **norm("decoder.norm_out", channels[0]),
        **convolution("decoder.conv_out", channels[0], 3),
    }


def convolution(name: str, inputs: int, outputs: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _residual(name: str, inputs: int, outputs: int) -> Shapes:
    shapes = norm(f"{name}.norm1", inputs) | convolution(f"{name}.conv1", inputs, outputs)
    shapes |= norm(f"{name}.norm2", outputs) | convolution(f"{name}.conv2", outputs, outputs)
    if inputs == outputs:
        return shapes
    return shapes | convolution(f"{name}.nin_shortcut", inputs, outputs, side=1)


def _middle(name: str, width: int, *, attention: bool) -> Shapes:
    shapes = _residual(f"{name}.block_1", width, width) | _residual(f"{name}.block_2", width, width)
    if attention:
        shapes |= norm(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            shapes |= convolution(f"{name}.attn_1.{part}", width, width, side=1)
    return shapes


def _way_down(channels: tuple[int, ...], blocks: int) -> Shapes:
    shapes: Shapes = {}
    width = channels[0]
    for level, outputs in enumerate(channels):
        for block in range(blocks):
            shapes |= _residual(f"encoder.down.{level}.block.{block}", width, outputs)
            width = outputs
        if level < len(channels) - 1:
            shapes |= convolution(f"encoder.down.{level}.downsample.conv", width, width)
    return shapes


def _way_up(channels: tuple[int, ...], blocks: int) -> Shapes:
    shapes: Shapes = {}
    width = channels[-1]
    for level in reversed(range(len(channels))):
        for block in range(blocks + 1):
            shapes |= _residual(f"decoder.up.{level}.block.{block}", width, channels[level])
            width = channels[level]
        if level > 0:
            shapes |= convolution(f"decoder.up.{level}.upsample.conv", width, width)
    return shapes


def clip_shapes(width: int = 768, layers: int = 12, tokens: int = 49408) -> Shapes:
    """Every tensor of CLIP's text model in a single file."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (tokens, width),
        "text_model.embeddings.position_embedding.weight": (77, width),
        **norm("text_model.final_layer_norm", width),
    }
    for layer in range(layers):
        block = f"text_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{block}.self_attn.{part}", width, width)
        shapes |= linear(f"{block}.mlp.fc1", width, 4 * width)
        shapes |= linear(f"{block}.mlp.fc2", 4 * width, width)
        shapes |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
    return shapes


def t5_shapes(width: int = 4096, inner: int = 10240, layers: int = 24) -> Shapes:
    """Every tensor of T5's encoder in a single file; the embedding stands there twice."""
    shapes: Shapes = {
        "shared.weight": (32128, width),
        "encoder.embed_tokens.weight": (32128, width),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
        "encoder.final_layer_norm.weight": (width,),
    }
    for layer in range(layers):
        block = f"encoder.block.{layer}.layer"
        for part in "qkvo":
            shapes[f"{block}.0.SelfAttention.{part}.weight"] = (width, width)
        for part in ("wi_0", "wi_1"):
            shapes[f"{block}.1.DenseReluDense.{part}.weight"] = (inner, width)
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (width, inner)
        shapes[f"{block}.0.layer_norm.weight"] = (width,)
        shapes[f"{block}.1.layer_norm.weight"] = (width,)
    return shapes


def convert_flux(tensors: Tensors, width: int) -> Tensors:
    """diffusers' own conversion of a transformer, which is written for FLUX's width only."""
    function = convert_flux_transformer_checkpoint_to_diffusers
    constants = tuple(
        width if constant == Size().width else constant for constant in function.__code__.co_consts
    )
    code = function.__code__.replace(co_consts=constants)
    return FunctionType(code, function.__globals__)(dict(tensors))


def convert_vae(tensors: Tensors, levels: int) -> Tensors:
    """diffusers' own conversion of an autoencoder."""
    names = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    return convert_ldm_vae_checkpoint(dict(tensors), names)


def places(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """A number of its own for every place of every tensor."""
    tensors, first = {}, 0
    for name, shape in shapes.items():
        past = first + math.prod(shape)
        tensors[name] = torch.arange(first, past).reshape(shape)
        first = past
    return tensors


def inverted(shapes: Shapes, converter: Callable[[Tensors], Tensors], wanted: Tensors) -> Tensors:
    """The tensors that a converter makes the wanted ones of."""
    where = places(shapes)
    total = sum(math.prod(shape) for shape in shapes.values())
    dtype = next(iter(wanted.values())).dtype
    numbers = torch.full((total,), torch.nan, dtype=dtype)
    for name, place in converter(where).items():
        numbers[place.flatten()] = wanted[name].flatten()
    assert not numbers.isnan().any(), "a place that the converter makes nothing of"
    return {name: numbers[place] for name, place in where.items()}


def as_single_files(model: Path) -> dict[str, Tensors]:
    """The modules of a model's folder as single files' tensors, by component."""
    configs = {
        name: json.loads((model / name / "config.json").read_text()) for name in MODULE_FILES
    }
    weights = {name: load_file(model / file) for name, file in MODULE_FILES.items()}
    flux, vae = configs["transformer"], configs["vae"]
    size = Size(
        heads=flux["num_attention_heads"],
        head_width=flux["attention_head_dim"],
        double=flux["num_layers"],
        single=flux["num_single_layers"],
        channels=flux["in_channels"],
        text_width=flux["joint_attention_dim"],
        pooled_width=flux["pooled_projection_dim"],
    )
    channels = tuple(vae["block_out_channels"])
    clip = {f"text_model.{name}": tensor for name, tensor in weights["text_encoder"].items()}
    t5 = weights["text_encoder_2"]
    return {
        "transformer": inverted(
            flux_shapes(size),
            lambda tensors: convert_flux(tensors, size.width),
            weights["transformer"],
        ),
        "vae": inverted(
            vae_shapes(
                channels,
                vae["layers_per_block"],
                vae["latent_channels"],
                attention=vae["mid_block_add_attention"],
            ),
            lambda tensors: convert_vae(tensors, len(channels)),
            weights["vae"],
        ),
        "text_encoder": clip,
        "text_encoder_2": t5 | {"encoder.embed_tokens.weight": t5["shared.weight"].clone()},
    }


def write_single_files(model: Path, folder: Path, *, comfyui: bool = False) -> None:
    """Write a model's modules as single files, flat or where ComfyUI keeps them."""
    for name, tensors in as_single_files(model).items():
        path = folder / (COMFYUI[name] if comfyui else "") / SINGLE_FILES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def write_sparse(path: Path, shapes: Shapes, dtypes: Mapping[str, str] | None = None) -> None:
    """A safetensors file with a true header and zeros that take no room on the disk.

    Args:
        path: its folder is made.
        shapes: of the tensors.
        dtypes: of the tensors, where they are not BF16.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "BF16")
        first, end = end, end + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
