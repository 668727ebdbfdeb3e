"""Which tensors each file of the model holds, in the layouts that the real files have.

Base components go by diffusers' and transformers' published names, the control LoRA by Black
Forest Labs'. Modules are built on the meta device, so nothing here takes memory.
"""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from bench_gpu.sizes import Config, Size
from depthflux.model.flux_layout import Shape, linear_origins, norm_origins

Shapes = dict[str, tuple[int, ...]]

#: transformers 5 has dropped this level from its own names; the published files have it.
CLIP_PREFIX = "text_model."


def component_shapes(size: Size) -> dict[str, Shapes]:
    """Every base component's tensors by the names in its files."""
    clip = _parameters(_empty("text_encoder", size.text_encoder))
    return {
        "transformer": _parameters(_empty("transformer", size.transformer)),
        "text_encoder_2": _parameters(_empty("text_encoder_2", size.text_encoder_2)),
        "text_encoder": {
            f"{CLIP_PREFIX}{name.removeprefix(CLIP_PREFIX)}": shape for name, shape in clip.items()
        },
        "vae": _parameters(_empty("vae", size.vae)),
    }


def control_lora_shapes(size: Size) -> Shapes:
    """The control LoRA's tensors by Black Forest Labs' names.

    A and B of every linear with a bias beside B, and whole weights of every q/k norm. The input
    embedder takes the control's channels behind the picture's.
    """
    transformer = _empty("transformer", size.transformer)
    shape = Shape.of(SimpleNamespace(**size.transformer))
    linears = {name: transformer.get_submodule(name) for name in linear_origins(shape)}
    outputs: dict[str, int] = {}
    inputs: dict[str, int] = {}
    for name, origin in linear_origins(shape).items():
        last = linears[name].out_features if origin.rows is None else origin.rows[1]
        outputs[origin.module] = max(last, outputs.get(origin.module, 0))
        inputs[origin.module] = linears[name].in_features * (2 if name == "x_embedder" else 1)
    shapes: Shapes = {}
    for module, width in outputs.items():
        shapes[f"{module}.lora_A.weight"] = (size.rank, inputs[module])
        shapes[f"{module}.lora_B.weight"] = (width, size.rank)
        shapes[f"{module}.lora_B.bias"] = (width,)
    head = (size.transformer["attention_head_dim"],)
    return shapes | {f"{origin.module}.scale": head for origin in norm_origins(shape).values()}


def _empty(component: str, config: Config) -> Any:
    """A component's module on the meta device."""
    with torch.device("meta"):
        if component == "transformer":
            return FluxTransformer2DModel(**config)
        if component == "vae":
            return AutoencoderKL(**config)
        if component == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**config))
        return T5EncoderModel(T5Config(**config))


def _parameters(module: torch.nn.Module) -> Shapes:
    # Not state_dict: T5's embedding stands there twice, and once in its file.
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
