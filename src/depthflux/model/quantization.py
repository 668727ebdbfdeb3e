"""The blocks' large linears in 8 bits, through torchao: weights a row, inputs a token, each scaled.

    fp8    float8 e4m3 times float8 e4m3, on GPUs that compute in it
    int8   int8 times int8, elsewhere

A quantized weight is a tensor of torchao's that holds `qdata` and one scale a row. Rows know
nothing of each other, so rows quantized apart equal the whole quantized at once, and several
linears can be packed into one. A weight is written in place from the float32 sum that it stands
for; nothing is rounded to bfloat16 on the way, and compiled blocks keep their addresses.

torchao is an optional part of the installation and imported where it is first needed. Knows
nothing of LoRAs or files.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from depthflux.errors import DeviceError, SettingsError
from depthflux.model.placement import Placement, device_name
from depthflux.settings import Quantize

Kind = Literal["none", "fp8", "int8"]

#: The first GPUs with float8 matrix products, Ada. Source: torch's scaled_mm.
FP8_CAPABILITY = (8, 9)
#: What both kinds' matrix products on CUDA need of a linear's sides. Source: torch's scaled_mm.
SIDE_MULTIPLE = 16
#: Where the transformer's blocks are, in diffusers' names.
BLOCK_LISTS = ("transformer_blocks", "single_transformer_blocks")
#: Largest magnitude that a row is taken to have at least; torchao would divide a row of zeros by
#: zero in fp8.
LEAST_MAGNITUDE = 1e-12
#: What of a quantized weight is kept on disk, after the weight's name.
STORED_PARTS = ("qdata", "scale")


@dataclass(frozen=True)
class Quantization:
    """What the large linears are rounded to.

    Attributes:
        kind: `none` where they stay as they are.
        reason: why, in words.
    """

    kind: Kind
    reason: str

    @property
    def applied(self) -> bool:
        """Whether anything is rounded."""
        return self.kind != "none"


class Tensors(Protocol):
    """Tensors on disk, such as `TensorFiles`."""

    def read(self, name: str) -> torch.Tensor:
        """A tensor in its own dtype, on the CPU."""


def choose_quantization(asked: Quantize, placement: Placement) -> Quantization:
    """What a setting means on this machine; nothing is loaded for it.

    Args:
        asked: `auto` is fp8 where the device computes in it, int8 elsewhere.
        placement: the device, and the dtype that the rest computes in.

    Raises:
        SettingsError: torchao is not installed.
        DeviceError: fp8 was asked for where it cannot be.
    """
    if asked == "none":
        return Quantization("none", "not asked for")
    if importlib.util.find_spec("torchao") is None:
        raise SettingsError(
            f"quantize={asked} needs torchao, which is not installed.",
            fix="Run: pip install 'depthflux[fast]', or use quantize=none.",
        )
    obstacle = _fp8_obstacle(placement)
    if asked == "fp8" and obstacle:
        raise DeviceError(f"quantize=fp8: {obstacle}.", fix="Use quantize=int8 or quantize=none.")
    if asked == "auto":
        if obstacle:
            return Quantization("int8", f"auto: no fp8, {obstacle}")
        return Quantization("fp8", f"auto: {device_name(placement.device)} computes in fp8")
    return Quantization(asked, "as set")


def _fp8_obstacle(placement: Placement) -> str:
    """Why a placement cannot compute in fp8; empty where it can."""
    if placement.device.type != "cuda":
        return f"the {placement.device.type.upper()} does not compute in it"
    if torch.cuda.get_device_capability(placement.device) < FP8_CAPABILITY:
        least = ".".join(map(str, FP8_CAPABILITY))
        return (
            f"{device_name(placement.device)} does not compute in it, which takes compute "
            f"capability {least}"
        )
    if placement.dtype != torch.bfloat16:
        return "it takes dtype=bfloat16"
    return ""


def large_linears(transformer: nn.Module) -> list[str]:
    """The names of the linears in a FLUX transformer's blocks that see every token.

    The modulation's see one row a step; they and all that is outside the blocks are left out.
    """
    return [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and _sees_every_token(name)
    ]


def _sees_every_token(name: str) -> bool:
    top, *path = name.split(".")
    return top in BLOCK_LISTS and not path[1].startswith("norm")


@torch.no_grad()
def quantize_linears(
    module: nn.Module, names: Iterable[str], kind: Kind, placement: Placement
) -> None:
    """Give linears quantized weights of zeros, to be written by `write_weight`; biases stay.

    What they had is let go, so that the unquantized weights need never lie on the device at once.

    Args:
        module: with plain linears, which may be on the meta device.
        names: of the linears.
        kind: `none` changes nothing.
        placement: where the weights go, and what dtype they stand for.

    Raises:
        DeviceError: a linear has sides that the kind's matrix product cannot take.
    """
    if kind == "none":
        return
    for name in names:
        linear: Any = module.get_submodule(name)
        if linear.in_features % SIDE_MULTIPLE or linear.out_features % SIDE_MULTIPLE:
            raise DeviceError(
                f"quantize={kind}: {name} is [{linear.out_features}, {linear.in_features}], and "
                f"{kind} takes multiples of {SIDE_MULTIPLE}.",
                fix="Use quantize=none.",
            )
        zeros = torch.zeros((1, linear.in_features), device=placement.device, dtype=placement.dtype)
        row = _quantized(zeros, kind)
        parts = {part: of.repeat(linear.out_features, 1) for part, of in _parts(row).items()}
        rows = _with_parts(row, parts)
        linear.weight = nn.Parameter(rows, requires_grad=False)


def is_quantized(weight: torch.Tensor) -> bool:
    """Whether a weight is one of `quantize_linears`."""
    return hasattr(weight, "qdata")


@torch.no_grad()
def write_weight(weight: torch.Tensor, values: torch.Tensor) -> None:
    """Write values into a weight in place, rounded once to what it holds.

    Args:
        weight: [out, in], plain or quantized; a view of a packed one's rows, too.
        values: [out, in], on any device.
    """
    if not is_quantized(weight):
        weight.data.copy_(values)
        return
    held: Any = weight
    rounded = _quantized(values, "int8" if held.qdata.dtype == torch.int8 else "fp8")
    for part in STORED_PARTS:
        getattr(held, part).copy_(getattr(rounded, part))


def joined_rows(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weights of one input, plain or quantized, as one: row under row, copied."""
    if not is_quantized(weights[0]):
        return torch.cat([weight.data for weight in weights])
    parts = [_parts(weight) for weight in weights]
    joined = {name: torch.cat([one[name] for one in parts]) for name in parts[0]}
    return _with_parts(weights[0], joined)


