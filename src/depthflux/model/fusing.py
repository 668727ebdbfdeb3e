"""Deltas fused into a module's linears, from unfused weights that are never touched.

Whatever was fused before, a linear's weights become W + Σ scale · (B·A), bias likewise, where W is
read anew from the master. So any sequence of changes ends where a fresh fuse ends, to the bit.
peft does each merge, on a linear of its own; its wrappers never enter the module, whose linears
keep their place in memory, so that nothing recompiles. A quantized weight is rounded from that
same sum, and a weight may lie on another device than the one that sums are computed on.

Knows nothing of what the deltas mean, or which files they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional

from depthflux.model.lora_file import Factors
from depthflux.model.quantization import is_quantized, write_weight

_ADAPTER = "fused"
_LINEAR = "linear"
#: Host memory is taken in blocks of this size.
BLOCK_BYTES = 2**30
#: Where a tensor may begin in a block: what any dtype and any copy engine is content with.
ALIGNMENT = 256


class Delta(NamedTuple):
    """One LoRA's part in one linear.

    Attributes:
        lora: what tells this LoRA from others, such as its file's sha256.
        factors: its A and B.
        scale: how much of it; 0 is none.
    """

    lora: str
    factors: Factors
    scale: float


class Weights(Protocol):
    """Unfused tensors by the module's names."""

    def read(self, name: str) -> torch.Tensor:
        """A tensor in its own dtype on any device, not to be written to."""


class HeldWeights:
    """Unfused tensors kept in memory instead of being read from a file again."""

    def __init__(self, source: Weights, names: Iterable[str], device: torch.device) -> None:
        """Copy the named tensors to a device; on the CPU they are pinned where there is CUDA."""
        read = {name: source.read(name) for name in names}
        if device.type == "cpu":
            self._tensors = packed(read, pin=torch.cuda.is_available())
        else:
            self._tensors = {name: tensor.to(device, copy=True) for name, tensor in read.items()}

    def read(self, name: str) -> torch.Tensor:
        """A tensor as it was kept."""
        return self._tensors[name]


