"""The depth control LoRA: attached and fused through peft, brought to any scale exactly.

diffusers grows the input embedder (64 → 128 channels for FLUX: the control's packed latents stand
behind the picture's) and injects peft's LoRA layers. The layers are then taken out of the forward
path again, so that denoising runs on plain linears, and kept aside to compute
`W(s) = W + s · (B·A)`, bias likewise, whenever another scale is asked for.

Each change starts from a pristine copy of W, in host memory. Fusing and unfusing in place would
lose bits in bfloat16, and diffusers' `fuse_lora(lora_scale=s)` multiplies the scales of repeated
calls. Here any sequence of scales ends where a fresh fuse ends; a test shows both dtypes.

As in diffusers, the q/k norms that a control LoRA brings replace the base model's at every scale;
with a LoRA that brings them, scale 0 is therefore not quite the base model.

Knows nothing of what the transformer computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlPipeline
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from depthflux.errors import LoraMismatchError, WeightsCorruptError, first_line
from depthflux.model.headers import header_problem

ADAPTER = "control"
#: The linear that the control's latents enter by, next to the picture's.
INPUT_EMBEDDER = "x_embedder"


@dataclass
class _FusedLayer:
    """One linear of the transformer, the peft layer that knows its delta, and its base weights."""

    lora: LoraLayer
    scaling: float
    weight: torch.Tensor
    bias: torch.Tensor | None

    def fuse(self, scale: float) -> None:
        """Make the linear's weights W + scale · delta, in place, W being the pristine copy."""
        linear = self.lora.get_base_layer()
        linear.weight.data.copy_(self.weight)
        if self.bias is not None:
            linear.bias.data.copy_(self.bias)
        self.lora.merged_adapters.clear()
        self.lora.scaling[ADAPTER] = scale * self.scaling
        if scale != 0:
            self.lora.merge(adapter_names=[ADAPTER])


@dataclass
class ControlLora:
    """The control LoRA of one transformer.

    Attributes:
        scale: the control scale that the weights have now; None before the first `set_scale`.
        layers: the fused linears by their names in the transformer.
    """

    path: Path
    layers: dict[str, _FusedLayer] = field(repr=False)
    scale: float | None = None

    def set_scale(self, scale: float) -> None:
        """Bring the transformer's weights to a control scale, in place.

        Args:
            scale: 0 to 2; at 0 the linears have the base model's weights.
        """
        if scale == self.scale:
            return
        self.scale = None  # an interrupted change leaves no scale that could be trusted
        with torch.no_grad():
            for layer in self.layers.values():
                layer.fuse(scale)
        self.scale = scale

    def delta_weight(self, name: str) -> torch.Tensor:
        """Peft's own delta of one linear at the present scale, [out, in]."""
        return self.layers[name].lora.get_delta_weight(ADAPTER)


def attach_control_lora(components: Mapping[str, Any], path: Path) -> ControlLora:
    """Grow the transformer for the control's channels and attach the LoRA's layers to it.

    Args:
        components: the pipeline's modules by diffusers' names; the transformer is changed.
        path: the LoRA's safetensors file, in Black Forest Labs' or diffusers' key layout.

    Raises:
        WeightsCorruptError: the file is no safetensors file or has non-finite numbers.
        LoraMismatchError: its tensors do not fit the transformer, or it is no control LoRA.
    """
    transformer = components["transformer"]
    if problem := header_problem(path):
        raise WeightsCorruptError(problem)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsCorruptError(f"{path} cannot be read: {error}.") from error
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise WeightsCorruptError(f"{path} has non-finite numbers in {', '.join(broken)}.")
    pipeline = FluxControlPipeline(**components)
    try:
        tensors = pipeline.lora_state_dict(tensors)  # into diffusers' names and layout
        problems = _tensor_problems(transformer, tensors)
        if not problems:
            pipeline.load_lora_weights(tensors, adapter_name=ADAPTER)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        problems = [first_line(error)]
    if problems:
        raise LoraMismatchError(
            f"{path} does not fit the transformer as a control LoRA: {'; '.join(problems)}.",
            fix="Use FLUX.1-Depth-dev-lora with FLUX.1-dev.",
        )
    return ControlLora(path, _take_out_of_forward_path(transformer))


def _tensor_problems(
    transformer: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> list[str]:
    """Everything about a LoRA's tensors that does not fit; diffusers would drop it with a warning.

    Args:
        transformer: not yet grown for the control.
        tensors: in diffusers' names, `transformer.<linear>.lora_A.weight` [rank, in] and
            `.lora_B.weight` [out, rank] and `.lora_B.bias` [out], and q/k norms' weights.
    """
    linears = {n: m for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)}
    parameters = dict(transformer.named_parameters())
    problems = (
        []
        if f"transformer.{INPUT_EMBEDDER}.lora_A.weight" in tensors
        else [f"it has nothing for {INPUT_EMBEDDER}, so it takes no control image"]
    )
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix("transformer.").partition(".lora_")
        if part and name in linears:
            linear = linears[name]
            width = linear.in_features * (2 if name == INPUT_EMBEDDER else 1)
            fits = {
                "A.weight": tensor.ndim == 2 and tensor.shape[1] == width,
                "B.weight": tensor.ndim == 2 and tensor.shape[0] == linear.out_features,
                "B.bias": tensor.shape == (linear.out_features,),
            }.get(part, False)
        else:
            fits = not part and name in parameters and tensor.shape == parameters[name].shape
        if not fits:
            problems.append(f"{key} {list(tensor.shape)} fits nothing there")
    return problems


def _take_out_of_forward_path(transformer: torch.nn.Module) -> dict[str, _FusedLayer]:
    """Put the plain linears back in the LoRA layers' places and keep the latter aside."""
    layers: dict[str, _FusedLayer] = {}
    wrapped = [(n, m) for n, m in transformer.named_modules() if isinstance(m, LoraLayer)]
    for name, lora in wrapped:
        linear = lora.get_base_layer()
        layers[name] = _FusedLayer(
            lora=lora.requires_grad_(False),
            scaling=lora.scaling[ADAPTER],
            # The pristine copy lies in host memory: a second transformer does not fit most GPUs.
            weight=linear.weight.detach().cpu().clone(),
            bias=linear.bias.detach().cpu().clone() if lora.lora_bias[ADAPTER] else None,
        )
        transformer.set_submodule(name, linear)
    return layers
