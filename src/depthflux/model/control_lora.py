"""The depth control LoRA: the transformer grown for it, and brought to any control scale exactly.

The definition, for a control scale s, in the file's own key layout (then by diffusers' names):

    weight  W + s · (B·A)
    bias    b + s · b_B
    norm    n + s · (n_control - n)     q/k norms, for which the file brings whole weights
    input   the embedder takes the control's packed latents behind the picture's; W is zero there

At s = 0 this is the base model, at s = 1 what the LoRA was trained as. Delta and sum are computed
in float32 and rounded once. With `compat="diffusers"` the law is that of diffusers 0.42: its
conversion of `norm_out`, norms replaced at every scale, sums in the weights' own dtype.

Further LoRAs of a request are fused beside it, in the order of their hashes and scales, so that
the order they were given in changes nothing.

Knows nothing of what the transformer computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depthflux.model.fusing import Delta, FusedLinears, HeldWeights, Weights
from depthflux.model.lora_file import INPUT_EMBEDDER, LoraTensors, read_control_lora
from depthflux.settings import Compat, Master

#: What tells the control LoRA's deltas from further LoRAs', which go by their sha256.
CONTROL = "control"


@dataclass(frozen=True)
class FurtherLora:
    """A LoRA beside the control LoRA.

    Attributes:
        sha256: of its file; orders the LoRAs and tells them apart.
        tensors: its factors, fitting the transformer.
        scale: how much of it is fused.
    """

    sha256: str
    tensors: LoraTensors
    scale: float


class ControlLora:
    """The control LoRA of one transformer, and the further LoRAs beside it.

    Attributes:
        tensors: the control LoRA's.
        compat: whose law it follows, `none` or `diffusers`.
        scale: the control scale that the weights have now; None before the first `set_scale`, and
            after one that was interrupted.
        identity: what tells the weights that the transformer has now from any others it may have:
            the control scale and the further LoRAs' hashes and scales; None as `scale` is.
    """

    def __init__(
        self,
        transformer: Any,
        tensors: LoraTensors,
        master: Weights,
        compat: Compat,
        device: torch.device | None = None,
    ) -> None:
        """Take over a transformer that was grown for the control; see `attach_control_lora`."""
        self.tensors = tensors
        self.compat = compat
        self.scale: float | None = None
        self.identity: tuple[object, ...] | None = None
        self._transformer = transformer
        exact = torch.float32 if compat == "none" else None
        self._linears = FusedLinears(transformer, master, dtype=exact, device=device)

    @property
    def names(self) -> list[str]:
        """The linears that the control LoRA changes."""
        return sorted(self.tensors.linears)

    def linear(self, name: str) -> torch.nn.Linear:
        """One of the transformer's linears with what is fused now, see `FusedLinears.linear`."""
        return self._linears.linear(name)

    def set_scale(self, scale: float, further: Sequence[FurtherLora] = ()) -> int:
        """Bring the transformer's weights to a control scale and further LoRAs, in place.

        Args:
            scale: 0 to 2; at 0 without further LoRAs the weights are the base model's.
            further: in any order.

        Returns:
            How many of the linears were changed.
        """
        ordered = tuple(sorted(further, key=lambda lora: (lora.sha256, lora.scale)))
        self.scale = self.identity = None
        with torch.no_grad():
            changed = self._linears.fuse(self._deltas(scale, ordered))
            self._set_norms(scale)
        self.scale = scale
        self.identity = (scale, *((lora.sha256, lora.scale) for lora in ordered))
        return changed

    def take_as_fused(self, scale: float) -> None:
        """Believe that the weights have a control scale already: they were loaded so."""
        self._linears.take_as_fused(self._deltas(scale, ()))
        self.scale = scale
        self.identity = (scale,)

    def _deltas(self, scale: float, further: Sequence[FurtherLora]) -> dict[str, list[Delta]]:
        """Each linear's deltas, the control's first."""
        deltas = {
            name: [Delta(CONTROL, factors, scale)] for name, factors in self.tensors.linears.items()
        }
        for lora in further:
            for name, factors in lora.tensors.linears.items():
                deltas.setdefault(name, []).append(Delta(lora.sha256, factors, lora.scale))
        return deltas

    def _set_norms(self, scale: float) -> None:
        """The q/k norms' weights at a scale."""
        for name, control in self.tensors.norms.items():
            target = self._transformer.get_parameter(name).data
            if self.compat == "none":
                # lerp gives each end exactly, where n + 1 · (n_control - n) may miss n_control.
                base = self._linears.master.read(name).to(target.device, torch.float32)
                control = torch.lerp(base, control.to(base), scale)
            target.copy_(control)


def attach_control_lora(
    transformer: Any,
    path: Path,
    master: Weights,
    *,
    compat: Compat = "none",
    keep: Master = "file",
    device: torch.device | None = None,
) -> ControlLora:
    """Read the control LoRA and grow the transformer for it; its scale is still to be set.

    Args:
        transformer: diffusers' FluxTransformer2DModel with the master's weights, or on the meta
            device, still to be filled with fused ones; is changed.
        path: the LoRA's safetensors file, in Black Forest Labs' or diffusers' key layout.
        master: the transformer's unfused tensors.
        compat: whose law to follow.
        keep: `file` reads the master again for every change; `host` and `device` keep a copy of
            what the control LoRA changes.
        device: what `device` means, and where deltas are summed; without it, where the weights are.

    Raises:
        WeightsCorruptError: the file is no safetensors file or has non-finite numbers.
        LoraMismatchError: its tensors do not fit the transformer, or it is no control LoRA.
    """
    tensors = read_control_lora(path, transformer, compat=compat)
    if keep != "file":
        home = device or transformer.device
        home = home if keep == "device" else torch.device("cpu")
        # All of them, since further LoRAs may change any.
        names = [name for name, _ in transformer.named_parameters()]
        master = HeldWeights(master, names, home)
    grow_input_embedder(transformer)
    return ControlLora(transformer, tensors, master, compat, device)


def grow_input_embedder(transformer: Any) -> None:
    """Let the transformer take the control's packed latents behind the picture's, with no effect.

    The weight's new columns are zero: 64 → 128 inputs for FLUX.
    """
    old = transformer.get_submodule(INPUT_EMBEDDER)
    grown = torch.nn.Linear(
        2 * old.in_features,
        old.out_features,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    ).requires_grad_(False)
    if old.weight.device.type != "meta":
        grown.weight.zero_()
        grown.weight[:, : old.in_features] = old.weight
        if old.bias is not None:
            grown.bias.copy_(old.bias)
    transformer.set_submodule(INPUT_EMBEDDER, grown)
    transformer.register_to_config(in_channels=grown.in_features)
