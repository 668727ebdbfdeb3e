"""The vectors that modulate every block in every step, computed once before the loop.

FLUX's blocks shift, scale and gate their tokens by vectors that depend on the noise level, the
guidance and the prompt, never on the picture. Their linears hold 3.25 of FLUX's 11.9 billion
parameters and serve one row a step; here all steps go through them at once, in float32. For FLUX
and 28 steps the vectors are 118 MB, and the linears need not stay on the device.

Source of the formulas: diffusers 0.42's AdaLayerNormZero, AdaLayerNormZeroSingle and
AdaLayerNormContinuous.

Knows nothing of pictures, blocks or the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from depthflux.engine.blocks import DOUBLE_VECTORS, FINAL_VECTORS, SINGLE_VECTORS

#: FLUX's timesteps and guidance are embedded as thousandths.
EMBEDDED_UNITS = 1000
#: Where the scales stand among the vectors of each kind of linear, to which 1 is added.
DOUBLE_SCALES, SINGLE_SCALES = (1, 4), (1,)


@dataclass(frozen=True)
class StepModulation:
    """One step's vectors, float32; views of what is kept for all steps.

    Attributes:
        image: for each double block [6, d].
        text: likewise.
        single: for each single block [3, d].
        final: of the last layer, shift and 1 + scale, [2, d].
    """

    image: list[torch.Tensor]
    text: list[torch.Tensor]
    single: list[torch.Tensor]
    final: torch.Tensor


@torch.no_grad()
def compute_modulations(
    transformer: Any,
    pooled: torch.Tensor,
    guidance_scale: float,
    timesteps: torch.Tensor,
    linear_of: Callable[[str], nn.Linear] | None = None,
) -> list[StepModulation]:
    """The vectors of all blocks for all steps.

    Args:
        transformer: diffusers' FluxTransformer2DModel; its modulation linears may lie on the CPU
            while the rest is on a device, or be empty.
        pooled: CLIP's pooled vector, [1, pooled width], on the device.
        guidance_scale: the request's; not used by a model without that input.
        timesteps: float32 [steps], 1000 times the noise level.
        linear_of: gives a modulation linear by its name; without it, the transformer's own. Each is
            asked for once and let go of before the next.

    Returns:
        One entry a step.
    """
    linear_of = linear_of or transformer.get_submodule
    embedded = functional.silu(_embed(transformer, pooled, guidance_scale, timesteps))
    image: list[torch.Tensor] = []
    text: list[torch.Tensor] = []
    for i in range(len(transformer.transformer_blocks)):
        for vectors, name in ((image, "norm1"), (text, "norm1_context")):
            linear = linear_of(f"transformer_blocks.{i}.{name}.linear")
            vectors.append(compute_vectors(linear, embedded, DOUBLE_VECTORS, DOUBLE_SCALES))
    single = [
        compute_vectors(
            linear_of(f"single_transformer_blocks.{i}.norm.linear"),
            embedded,
            SINGLE_VECTORS,
            SINGLE_SCALES,
        )
        for i in range(len(transformer.single_transformer_blocks))
    ]
    # The last layer has its scale first; here the shift is first everywhere.
    last = compute_vectors(linear_of("norm_out.linear"), embedded, FINAL_VECTORS, (0,)).flip(1)
    # Detached, since torch.compile looks through a view at the tensor behind it, and would make
    # other graphs for a run of one step.
    return [
        StepModulation(
            image=[vectors[step].detach() for vectors in image],
            text=[vectors[step].detach() for vectors in text],
            single=[vectors[step].detach() for vectors in single],
            final=last[step],
        )
        for step in range(len(timesteps))
    ]


def modulation_linears(transformer: Any) -> Iterator[tuple[str, nn.Linear]]:
    """The linears behind the vectors, by name: 3.25 billion of FLUX's parameters."""
    for i, block in enumerate(transformer.transformer_blocks):
        yield f"transformer_blocks.{i}.norm1.linear", block.norm1.linear
        yield f"transformer_blocks.{i}.norm1_context.linear", block.norm1_context.linear
    for i, block in enumerate(transformer.single_transformer_blocks):
        yield f"single_transformer_blocks.{i}.norm.linear", block.norm.linear
    yield "norm_out.linear", transformer.norm_out.linear


def _embed(
    transformer: Any, pooled: torch.Tensor, guidance_scale: float, timesteps: torch.Tensor
) -> torch.Tensor:
    """Noise level, guidance and prompt in one vector a step, float32 [steps, d].

    diffusers' own module, called with its weights in float32: in bfloat16 the timestep 3500 would
    be embedded as 3504.
    """
    module = transformer.time_text_embed
    weights = {name: tensor.float() for name, tensor in module.named_parameters()}
    count = len(timesteps)
    # In diffusers' order of operations, which leaves the timestep's last bit its own.
    inputs = [timesteps / EMBEDDED_UNITS * EMBEDDED_UNITS]
    if transformer.config.guidance_embeds:
        inputs.append(torch.full_like(timesteps, guidance_scale) * EMBEDDED_UNITS)
    inputs.append(pooled.float().expand(count, -1))
    embedded: torch.Tensor = torch.func.functional_call(module, weights, tuple(inputs))
    return embedded


def compute_vectors(
    linear: nn.Linear, embedded: torch.Tensor, count: int, scales: tuple[int, ...]
) -> torch.Tensor:
    """A linear's vectors for all steps, float32 [steps, count, d], 1 added to the scales."""
    # From pinned memory this is queued like any kernel; the next linear's copy follows at once.
    weight = linear.weight.to(embedded.device, non_blocking=True).float()
    bias = linear.bias.to(embedded.device, non_blocking=True).float()
    vectors = functional.linear(embedded, weight, bias).unflatten(-1, (count, -1))
    for scale in scales:
        vectors[:, scale] += 1
    return vectors
