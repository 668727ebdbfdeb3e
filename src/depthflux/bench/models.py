"""The models that are timed, and depthflux's engines around them.

`full` and `small` have no files: every tensor is drawn where it is used, from the seed of its own
name, so that all systems get the same weights and a second copy costs no reading. Numbers are
drawn like those that networks begin with; with zeros, matrix products would draw less power and
run faster than with real weights. Every linear has a LoRA, as the control LoRA has.

Knows nothing of timing.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import accelerate
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from depthflux.engine.engine import Engine
from depthflux.engine.loading import engine_of, load
from depthflux.engine.switches import check_switches
from depthflux.model.components import KINDS, Component
from depthflux.model.control_lora import ControlLora, grow_input_embedder
from depthflux.model.demo import demo_folder
from depthflux.model.flux_config import CLIP_L, SCHEDULER, T5_XXL, TRANSFORMER, VAE
from depthflux.model.loading import (
    MAX_PROMPT_TOKENS,
    Model,
    load_model,
    load_tokenizer,
    open_model,
)
from depthflux.model.lora_file import Factors, LoraTensors
from depthflux.model.offload import place_modulations, place_text_encoders
from depthflux.model.placement import Placement
from depthflux.model.quantization import (
    Kind,
    choose_quantization,
    is_quantized,
    large_linears,
    quantize_linears,
)
from depthflux.model.weights import ModelFiles, find_model
from depthflux.settings import ResolvedSettings, resolve_settings

Config = Mapping[str, Any]

#: Standard deviation of everything drawn; small enough for finite activations in 57 blocks.
DEVIATION = 0.02
#: What all weights are drawn from; another number would give another model of the same shape.
SEED = 5
CONTROL_SCALE = 1.0
#: Parameters of diffusers' transformer that see the timestep, guidance and pooled prompt alone.
MODULATION = re.compile(r"norm(1|1_context|_out)?\.linear\.")


@dataclass(frozen=True)
class Shape:
    """A random model's dimensions, in diffusers' and transformers' words.

    Attributes:
        transformer: its configuration, before it is grown for the control.
        vae: likewise.
        text_encoder: CLIP's.
        text_encoder_2: T5's.
        rank: of the control LoRA.
        text_tokens: that T5 reads.
    """

    transformer: Config
    vae: Config
    text_encoder: Config
    text_encoder_2: Config
    rank: int
    text_tokens: int

    def module(self, name: str) -> nn.Module:
        """A component by diffusers' name, its weights on the meta device."""
        config = dict(getattr(self, name))
        with accelerate.init_empty_weights():
            match name:
                case "transformer":
                    module: nn.Module = FluxTransformer2DModel.from_config(config)
                case "vae":
                    module = AutoencoderKL.from_config(config)
                case "text_encoder":
                    module = CLIPTextModel(CLIPTextConfig(**config))
                case _:
                    module = T5EncoderModel(T5Config(**config))
        return module.eval().requires_grad_(False)


