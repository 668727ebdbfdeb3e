"""How many bytes of the device's memory a model takes, before any of it is there: arithmetic.

Weights are counted exactly. What a phase needs for a while is a bound from its largest tensors;
each number says where it comes from. What only the device knows, such as a kernel's workspace, is
`RESERVE_BYTES`.

Knows nothing of torch, devices or what is free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depthflux.canvas import Canvas
from depthflux.settings import EngineSettings, Home, Master, Order, TextHome

Phase = Literal["depth", "control_scale", "prompt", "control", "denoise", "decode"]

#: T5's second name for its embedding; an empty module has not tied the two yet.
SECOND_NAME = "encoder.embed_tokens.weight"
MODULATION = re.compile(r"(?:^|\.)(?:norm|norm1|norm1_context|norm_out)\.linear\.(?:weight|bias)$")
BLOCKS = re.compile(r"^(?:single_)?transformer_blocks\.")

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
#: The depth estimator computes in float32 in every profile; a kept master has the files' bfloat16.
FLOAT32_BYTES, MASTER_BYTES = 4, 2
#: What the blocks' large linears take in fp8 or int8; their scales are a thousandth more.
QUANTIZED_BYTES = 1
#: Kernels, matrix libraries' workspaces and the allocator's remnants on a GPU. A guess until it is
#: measured; the CUDA context is not in it, since free memory is asked for after it exists.
RESERVE_BYTES = 500_000_000
#: Tokens' widths alive at once in a block of the loop: 21.0 in a single block, counted on the meta
#: device; the text apart, the control half in float32 and the block's input make the rest.
LOOP_WIDTHS = 26
#: Largest activations alive at once when the autoencoder decodes: three were counted on the meta
#: device. With the convolutions' workspaces 1024x1024 takes 2.4 GB, as diffusers' pipeline takes
#: beside its weights on an H100 (diffusers-torchao's README).
DECODE_ACTIVATIONS = 4.5
#: Likewise when it encodes: five were counted, the rest is a guess.
ENCODE_ACTIVATIONS = 5.5
#: T5's attention scores alive at once: in float32 and twice in the weights' dtype.
SCORES = 4
#: The estimator's activations at its longest side, by the square root of its parameters, with
#: which its widths grow: 0.44 GB for Depth Anything Small, 1.31 GB for Large on the meta device.
ESTIMATOR_BYTES = 90_000
#: Fusing holds a linear's sum, its delta and a product of the delta in float32, and the master's.
FUSING_BYTES = 3 * FLOAT32_BYTES + MASTER_BYTES
#: Requests whose modulations stay on the device (depthflux.engine.constants).
KEPT_MODULATIONS = 2
#: Sides of a decoded tile, in pixels (depthflux.model.offload).
TILE_PIXELS = 512


@dataclass(frozen=True)
class ModelSize:
    """What a model's memory follows from; parameters and other numbers, no bytes.

    Attributes:
        blocks: parameters of the transformer's blocks without their modulation linears.
        modulation: parameters of the modulation linears, norm_out's among them.
        ends: the transformer's other parameters: embedders and last layer.
        text_encoders: parameters of both.
        vae: parameters.
        estimator: parameters; 0 where there is none.
        width: numbers of a token in the blocks, d.
        vectors: numbers that modulate one step.
        largest_linear: parameters of the largest weight that a LoRA may change.
        largest_modulation: of the largest modulation linear's weight.
        largest_text: of the text encoders' largest weight.
        text_tokens: a prompt's length T.
        text_heads: T5's attention heads.
        encode_channels: of the autoencoder's largest activation when it encodes, at full size.
        decode_channels: likewise when it decodes.
        grid: pixels a token is wide.
    """

    blocks: int
    modulation: int
    ends: int
    text_encoders: int
    vae: int
    estimator: int
    width: int
    vectors: int
    largest_linear: int
    largest_modulation: int
    largest_text: int
    text_tokens: int
    text_heads: int
    encode_channels: int
    decode_channels: int
    grid: int

    @property
    def transformer(self) -> int:
        """All of the transformer's parameters."""
        return self.blocks + self.modulation + self.ends


