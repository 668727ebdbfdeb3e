"""The hot loop: from seeds' noise to pictures' latents, with nothing constant computed in it.

A step runs the blocks on tensors that are on the device already; the host only queues kernels and
never waits for them. The latents, their embedding, the velocity and the step along it are float32
in every profile: they are small, and rounding them 28 times would be an error for nothing.

Source of the step: Euler's, along the velocity of rectified flow, arXiv:2209.03003; as diffusers'
FlowMatchEulerDiscreteScheduler takes it.

Knows nothing of prompts, pictures or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from depthflux.engine.blocks import DoubleBlock, SingleBlock, modulated
from depthflux.engine.conditioning import Conditioning
from depthflux.engine.constants import Constants
from depthflux.engine.drawing import draw
from depthflux.engine.finite import check_finite
from depthflux.engine.modulation import StepModulation
from depthflux.model.loading import Model


class HoistedTransformer:
    """A FLUX transformer whose constant work is done before the loop.

    Attributes:
        double: the blocks with a picture's and a text stream.
        single: the blocks over one sequence.
    """

    def __init__(self, transformer: Any) -> None:
        """Take over diffusers' FluxTransformer2DModel, whose blocks' weights are packed."""
        self.double = [DoubleBlock(block) for block in transformer.transformer_blocks]
        self.single = [SingleBlock(block) for block in transformer.single_transformer_blocks]
        self._transformer = transformer

    @property
    def dtype(self) -> torch.dtype:
        """Of the blocks' tokens."""
        dtype: torch.dtype = self._transformer.context_embedder.weight.dtype
        return dtype

    def ends(self, control: torch.Tensor) -> Ends:
        """What a picture's every step begins and ends with.

        Args:
            control: packed control latents, [B, S, 4·C].
        """
        embedder, out = self._transformer.x_embedder, self._transformer.proj_out
        weight = embedder.weight.float()
        channels = weight.shape[1] - control.shape[-1]
        return Ends(
            control=functional.linear(control.float(), weight[:, channels:], embedder.bias.float()),
            embedding=weight[:, :channels].T.contiguous(),
            out_weight=out.weight.float(),
            out_bias=out.bias.float(),
        )

    def velocity(
        self, latents: torch.Tensor, ends: Ends, constants: Constants, step: StepModulation
    ) -> torch.Tensor:
        """One step's velocity, float32 [B, S, 4·C].

        Args:
            latents: packed, float32 [B, S, 4·C].
            ends: of these pictures.
            constants: of the request.
            step: the step's modulation.
        """
        image = torch.add(ends.control, latents @ ends.embedding).to(self.dtype)
        # A copy even for one picture: the first block's text must not be a view, where the later
        # blocks' is none, or torch.compile makes a graph for it alone.
        text = constants.text.repeat(len(latents), 1, 1)
        for double, of_image, of_text in zip(self.double, step.image, step.text, strict=True):
            image, text = double(image, text, of_image, of_text, constants.rope)
        tokens = torch.cat([text, image], dim=1)
        for single, modulation in zip(self.single, step.single, strict=True):
            tokens = single(tokens, modulation, constants.rope)
        shift, scale = step.final.unbind()
        last = modulated(tokens[:, text.shape[1] :].float(), scale, shift)
        return functional.linear(last, ends.out_weight, ends.out_bias)


class Ends(NamedTuple):
    """The first and the last layer of a run, float32.

    Attributes:
        control: what the control latents and the bias add to the embedded latents, [B, S, d].
        embedding: of the picture's latents, [4·C, d].
        out_weight: of the last layer, [4·C, d].
        out_bias: likewise, [4·C].
    """

    control: torch.Tensor
    embedding: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor


def denoise(
    model: Model,
    transformer: HoistedTransformer,
    conditioning: Conditioning,
    constants: Constants,
    seeds: Sequence[int],
    on_step: Callable[[int], None],
) -> torch.Tensor:
    """Denoise pictures together.

    Args:
        model: whose VAE's scale and device count.
        transformer: the model's, hoisted.
        conditioning: what the pictures are conditioned on.
        constants: what the transformer made of it.
        seeds: one a picture, 0 to 9999999999; each draws its control latents and its noise.
        on_step: called after each step with the number of pictures; may raise to stop.

    Returns:
        Packed latents, float32 [B, S, 4·C].

    Raises:
        NonFiniteError: the transformer produced NaN or infinity; the message names the step.
    """
    drawn = [draw(model, conditioning, seed) for seed in seeds]
    latents = torch.cat([noise for noise, _ in drawn]).float()
    ends = transformer.ends(torch.cat([control for _, control in drawn]))
    steps = constants.schedule.steps
    modulations = iter(constants.modulations)
    finite = torch.ones(len(steps), dtype=torch.bool, device=latents.device)
    older = newest = latents
    for number, step in enumerate(steps):
        if step.weight is None:
            older, newest = (
                newest,
                transformer.velocity(latents, ends, constants, next(modulations)),
            )
            velocity = newest
        else:
            velocity = torch.lerp(older, newest, step.weight)
        latents = torch.add(latents, velocity, alpha=step.change)
        finite[number] = torch.isfinite(latents).all()
        on_step(len(seeds))
    check_finite(finite)
    return latents