#: FLUX's proportions at a width of 256: two single blocks to a double one, an MLP of four times
#: the width, the VAE's eightfold geometry with few channels, and at 512 by 512 pixels one text
#: token to eight of the picture, as FLUX has at 1024 by 1024.
SMALL = Shape(
    transformer=TRANSFORMER
    | {
        "num_layers": 3,
        "num_single_layers": 6,
        "num_attention_heads": 4,
        "attention_head_dim": 64,
        "axes_dims_rope": [8, 28, 28],
        "joint_attention_dim": 256,
        "pooled_projection_dim": 128,
    },
    vae=VAE | {"block_out_channels": [8, 16, 16, 16], "layers_per_block": 1, "norm_num_groups": 4},
    text_encoder=CLIP_L
    | {
        "hidden_size": 128,
        "intermediate_size": 512,
        "projection_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    text_encoder_2=T5_XXL
    | {"d_model": 256, "d_kv": 32, "d_ff": 640, "num_layers": 4, "num_heads": 8},
    rank=16,
    text_tokens=128,
)
FULL = Shape(TRANSFORMER, VAE, CLIP_L, T5_XXL, rank=128, text_tokens=MAX_PROMPT_TOKENS)
MODULES = ("transformer", "vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Outline:
    """What is known of a model before it is loaded.

    Attributes:
        transformer: its configuration in diffusers' words, not grown for the control.
        parameters: numbers of weights by component, and of those that modulate the transformer.
        text_tokens: that T5 reads.
        pixels_a_token: side of the square of pixels that one token stands for.
    """

    transformer: Config
    parameters: dict[str, int]
    text_tokens: int
    pixels_a_token: int


class Source(Protocol):
    """Where the timed systems get their models from; each asks for one of its own."""

    def outline(self) -> Outline:
        """The model's dimensions, without its weights."""

    def model(self, placement: Placement) -> Model:
        """The modules with the control LoRA fused at scale 1."""

    def resolve(self, profile: str, settings: Mapping[str, Any]) -> ResolvedSettings:
        """A profile's settings for this model."""

    def engine(self, profile: str, settings: Mapping[str, Any], placement: Placement) -> Engine:
        """An engine of depthflux around this model."""


class DemoSource:
    """The packaged miniature, from its files."""

    def outline(self) -> Outline:
        """The miniature's dimensions."""
        opened = open_model(find_model(resolve_settings("demo").values))
        modules = {name: opened[name].module for name in MODULES}
        tokens = min(MAX_PROMPT_TOKENS, opened["tokenizer_2"].model_max_length)
        return _outline(modules, tokens)

    def model(self, placement: Placement) -> Model:
        """The miniature's modules, the control LoRA fused at scale 1."""
        files = find_model(resolve_settings("demo").values)
        model = load_model(files, placement)
        model.control_lora.set_scale(CONTROL_SCALE)
        return model

    def resolve(self, profile: str, settings: Mapping[str, Any]) -> ResolvedSettings:
        """A profile's settings, for the miniature."""
        return resolve_settings(
            profile, environment=os.environ, arguments={**settings, "model": "demo"}
        )

    def engine(self, profile: str, settings: Mapping[str, Any], placement: Placement) -> Engine:
        """An engine that is loaded as anyone's is."""
        return load(profile, **{**settings, "model": "demo", "device": str(placement.device)})


class RandomSource:
    """A model without files."""

    def __init__(self, name: str, shape: Shape) -> None:
        """Stand for a shape's model; nothing is drawn yet."""
        self._name = name
        self._shape = shape

    def outline(self) -> Outline:
        """The shape's dimensions."""
        modules = {name: self._shape.module(name) for name in MODULES}
        return _outline(modules, self._shape.text_tokens)

    def model(self, placement: Placement, quantized: Kind = "none") -> Model:
        """Draw a model of its own, the control LoRA fused at scale 1."""
        modules = {name: self._drawn(name, placement, quantized) for name in MODULES}
        transformer = modules["transformer"]
        grow_input_embedder(transformer)
        lora = _draw_lora(transformer, self._shape.rank, placement)
        master = DrawnWeights("transformer", self._shape.module("transformer"), placement)
        control_lora = ControlLora(transformer, lora, master, "none", placement.device)
        control_lora.set_scale(CONTROL_SCALE)
        return Model(
            id=f"random/{self._name}",
            files=_files(self._name),
            placement=placement,
            tokenizer=_tokenizer("tokenizer", 77),
            tokenizer_2=_tokenizer("tokenizer_2", self._shape.text_tokens),
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(dict(SCHEDULER)),
            control_lora=control_lora,
            **modules,
        )

    def resolve(self, profile: str, settings: Mapping[str, Any]) -> ResolvedSettings:
        """A profile's settings."""
        return resolve_settings(profile, environment=os.environ, arguments=settings)

    def engine(self, profile: str, settings: Mapping[str, Any], placement: Placement) -> Engine:
        """An engine around a model of its own, as `load` would make it from files."""
        resolved = self.resolve(profile, settings)
        values = resolved.values
        check_switches(values, placement)
        model = self.model(placement, choose_quantization(values.quantize, placement).kind)
        place_modulations(model.transformer, values.modulation, placement.device)
        encoders = (model.text_encoder, model.text_encoder_2)
        place_text_encoders(encoders, values.text_encoders, placement.device)
        return engine_of(resolved, model, None)

    def _drawn(self, name: str, placement: Placement, quantized: Kind) -> Any:
        """A component with its weights drawn where it runs; quantized ones are still to be set."""
        module: Any = self._shape.module(name)
        weights = DrawnWeights(name, module, placement)
        if name == "transformer":
            quantize_linears(module, large_linears(module), quantized, placement)
        tensors = {
            key: weights.read(key)
            for key, parameter in module.named_parameters()
            if not is_quantized(parameter)
        }
        module.load_state_dict(tensors, strict=False, assign=True)
        if hasattr(module, "tie_weights"):
            module.tie_weights()
        # Buffers, which are made with the module and not drawn.
        return module.to(placement.device).requires_grad_(False)


class DrawnWeights:
    """A module's tensors by name, drawn anew whenever they are read: the unfused master."""

    def __init__(self, component: str, module: nn.Module, placement: Placement) -> None:
        """Know the shapes of a module that is not grown for the control."""
        self._component = component
        self._placement = placement
        self._shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}

    def read(self, name: str) -> torch.Tensor:
        """A tensor in the run's dtype, on its device."""
        return draw(f"{self._component}/{name}", self._shapes[name], self._placement)


def draw(key: str, shape: tuple[int, ...], placement: Placement) -> torch.Tensor:
    """N(0, 0.02) of a shape; a norm's weight, 1-D, lies around 1 instead of 0."""
    generator = torch.Generator(placement.device).manual_seed(zlib.crc32(f"{SEED}/{key}".encode()))
    noise = torch.randn(
        shape, generator=generator, device=placement.device, dtype=placement.dtype
    ).mul_(DEVIATION)
    return noise.add_(1) if len(shape) == 1 and key.endswith(".weight") else noise


def source_of(name: str) -> Source:
    """The source of a model by its name in the plan."""
    if name == "demo":
        return DemoSource()
    return RandomSource(name, {"full": FULL, "small": SMALL}[name])


def _outline(modules: Mapping[str, Any], text_tokens: int) -> Outline:
    """The outline of modules on the meta device."""
    parameters = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in modules.items()
    }
    parameters["modulation"] = sum(
        parameter.numel()
        for name, parameter in modules["transformer"].named_parameters()
        if MODULATION.search(name)
    )
    levels = len(modules["vae"].config.block_out_channels)
    return Outline(dict(modules["transformer"].config), parameters, text_tokens, 2**levels)