def rows_of(weight: torch.Tensor, rows: slice) -> torch.Tensor:
    """Some rows of a weight, plain or quantized, as a view."""
    if not is_quantized(weight):
        return weight.data[rows]
    return _with_parts(weight, {name: part[rows] for name, part in _parts(weight).items()})


def plain_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A module's state without tensors of torchao's: each quantized weight as its two parts."""
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if is_quantized(tensor):
            plain |= {f"{name}.{part}": getattr(tensor, part) for part in STORED_PARTS}
        else:
            plain[name] = tensor
    return plain


@torch.no_grad()
def read_quantized(module: nn.Module, tensors: Tensors) -> None:
    """Write all quantized weights of a module from what `plain_tensors` gave of an equal one."""
    for name, weight in module.named_parameters():
        if is_quantized(weight):
            for part in STORED_PARTS:
                getattr(weight, part).copy_(tensors.read(f"{name}.{part}"))


def _quantized(weight: torch.Tensor, kind: Kind) -> torch.Tensor:
    """A weight rounded row by row, by torchao, on its own device.

    Equals torchao's Int8DynamicActivationInt8WeightConfig and, on weights that have no row of
    zeros, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()).
    """
    from torchao.quantization import Float8MMConfig, Float8Tensor, Int8Tensor, PerRow
    from torchao.quantization.quantize_.common import KernelPreference
    from torchao.quantization.quantize_.workflows import (
        QuantizeTensorToFloat8Kwargs,
        QuantizeTensorToInt8Kwargs,
    )

    if kind == "int8":
        tokens = QuantizeTensorToInt8Kwargs(granularity=PerRow())
        return Int8Tensor.from_hp(weight, granularity=PerRow(), act_quant_kwargs=tokens)
    # TORCH: the same kernels whatever else is installed, and the compiler fuses a token's scale
    # into what computed the token.
    options: dict[str, Any] = {
        "granularity": PerRow(),
        "hp_value_lb": LEAST_MAGNITUDE,
        "kernel_preference": KernelPreference.TORCH,
    }
    tokens = QuantizeTensorToFloat8Kwargs(**options)
    return Float8Tensor.from_hp(
        weight, mm_config=Float8MMConfig(use_fast_accum=True), act_quant_kwargs=tokens, **options
    )


def _parts(weight: Any) -> dict[str, torch.Tensor]:
    """The plain tensors that a quantized weight is made of, each with as many rows as it."""
    names, _ = weight.__tensor_flatten__()
    return {name: getattr(weight, name) for name in names}


def _with_parts(weight: Any, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """A quantized weight like another one, made of other parts."""
    _, attributes = weight.__tensor_flatten__()
    shape = parts["qdata"].shape
    made: torch.Tensor = type(weight).__tensor_unflatten__(parts, attributes, shape, None)
    return made
