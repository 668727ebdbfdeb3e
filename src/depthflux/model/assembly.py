"""A component's files → its module: built empty, compared with the files, filled, in that order.

A module is built on the meta device, so that its weights exist once only. Its tensors are compared
with the files' headers, and whatever does not fit is told at once; the libraries underneath would
go on with random weights. Then each tensor goes from the mapped file straight to its device, in
one cast.

Knows nothing of pipelines, nor of where the files were found.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import accelerate
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPTextModel, PreTrainedModel, T5EncoderModel

from depthflux.errors import WeightsCorruptError, first_line, show
from depthflux.model.components import Component
from depthflux.model.headers import TensorHeader, listed, read_headers
from depthflux.model.layouts import TIED, Layout, find_layout
from depthflux.model.placement import Placement
from depthflux.model.precision import precision_problem, rounded
from depthflux.model.quantization import is_quantized
from depthflux.model.tensors import Part, TensorFiles

logger = logging.getLogger("depthflux")

CLASSES: Mapping[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": T5EncoderModel,
    "transformer": FluxTransformer2DModel,
    "vae": AutoencoderKL,
}
#: What decoding needs from the autoencoder's configuration; diffusers would do without.
VAE_NUMBERS = ("scaling_factor", "shift_factor")
#: No more names than this are listed of one kind of problem.
MOST_NAMES = 100


@dataclass(frozen=True)
class Fitted:
    """A module whose files hold all that it needs, not filled yet.

    Attributes:
        component: where it lies.
        module: on the meta device.
        tensors: its tensors by the module's own names, to be read from the mapped files.
        rounded: the fp8 forms that its file is stored in; empty for none.
    """

    component: Component
    module: Any
    tensors: TensorFiles
    rounded: str


def fit(component: Component) -> Fitted:
    """Build a component's module empty and compare it with its files' headers.

    Raises:
        WeightsCorruptError: the configuration or the tensors do not fit; everything is named.
    """
    paths = component.weight_files()
    headers = read_headers(paths)
    module = _build_empty(component)
    stored = {key: header for tensors in headers for key, header in tensors.items()}
    layout = find_layout(component.kind.name, module, stored)
    if layout is None:
        raise WeightsCorruptError(
            f"{component.place} holds nothing of a FLUX {component.kind.title}: its first tensor "
            f"is {_shown(next(iter(stored), 'none'))}."
        )
    tensors = TensorFiles(paths, layout.parts)
    own = {key: header for key, header in stored.items() if key.startswith(layout.prefix)}
    problems = [
        *_named_twice(headers),
        *_tensor_problems(module, tensors, layout, stored),
        *_number_problems(component, module),
    ]
    if unusable := precision_problem(own):
        # The scales and codes of a quantised file would be listed as misfits one by one.
        problems = [f"{unusable}; use {component.kind.files[0]} instead"]
    if problems:
        to = "its config.json" if component.config is None else "FLUX.1-dev"
        raise WeightsCorruptError(f"{component.place} does not fit {to}: {'; '.join(problems)}.")
    return Fitted(component, module, tensors, rounded(own))


def fill(
    fitted: Fitted,
    placement: Placement,
    device_of: Callable[[str], torch.device] | None = None,
) -> torch.nn.Module:
    """Read a module's weights to where they shall be; the module of `fitted` is no longer empty.

    Quantized weights are left alone: they stand for fused ones, which no file of `fitted` holds.

    Args:
        fitted: the module and its files.
        placement: where it shall run.
        device_of: where a tensor shall be, by its name; without it, where the module runs.
    """
    device_of = device_of or (lambda _: placement.device)
    if fitted.rounded:
        logger.warning(
            "%s is stored in fp8 (%s): its numbers were rounded when the file was made.",
            fitted.component.place,
            fitted.rounded,
        )
    module = fitted.module
    quantized = {name for name, tensor in module.named_parameters() if is_quantized(tensor)}
    # copy: on the CPU a tensor of the asked dtype would be the file itself, and weights are
    # changed in place later.
    weights = {
        name: fitted.tensors.read(name).to(device_of(name), placement.dtype, copy=True)
        for name in module.state_dict()
        if name in fitted.tensors.headers and name not in quantized
    }
    module.load_state_dict(weights, strict=False, assign=True)
    if isinstance(module, PreTrainedModel):
        module.tie_weights()
    # Buffers, which no file holds.
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = buffer.to(placement.device)
    return module.eval().requires_grad_(False)


def _build_empty(component: Component) -> Any:
    kind = CLASSES[component.kind.name]
    config = component.read_config()
    try:
        with accelerate.init_empty_weights():
            if issubclass(kind, PreTrainedModel):
                return kind(kind.config_class.from_dict(config))
            return kind.from_config(config)
    # transformers' configurations check themselves with an exception of the Hub's library.
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        StrictDataclassError,
    ) as error:
        reason = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise WeightsCorruptError(
            f"{component.place}/config.json does not fit: {first_line(reason)}."
        ) from error


def _tensor_problems(
    module: Any, tensors: TensorFiles, layout: Layout, stored: Mapping[str, TensorHeader]
) -> list[str]:
    """All tensors that are missing, left over or of another shape, in words, by the file's keys."""
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if name not in TIED
    }
    missing = [layout.parts[name].key for name in expected if name not in tensors.headers]
    left_over = [
        key
        for key in tensors.left_over
        if key.startswith(layout.prefix) and key not in layout.harmless
    ]
    shapes = [
        f"{layout.parts[name].key} is {list(stored[layout.parts[name].key].shape)} where "
        f"{list(shape)} {'of its rows ' if layout.parts[name].rows else ''}is needed"
        for name, shape in expected.items()
        if name in tensors.headers and tensors.headers[name].shape != shape
    ]
    return [
        *([f"missing {_names(missing)}"] if missing else []),
        *([f"left over {_names(left_over)}"] if left_over else []),
        *shapes[:MOST_NAMES],
        *_rows_left_over(layout.parts, stored),
    ]


def _rows_left_over(parts: Mapping[str, Part], stored: Mapping[str, TensorHeader]) -> list[str]:
    """Tensors that are cut into several of the module's, and have more rows than those take."""
    taken: dict[str, int] = {}
    for part in parts.values():
        if part.rows is not None and part.key in stored:
            taken[part.key] = max(part.rows[1], taken.get(part.key, 0))
    return [
        f"{key} is {list(stored[key].shape)} where {rows} rows are needed"
        for key, rows in taken.items()
        if stored[key].shape[:1] > (rows,)
    ][:MOST_NAMES]


def _named_twice(headers: Sequence[Mapping[str, TensorHeader]]) -> list[str]:
    counted = Counter(key for tensors in headers for key in tensors)
    twice = [key for key, times in counted.items() if times > 1]
    return [f"in more than one of its files {_names(twice)}"] if twice else []


def _number_problems(component: Component, module: Any) -> list[str]:
    if component.kind.name != "vae":
        return []
    bad = [name for name in VAE_NUMBERS if not is_number(module.config.get(name))]
    return [f"its config.json has no number for {', '.join(bad)}"] if bad else []


def is_number(value: object) -> bool:
    """Whether a configuration's value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(keys: Sequence[str]) -> str:
    unique = list(dict.fromkeys(keys))
    return listed([_shown(key) for key in unique], MOST_NAMES)


def _shown(key: str) -> str:
    """A key as messages repeat it: as it is, unless a terminal might act on it."""
    return key if key.isascii() and key.isprintable() and len(key) <= 200 else show(key)