def packed(tensors: Mapping[str, torch.Tensor], *, pin: bool) -> dict[str, torch.Tensor]:
    """Copies of tensors, many in one block of host memory.

    torch rounds each pinned block up to a power of two, which would cost half as much again for
    tensors of FLUX's sizes, one by one.
    """
    copies: dict[str, torch.Tensor] = {}
    left = sum(_aligned(tensor) for tensor in tensors.values())
    block, used = torch.empty(0, dtype=torch.uint8), 0
    for name, tensor in tensors.items():
        if used + _aligned(tensor) > len(block):
            size = max(min(BLOCK_BYTES, left), _aligned(tensor))
            block, used = torch.empty(size, dtype=torch.uint8, pin_memory=pin), 0
        copies[name] = block[used : used + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies[name].copy_(tensor)
        used += _aligned(tensor)
        left -= _aligned(tensor)
    return copies


def _aligned(tensor: torch.Tensor) -> int:
    """A tensor's bytes, up to where the next one may begin."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


class FusedLinears:
    """A module's linears and what is fused into each.

    Attributes:
        master: where the unfused weights are read from.
    """

    def __init__(
        self,
        module: nn.Module,
        master: Weights,
        *,
        dtype: torch.dtype | None,
        device: torch.device | None = None,
    ) -> None:
        """Take over a module whose weights equal the master's, but for grown inputs.

        Quantized weights need not equal anything: the first `fuse` writes all of them.

        Args:
            module: with linears whose weights are plain, quantized, or empty: on the meta device
                in the dtype that they would have. Those are fused when they are asked for.
            master: unfused tensors; a linear that takes more inputs than they have is grown by
                zeros.
            dtype: what delta and sum are computed in before they are rounded, once, to what the
                weights hold; None for the weights' own dtype.
            device: where they are computed; None for where each weight lies.
        """
        self.master = master
        self._module = module
        self._dtype = dtype
        self._device = device
        self._wanted: Mapping[str, Sequence[Delta]] = {}
        self._fused: dict[str, tuple[tuple[str, float], ...] | None] = {
            name.removesuffix(".weight"): None
            for name, weight in module.named_parameters()
            if is_quantized(weight)
        }

    def fuse(self, wanted: Mapping[str, Sequence[Delta]]) -> int:
        """Bring the linears to the wanted deltas; those that have them already are left alone.

        Args:
            wanted: deltas in order by the linears' names; linears not named here get none.

        Returns:
            How many linears were changed.
        """
        self._wanted = wanted
        changed = 0
        for name in sorted({*wanted, *self._fused}):
            deltas = [delta for delta in wanted.get(name, ()) if delta.scale != 0]
            now = tuple((delta.lora, delta.scale) for delta in deltas)
            if self._fused.get(name, ()) == now:
                continue
            # An interrupted change leaves a linear that equals nothing, never one taken for whole.
            self._fused[name] = None
            self._fuse(name, deltas)
            self._fused[name] = now
            changed += 1
        return changed

    def take_as_fused(self, fused: Mapping[str, Sequence[Delta]]) -> None:
        """Believe that the module's weights have these deltas already: they were loaded so."""
        self._wanted = fused
        self._fused = {
            name: tuple((delta.lora, delta.scale) for delta in deltas if delta.scale != 0)
            for name, deltas in fused.items()
        }

    def linear(self, name: str) -> nn.Linear:
        """A linear with what is fused into it now.

        Returns:
            The module's own; where that one is empty, on the meta device, one of the same numbers
            that is made anew on the device where sums are computed and belongs to the caller.
        """
        own: Any = self._module.get_submodule(name)
        if not own.weight.is_meta:
            linear: nn.Linear = own
            return linear
        deltas = [delta for delta in self._wanted.get(name, ()) if delta.scale != 0]
        return self._fused_anew(name, own, deltas).to(own.weight.dtype)

    def _fuse(self, name: str, deltas: Sequence[Delta]) -> None:
        target: Any = self._module.get_submodule(name)
        if target.weight.is_meta:
            return
        scratch = self._fused_anew(name, target, deltas)
        write_weight(target.weight, scratch.weight)
        if target.bias is not None:
            target.bias.data.copy_(scratch.bias.data)

    def _fused_anew(self, name: str, target: Any, deltas: Sequence[Delta]) -> nn.Linear:
        """A linear of the target's shape with master and deltas, in the dtype of the sum."""
        dtype = target.weight.dtype
        if deltas or is_quantized(target.weight):
            dtype = self._dtype or dtype
        scratch = self._unfused(name, target, dtype)
        for delta in deltas:
            _merge(scratch, delta)
        return scratch

    def _unfused(self, name: str, target: nn.Linear, dtype: torch.dtype) -> nn.Linear:
        """A linear of the target's shape with a copy of the master's weights."""
        linear = nn.Linear(
            target.in_features, target.out_features, bias=target.bias is not None, device="meta"
        )
        device = self._device or target.weight.device
        for part, _ in target.named_parameters():
            master = self.master.read(f"{name}.{part}")
            # copy: without it the scratch could be the mapped file, and fusing would write to it.
            tensor = master.to(device, dtype, copy=True)
            missing = target.in_features - tensor.shape[-1] if part == "weight" else 0
            if missing:
                tensor = functional.pad(tensor, (0, missing))
            setattr(linear, part, nn.Parameter(tensor, requires_grad=False))
        return linear


def _merge(linear: nn.Linear, delta: Delta) -> None:
    """Add a delta to a linear's weights in place, through peft, in the linear's dtype."""
    factors = delta.factors
    holder = nn.ModuleDict({_LINEAR: linear})
    config = LoraConfig(
        r=factors.down.shape[0],
        lora_alpha=factors.down.shape[0],
        target_modules=[_LINEAR],
        lora_bias=factors.bias is not None,
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, holder, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    layer: Any = holder[_LINEAR]
    grown = linear.in_features - factors.down.shape[1]
    down = functional.pad(factors.down, (0, grown)) if grown else factors.down
    layer.lora_A[_ADAPTER].weight = _as_parameter(down, linear.weight)
    layer.lora_B[_ADAPTER].weight = _as_parameter(factors.up, linear.weight)
    if factors.bias is not None:
        layer.lora_B[_ADAPTER].bias = _as_parameter(factors.bias, linear.weight)
    layer.scaling[_ADAPTER] = delta.scale * factors.scaling
    layer.merge(adapter_names=[_ADAPTER])


def _as_parameter(tensor: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.to(like.device, like.dtype), requires_grad=False)