def _draw_lora(transformer: Any, rank: int, placement: Placement) -> LoraTensors:
    """A control LoRA of all linears and all q/k norms, for a grown transformer.

    On the host, where a LoRA's file is mapped: it is no part of what a model holds on the device.
    """

    def drawn(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        return draw(f"lora/{key}", shape, placement).cpu()

    linears = {
        name: Factors(
            down=drawn(f"{name}.down", (rank, module.in_features)),
            up=drawn(f"{name}.up", (module.out_features, rank)),
            bias=drawn(f"{name}.bias", (module.out_features,)),
        )
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }
    norms = {
        f"{name}.weight": drawn(f"{name}.weight", tuple(module.weight.shape))
        for name, module in transformer.named_modules()
        if isinstance(module, nn.RMSNorm)
    }
    return LoraTensors(Path("random"), linears, norms)


class _NoFiles(ModelFiles):
    """Stands where a model's files are expected; the weights' identity is their seed."""

    @cached_property
    def sha256(self) -> dict[str, str]:
        """What tells this model's components from others'."""
        names = (*self.components, "control_lora")
        keys = {name: f"{SEED}/{self.control_lora}/{name}" for name in names}
        return {name: hashlib.sha256(key.encode()).hexdigest() for name, key in keys.items()}


def _files(name: str) -> ModelFiles:
    components = {
        kind: Component(KINDS[kind], None, "random", "random weights", config={})
        for kind in MODULES
    }
    return _NoFiles(components, control_lora=Path(name), estimator=None)


def _tokenizer(name: str, length: int) -> Any:
    """The miniature's tokenizer, made to read so many tokens; only their number takes time."""
    component = Component(
        KINDS[name], demo_folder() / name, "random", "", config={"model_max_length": length}
    )
    return load_tokenizer(component)
