"""A LoRA's file → factors for the transformer's linears, by diffusers' names.

Two kinds are read. A *control* LoRA comes in Black Forest Labs' key layout or in diffusers'; ours
is the conversion of the former, since diffusers 0.42 swaps the halves of `norm_out`'s B (right)
and, along the rank, of its A (wrong: B·A is then not the published delta). *Further* LoRAs come in
the layouts that lora_keys.py lists; theirs is our conversion, too: diffusers' fits FLUX's full size
only, rounds alphas into the factors and drops kohya's embedders and last layer.

A file either fits whole or is refused with everything that does not fit; diffusers would drop
such tensors with a warning. Knows nothing of how factors are fused.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlPipeline
from safetensors import SafetensorError, safe_open

from depthflux.errors import LoraMismatchError, WeightsCorruptError, first_line, shown_name
from depthflux.model.adapter_config import TRANSFORMER, AdapterConfig, read_adapter_config
from depthflux.model.flux_layout import Origin, Shape, linear_origins, norm_origins
from depthflux.model.headers import header_problem
from depthflux.model.lora_keys import TEXT_ENCODERS, Part, Place, other_kind, places, split

#: The linear that the control's latents enter by, next to the picture's.
INPUT_EMBEDDER = "x_embedder"
#: No more problems than this are listed; a file for another model has thousands.
MOST_PROBLEMS = 100
#: And of a further LoRA's, which a caller of a server reads.
MOST_SHOWN = 8


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
    problems: list[str] = []
    if "img_in.lora_A.weight" in tensors:
        if compat == "diffusers":
            tensors = _converted_by_diffusers(tensors, path)
        else:
            shape = Shape.of(transformer.config)
            problems += _rows_problems(tensors, shape)
            tensors, left_over = _converted(tensors, shape)
            problems += [f"{shown_name(key)} has no place there" for key in left_over]
    problems += _problems(tensors, transformer)
    config = _config(metadata, problems)
    if problems:
        raise _misfit(path, "a control LoRA", problems, fix=_CONTROL_FIX)
    return LoraTensors(path, _by_linear(tensors, config), _norms(tensors))


def read_lora(path: Path, transformer: Any) -> LoraTensors:
    """Read a further LoRA, in any of the layouts that lora_keys.py lists.

    Args:
        path: a safetensors file.
        transformer: diffusers' FluxTransformer2DModel, grown for the control or not; may be on the
            meta device.

    Returns:
        Its factors, views of the mapped file; the input embedder's fit the ungrown one.

    Raises:
        WeightsCorruptError: it is no safetensors file or has non-finite numbers.
        LoraMismatchError: its tensors do not fit the transformer, it is a control LoRA, it has
            parts for text encoders, or it is of a kind that is more than a LoRA.
    """
    tensors, metadata = _read(path)
    problems = _foreign_problems(tensors)
    if problems:
        raise _misfit(path, "a further LoRA", problems, fix=_FURTHER_FIX)
    config = _config(metadata, problems)
    table, linears = places(Shape.of(transformer.config)), _linears(transformer)
    factors: dict[str, Factors] = {}
    for name, parts in _modules(tensors, table, problems).items():
        targets = table[name]
        problem = _module_problem(parts, targets, linears, config)
        if problem:
            problems.append(f"{shown_name(name)} {problem}")
            continue
        twice = [target.linear for target in targets if target.linear in factors]
        problems += [f"{linear} is there twice, under two names" for linear in twice]
        factors |= {target.linear: _cut(parts, target, config) for target in targets}
    if problems:
        raise _misfit(path, "a further LoRA", problems, fix=_FURTHER_FIX, most=MOST_SHOWN)
    return LoraTensors(path, factors)


_CONTROL_FIX = "Use FLUX.1-Depth-dev-lora with FLUX.1-dev."
_FURTHER_FIX = "Use a LoRA that was trained for FLUX.1-dev's transformer alone."


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


def _rows_problems(tensors: Mapping[str, torch.Tensor], shape: Shape) -> list[str]:
    """Tensors of linears that are several in diffusers, with more or fewer rows than those have."""
    wanted: dict[str, int] = {}
    for origin in linear_origins(shape).values():
        if origin.rows is not None:
            wanted[origin.module] = max(origin.rows[1], wanted.get(origin.module, 0))
    keys = {
        f"{m}.{part}": n for m, n in wanted.items() for part in ("lora_B.weight", "lora_B.bias")
    }
    return [
        f"{key} {list(tensors[key].shape)} has not {rows} rows"
        for key, rows in keys.items()
        if key in tensors and tensors[key].shape[:1] != (rows,)
    ]


def _rows(tensor: torch.Tensor, origin: Origin | Place) -> torch.Tensor:
    if tensor.ndim == 0:
        return tensor  # its shape is refused afterwards
    if origin.rows is not None:
        tensor = tensor[slice(*origin.rows)]
    return torch.cat(tensor.chunk(2)[::-1]) if origin.swapped else tensor


def _converted_by_diffusers(
    tensors: dict[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """What diffusers makes of a control LoRA in Black Forest Labs' layout."""
    try:
        converted: dict[str, torch.Tensor] = FluxControlPipeline.lora_state_dict(dict(tensors))
    except (ValueError, RuntimeError, KeyError, IndexError, NotImplementedError) as error:
        problem = f"diffusers cannot convert it ({first_line(error)})"
        raise _misfit(path, "a LoRA", [problem], fix=_CONTROL_FIX) from error
    return converted