#: FLUX.1-dev grown for the control LoRA, with Depth Anything V2 Small. A test counts it again.
FLUX_SIZE = ModelSize(
    blocks=8_608_715_776,
    modulation=3_247_448_064,
    ends=45_441_088,
    text_encoders=4_885_371_136,
    vae=83_819_683,
    estimator=24_785_089,
    width=3072,
    vectors=1_056_768,
    largest_linear=18_432 * 3072,
    largest_modulation=18_432 * 3072,
    largest_text=32_128 * 4096,
    text_tokens=512,
    text_heads=64,
    encode_channels=128,
    decode_channels=256,
    grid=16,
)


@dataclass(frozen=True)
class Plan:
    """What decides how much of a model is on the device; the part of it that settings state.

    Attributes:
        element_bytes: of a weight and an activation.
        block_bytes: of a weight of the blocks' large linears.
        order: whether the modulations are computed before the loop.
        modulation: where the modulation linears live.
        text_encoders: where the text encoders live.
        vae_tiling: whether pictures are decoded in tiles.
        master: where the unfused weights are kept.
        batch: pictures denoised together.
    """

    element_bytes: int
    block_bytes: int
    order: Order
    modulation: Home
    text_encoders: TextHome
    vae_tiling: bool
    master: Master
    batch: int

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Plan:
        """The plan that settings state."""
        element = ELEMENT_BYTES[settings.dtype]
        return cls(
            element_bytes=element,
            block_bytes=element if settings.quantize == "none" else QUANTIZED_BYTES,
            order=settings.order,
            modulation=settings.modulation,
            text_encoders=settings.text_encoders,
            vae_tiling=settings.vae_tiling,
            master=settings.master,
            batch=settings.max_batch,
        )


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device.

    Attributes:
        resident: what is there all the time, by what it is.
        phases: what each phase needs beside it, for a while.
    """

    resident: Mapping[str, int]
    phases: Mapping[Phase, int]

    @property
    def resident_bytes(self) -> int:
        """What is there all the time."""
        return sum(self.resident.values())

    @property
    def peak_phase(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def peak_bytes(self) -> int:
        """The most that is there at any time."""
        return self.during(self.peak_phase)

    def during(self, phase: Phase) -> int:
        """The most that is there in a phase."""
        return self.resident_bytes + self.phases[phase]


def estimate(
    size: ModelSize, plan: Plan, canvas: Canvas, *, steps: int = 28, reserve: int = RESERVE_BYTES
) -> Footprint:
    """What a model takes on its device.

    Args:
        size: the model's.
        plan: what of it is where.
        canvas: what is painted.
        steps: denoising steps, whose modulations are kept.
        reserve: bytes for what cannot be counted; 0 on the CPU.
    """
    element = plan.element_bytes
    hoisted = plan.order == "hoisted"
    vectors = size.vectors * steps * FLOAT32_BYTES * KEPT_MODULATIONS if hoisted else 0
    resident = {
        "blocks": size.blocks * plan.block_bytes,
        "modulation linears": size.modulation * element if plan.modulation == "device" else 0,
        "embedders and last layer": size.ends * element,
        "text encoders": size.text_encoders * element if plan.text_encoders == "device" else 0,
        "autoencoder": size.vae * element,
        "depth estimator": size.estimator * FLOAT32_BYTES,
        "unfused weights": size.transformer * MASTER_BYTES if plan.master == "device" else 0,
        "modulations": vectors,
        "reserve": reserve,
    }
    return Footprint(resident, _phases(size, plan, canvas))


def _phases(size: ModelSize, plan: Plan, canvas: Canvas) -> dict[Phase, int]:
    element, (width, height) = plan.element_bytes, _painted(canvas)
    pixels = tile = width * height
    if plan.vae_tiling:
        tile = min(width, TILE_PIXELS) * min(height, TILE_PIXELS)
    # Beside the activations the picture itself in float32, and once more while tiles are joined.
    picture = 2 * 3 * pixels * FLOAT32_BYTES
    return {
        "depth": round(ESTIMATOR_BYTES * math.sqrt(size.estimator)),
        "control_scale": size.largest_linear * FUSING_BYTES,
        "prompt": _prompt(size, plan),
        "control": picture + round(size.encode_channels * pixels * element * ENCODE_ACTIVATIONS),
        "denoise": _denoise(size, plan, canvas),
        "decode": picture + round(size.decode_channels * tile * element * DECODE_ACTIVATIONS),
    }


def _prompt(size: ModelSize, plan: Plan) -> int:
    """Encoding a new prompt: attention scores and, from host memory, one weight at a time."""
    if plan.text_encoders == "cpu":
        return 0
    scores = size.text_heads * size.text_tokens**2 * plan.element_bytes * SCORES
    streamed = size.largest_text if plan.text_encoders == "host" else 0
    return scores + streamed * plan.element_bytes


def _denoise(size: ModelSize, plan: Plan, canvas: Canvas) -> int:
    """The loop, or the modulations before it, whichever takes more."""
    width, height = _painted(canvas)
    tokens = size.text_tokens + (width // size.grid) * (height // size.grid)
    loop = LOOP_WIDTHS * tokens * size.width * plan.element_bytes * plan.batch
    if plan.order == "diffusers":
        return loop
    copied = {"device": 0, "host": plan.element_bytes, "file": FUSING_BYTES}[plan.modulation]
    return max(loop, size.largest_modulation * (FLOAT32_BYTES + copied))


def _painted(canvas: Canvas) -> tuple[int, int]:
    return canvas.painted_width, canvas.painted_height


# Counting ----------------------------------------------------------------------------------------


def size_of(modules: Mapping[str, Any], *, estimator: int, text_tokens: int) -> ModelSize:
    """The size of modules, which may be empty ones on the meta device.

    Args:
        modules: diffusers' `transformer` and `vae`, transformers' `text_encoder` and
            `text_encoder_2`.
        estimator: parameters of the depth estimator.
        text_tokens: the model's longest prompt.
    """
    transformer, vae, t5 = modules["transformer"], modules["vae"], modules["text_encoder_2"]
    weights = dict(_counted(transformer))
    modulation = {name: n for name, n in weights.items() if MODULATION.search(name)}
    blocks = sum(n for name, n in weights.items() if BLOCKS.search(name)) - sum(
        n for name, n in modulation.items() if BLOCKS.search(name)
    )
    texts = [n for name in ("text_encoder", "text_encoder_2") for _, n in _counted(modules[name])]
    channels = vae.config.block_out_channels
    config = transformer.config
    return ModelSize(
        blocks=blocks,
        modulation=sum(modulation.values()),
        ends=sum(weights.values()) - blocks - sum(modulation.values()),
        text_encoders=sum(texts),
        vae=sum(n for _, n in _counted(vae)),
        estimator=estimator,
        width=config.num_attention_heads * config.attention_head_dim,
        vectors=sum(n for name, n in modulation.items() if name.endswith("bias")),
        largest_linear=max(weights.values()),
        largest_modulation=max(modulation.values()),
        largest_text=max(texts),
        text_tokens=text_tokens,
        text_heads=t5.config.num_heads,
        encode_channels=channels[0],
        # The last upsampling leaves the next to lowest level's channels at full size.
        decode_channels=channels[min(1, len(channels) - 1)],
        grid=2 ** len(channels),
    )


def _counted(module: Any) -> Iterator[tuple[str, int]]:
    """Each weight's name and number of parameters."""
    return ((n, p.numel()) for n, p in module.named_parameters() if n != SECOND_NAME)
