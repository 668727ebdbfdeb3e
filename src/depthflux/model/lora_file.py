"""A LoRA's file → factors for the transformer's linears, by diffusers' names.

Two kinds are read. A *control* LoRA comes in Black Forest Labs' key layout or in diffusers'; ours
is the conversion of the former, since diffusers 0.42 swaps the halves of `norm_out`'s B (right)
and, along the rank, of its A (wrong: B·A is then not the published delta). *Further* LoRAs come in
every layout that diffusers converts (its own, kohya's, xlabs', fal's).

A file either fits whole or is refused with everything that does not fit; diffusers would drop
such tensors with a warning. Knows nothing of how factors are fused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlPipeline
from safetensors import SafetensorError, safe_open

from depthflux.errors import LoraMismatchError, WeightsCorruptError, first_line, shown_name
from depthflux.model.flux_layout import Origin, Shape, linear_origins, norm_origins
from depthflux.model.headers import header_problem

#: The linear that the control's latents enter by, next to the picture's.
INPUT_EMBEDDER = "x_embedder"
#: Where diffusers and peft leave an adapter's configuration in a file's metadata.
ADAPTER_METADATA = "lora_adapter_metadata"
#: No more problems than this are listed; a file for another model has thousands.
MOST_PROBLEMS = 100
TRANSFORMER = "transformer."


@dataclass(frozen=True)
class Factors:
    """What a LoRA adds to one linear: scaling · (up · down), and scaling · bias to its bias.

    Attributes:
        down: A, [rank, in].
        up: B, [out, rank].
        bias: [out], or None.
        scaling: alpha over rank, 1 where the file states no alpha.
    """

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None = None
    scaling: float = 1.0


@dataclass(frozen=True)
class LoraTensors:
    """A LoRA that fits the transformer.

    Attributes:
        path: its file.
        linears: factors by the linears' names in diffusers' transformer.
        norms: the q/k norms' weights that a control LoRA brings, by parameter name, [head width].
    """

    path: Path
    linears: dict[str, Factors] = field(repr=False)
    norms: dict[str, torch.Tensor] = field(repr=False, default_factory=dict)


def read_control_lora(path: Path, transformer: Any, *, compat: str) -> LoraTensors:
    """Read the control LoRA for a transformer that has not been grown for it yet.

    Args:
        path: a safetensors file.
        transformer: diffusers' FluxTransformer2DModel; may be on the meta device.
        compat: `none` for the definition, `diffusers` for diffusers' own conversion of the file.

    Raises:
        WeightsCorruptError: it is no safetensors file or has non-finite numbers.
        LoraMismatchError: its tensors do not fit the transformer, or it is no control LoRA.
    """
    tensors, metadata = _read(path)
    left_over: list[str] = []
    if "img_in.lora_A.weight" in tensors:
        if compat == "diffusers":
            tensors, _ = _converted_by_diffusers(tensors, path, fix=_CONTROL_FIX)
        else:
            tensors, left_over = _converted(tensors, Shape.of(transformer.config))
    problems = [f"{shown_name(key)} has no place there" for key in left_over]
    problems += _problems(tensors, transformer, control=True)
    if problems:
        raise _misfit(path, "a control LoRA", problems, fix=_CONTROL_FIX)
    return LoraTensors(path, _by_linear(tensors, _scalings(tensors, {}, metadata)), _norms(tensors))


def read_lora(path: Path, transformer: Any) -> LoraTensors:
    """Read a further LoRA, in any layout that diffusers converts.

    Args:
        path: a safetensors file.
        transformer: diffusers' FluxTransformer2DModel, grown for the control or not.

    Raises:
        WeightsCorruptError: it is no safetensors file or has non-finite numbers.
        LoraMismatchError: its tensors do not fit the transformer, it is a control LoRA, it has
            parts for text encoders, or it is of a kind that is more than a LoRA.
    """
    tensors, metadata = _read(path)
    strange = sorted({kind for key in tensors for kind in _OTHER_KINDS if kind in key})
    if strange:
        problem = f"it is no plain LoRA (it has {', '.join(strange)} tensors)"
        raise _misfit(path, "a further LoRA", [problem], fix=_FURTHER_FIX)
    converted, alphas = _converted_by_diffusers(tensors, path, fix=_FURTHER_FIX)
    text = [key for key in converted if key.startswith("text_encoder")]
    problems = [f"{len(text)} of its tensors are for text encoders"] if text else []
    fitting = {key: tensor for key, tensor in converted.items() if key not in set(text)}
    problems += _problems(fitting, transformer, control=False)
    if problems:
        raise _misfit(path, "a further LoRA", problems, fix=_FURTHER_FIX)
    linears = _by_linear(fitting, _scalings(fitting, alphas, metadata))
    return LoraTensors(path, linears)


_CONTROL_FIX = "Use FLUX.1-Depth-dev-lora with FLUX.1-dev."
_FURTHER_FIX = "Use a LoRA that was trained for FLUX.1-dev's transformer alone."
#: Parts of key names that tell DoRA, LoHa, LoKr, OFT and whole differences from LoRA.
_OTHER_KINDS = ("dora_scale", "hada_w", "lokr_w", "oft_", ".diff")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A file's tensors, memory-mapped, and its metadata."""
    if problem := header_problem(path):
        raise WeightsCorruptError(problem)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {str(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsCorruptError(f"{path} cannot be read: {first_line(error)}.") from error
    broken = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if broken:
        raise WeightsCorruptError(f"{path} has non-finite numbers in {_listed(broken)}.")
    return tensors, metadata


def _converted(
    tensors: Mapping[str, torch.Tensor], shape: Shape
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Black Forest Labs' tensors by diffusers' names, and the keys that have no place.

    Output rows are rows of B and of the bias: cutting and swapping those, and A never, keeps B·A.
    """
    converted: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    for name, origin in linear_origins(shape).items():
        for part in ("lora_A.weight", "lora_B.weight", "lora_B.bias"):
            key = f"{origin.module}.{part}"
            if key in tensors:
                used.add(key)
                rows = tensors[key] if part == "lora_A.weight" else _rows(tensors[key], origin)
                converted[f"{TRANSFORMER}{name}.{part}"] = rows
    for name, origin in norm_origins(shape).items():
        key = f"{origin.module}.scale"
        if key in tensors:
            used.add(key)
            converted[f"{TRANSFORMER}{name}.weight"] = tensors[key]
    return converted, sorted(tensors.keys() - used)


def _rows(tensor: torch.Tensor, origin: Origin) -> torch.Tensor:
    if origin.rows is not None:
        tensor = tensor[slice(*origin.rows)]
    return torch.cat(tensor.chunk(2)[::-1]) if origin.swapped else tensor


def _converted_by_diffusers(
    tensors: dict[str, torch.Tensor], path: Path, *, fix: str
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What diffusers makes of a file: tensors by its names, and alphas where there are any."""
    try:
        converted, alphas = FluxControlPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    except (ValueError, RuntimeError, KeyError, IndexError, NotImplementedError) as error:
        problem = f"diffusers cannot convert it ({first_line(error)})"
        raise _misfit(path, "a LoRA", [problem], fix=fix) from error
    return converted, {key: float(alpha) for key, alpha in (alphas or {}).items()}


def _problems(
    tensors: Mapping[str, torch.Tensor], transformer: torch.nn.Module, *, control: bool
) -> list[str]:
    """Everything about tensors in diffusers' names that does not fit the transformer."""
    linears = {n: m for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)}
    norms = {n for n, _ in transformer.named_parameters() if ".norm_" in n and "linear" not in n}
    problems = []
    if control and f"{TRANSFORMER}{INPUT_EMBEDDER}.lora_A.weight" not in tensors:
        problems.append(f"it has nothing for {INPUT_EMBEDDER}, so it takes no control image")
    if not tensors:
        problems.append("it has no tensors for the transformer")
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix(TRANSFORMER).partition(".lora_")
        if part and name in linears:
            grown = control and name == INPUT_EMBEDDER
            fits = _factor_fits(part, tensor, linears[name], grown=grown)
            fits = fits and _factor_is_paired(key, tensor, tensors)
        else:
            here = transformer.get_parameter(name).shape if name in norms else None
            fits = control and not part and tensor.shape == here
        if not fits:
            problems.append(f"{shown_name(key)} {list(tensor.shape)} fits nothing there")
    return problems


def _factor_fits(part: str, tensor: torch.Tensor, linear: torch.nn.Linear, *, grown: bool) -> bool:
    """Whether a factor has a linear's shape; a control LoRA's input embedder is twice as wide."""
    if part == "A.weight":
        width = linear.in_features * (2 if grown else 1)
        return tensor.ndim == 2 and tensor.shape[1] == width
    if part == "B.weight":
        return tensor.ndim == 2 and tensor.shape[0] == linear.out_features
    return part == "B.bias" and tensor.shape == (linear.out_features,)


def _factor_is_paired(key: str, tensor: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether A and B are both there and of one rank; a bias goes with both."""
    stem = key.rpartition(".lora_")[0]
    down, up = (tensors.get(f"{stem}.lora_{factor}.weight") for factor in "AB")
    if down is None or up is None:
        return False
    return tensor.ndim != 2 or (up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0])


def _by_linear(
    tensors: Mapping[str, torch.Tensor], scalings: Mapping[str, float]
) -> dict[str, Factors]:
    """Tensors in diffusers' names, put together for each linear."""
    return {
        name: Factors(
            down=tensors[f"{TRANSFORMER}{name}.lora_A.weight"],
            up=tensors[f"{TRANSFORMER}{name}.lora_B.weight"],
            bias=tensors.get(f"{TRANSFORMER}{name}.lora_B.bias"),
            scaling=scalings.get(name, 1.0),
        )
        for name in _names(tensors)
        if f"{TRANSFORMER}{name}.lora_B.weight" in tensors
    }


def _names(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """The linears that tensors in diffusers' names are for."""
    ending = ".lora_A.weight"
    for key in tensors:
        if key.endswith(ending):
            yield key.removeprefix(TRANSFORMER).removesuffix(ending)


def _norms(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(TRANSFORMER): t for k, t in tensors.items() if ".lora_" not in k}


def _scalings(
    tensors: Mapping[str, torch.Tensor], alphas: Mapping[str, float], metadata: Mapping[str, str]
) -> dict[str, float]:
    """Each linear's alpha over rank, from alpha tensors or from the adapter's configuration."""
    config = _adapter_config(metadata)
    scalings = {}
    for name in _names(tensors):
        rank = tensors[f"{TRANSFORMER}{name}.lora_A.weight"].shape[0]
        alpha = alphas.get(f"{TRANSFORMER}{name}.alpha")
        if alpha is None and config:
            alpha = config.get("alpha_pattern", {}).get(name, config.get("lora_alpha", rank))
        root = rank**0.5 if config.get("use_rslora") else rank
        scalings[name] = 1.0 if alpha is None else float(alpha) / root
    return scalings


def _adapter_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The transformer's part of the configuration that peft wrote into the file."""
    try:
        config = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    return {k.removeprefix(TRANSFORMER): v for k, v in config.items() if k.startswith(TRANSFORMER)}


def _misfit(path: Path, what: str, problems: list[str], *, fix: str) -> LoraMismatchError:
    return LoraMismatchError(
        f"{path} does not fit the transformer as {what}: {_listed(problems, '; ')}.", fix=fix
    )


def _listed(items: list[str], separator: str = ", ") -> str:
    shown = items[:MOST_PROBLEMS]
    more = len(items) - len(shown)
    return separator.join([*shown, f"and {more} more"] if more else shown)