def _problems(tensors: Mapping[str, torch.Tensor], transformer: torch.nn.Module) -> list[str]:
    """Everything about a control LoRA in diffusers' names that does not fit the transformer."""
    linears = _linears(transformer)
    norms = {n for n, _ in transformer.named_parameters() if ".norm_" in n and "linear" not in n}
    problems = []
    if f"{TRANSFORMER}{INPUT_EMBEDDER}.lora_A.weight" not in tensors:
        problems.append(f"it has nothing for {INPUT_EMBEDDER}, so it takes no control image")
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix(TRANSFORMER).partition(".lora_")
        if part and name in linears:
            fits = _factor_fits(part, tensor, linears[name], grown=name == INPUT_EMBEDDER)
            fits = fits and _factor_is_paired(key, tensors)
        else:
            here = transformer.get_parameter(name).shape if name in norms else None
            fits = not part and tensor.shape == here
        if not fits or not key.startswith(TRANSFORMER):
            problems.append(f"{shown_name(key)} {list(tensor.shape)} fits nothing there")
    return problems


def _linears(transformer: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {n: m for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)}


def _factor_fits(part: str, tensor: torch.Tensor, linear: torch.nn.Linear, *, grown: bool) -> bool:
    """Whether a factor has a linear's shape; a control LoRA's input embedder is twice as wide."""
    if part == "A.weight":
        width = linear.in_features * (2 if grown else 1)
        return tensor.ndim == 2 and tensor.shape[1] == width
    if part == "B.weight":
        return tensor.ndim == 2 and tensor.shape[0] == linear.out_features
    return part == "B.bias" and tensor.shape == (linear.out_features,)


def _factor_is_paired(key: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether A and B are both there and of one rank; a bias goes with both."""
    stem = key.rpartition(".lora_")[0]
    down, up = (tensors.get(f"{stem}.lora_{factor}.weight") for factor in "AB")
    if down is None or up is None:
        return False
    return up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0] > 0


def _by_linear(tensors: Mapping[str, torch.Tensor], config: AdapterConfig) -> dict[str, Factors]:
    """Tensors in diffusers' names, put together for each linear."""
    factors = {}
    for name in _names(tensors):
        stem = f"{TRANSFORMER}{name}"
        down = tensors[f"{stem}.lora_A.weight"]
        factors[name] = Factors(
            down=down,
            up=tensors[f"{stem}.lora_B.weight"],
            bias=tensors.get(f"{stem}.lora_B.bias"),
            scaling=config.scaling(name, down.shape[0]),
        )
    return factors


def _names(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """The linears that tensors in diffusers' names are for."""
    ending = ".lora_A.weight"
    for key in tensors:
        if key.endswith(ending):
            yield key.removeprefix(TRANSFORMER).removesuffix(ending)


def _norms(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(TRANSFORMER): t for k, t in tensors.items() if ".lora_" not in k}


def _config(metadata: Mapping[str, str], problems: list[str]) -> AdapterConfig:
    """The configuration in a file's metadata; what is wrong with it joins the problems."""
    try:
        return read_adapter_config(metadata)
    except ValueError as error:
        problems.append(str(error))
        return AdapterConfig()


# Further LoRAs ------------------------------------------------------------------------------------


def _foreign_problems(keys: Iterable[str]) -> list[str]:
    """What tells a file that holds more than a LoRA of the transformer."""
    kinds = sorted({kind for key in keys if (kind := other_kind(key))})
    problems = [f"it is no plain LoRA (it has {', '.join(kinds)})"] if kinds else []
    text = [key for key in keys if key.startswith(TEXT_ENCODERS)]
    return problems + ([f"{len(text)} of its tensors are for text encoders"] if text else [])


def _modules(
    tensors: Mapping[str, torch.Tensor], known: Container[str], problems: list[str]
) -> dict[str, dict[Part, torch.Tensor]]:
    """A file's tensors by the name and the part in their keys; those without a place are told."""
    modules: dict[str, dict[Part, torch.Tensor]] = {}
    homeless = []
    for key, tensor in tensors.items():
        found = split(key)
        if found is None or found[0] not in known:
            homeless.append(shown_name(key))
        elif found[1] in modules.setdefault(found[0], {}):
            problems.append(f"{shown_name(key)} is there twice, spelt otherwise, too")
        else:
            modules[found[0]][found[1]] = tensor
    if not modules:
        such = f", such as {homeless[0]}" if homeless else ""
        problems.append(f"none of its {len(tensors)} tensors has a place there{such}")
    elif homeless:
        problems += [f"{key} has no place there" for key in homeless]
    return modules


def _module_problem(
    parts: Mapping[Part, torch.Tensor],
    targets: Sequence[Place],
    linears: Mapping[str, torch.nn.Linear],
    config: AdapterConfig,
) -> str:
    """What is wrong with the tensors of one name, which may be for several linears; or nothing."""
    if not {"down", "up"} <= parts.keys():
        return "has no A or no B"
    if "alpha" in parts and config.alpha is not None:
        return "has an alpha, and the file's configuration states another"
    inputs = linears[targets[0].linear].in_features
    if targets[0].linear == INPUT_EMBEDDER:
        # FLUX takes as many channels as it puts out; the rest of a grown embedder is the control's.
        inputs = linears["proj_out"].out_features
        if parts["down"].shape[1:] == (2 * inputs,):
            return "takes a control image: this is a control LoRA"
    outputs = sum(linears[target.linear].out_features for target in targets)
    rank = sum(parts["down"].shape[:1])
    fits = (
        rank > 0
        and parts["down"].shape == (rank, inputs)
        and parts["up"].shape == (outputs, rank)
        and ("bias" not in parts or parts["bias"].shape == (outputs,))
        and ("alpha" not in parts or parts["alpha"].numel() == 1)
    )
    shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items())
    return "" if fits else f"({shapes}) does not fit a linear of {inputs} → {outputs}"


def _cut(parts: Mapping[Part, torch.Tensor], place: Place, config: AdapterConfig) -> Factors:
    """One linear's factors, out of tensors that may be for several."""
    rank = parts["down"].shape[0]
    scaling = config.scaling(place.linear, rank)
    return Factors(
        down=parts["down"],
        up=_rows(parts["up"], place),
        bias=_rows(parts["bias"], place) if "bias" in parts else None,
        scaling=parts["alpha"].item() / rank if "alpha" in parts else scaling,
    )


def _misfit(
    path: Path, what: str, problems: list[str], *, fix: str, most: int = MOST_PROBLEMS
) -> LoraMismatchError:
    listed = _listed(problems, "; ", most)
    return LoraMismatchError(f"{path} does not fit the transformer as {what}: {listed}.", fix=fix)


def _listed(items: list[str], separator: str = ", ", most: int = MOST_PROBLEMS) -> str:
    shown = items[:most]
    more = len(items) - len(shown)
    return separator.join([*shown, f"and {more} more"] if more else shown)
