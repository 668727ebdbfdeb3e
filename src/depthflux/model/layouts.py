"""Which key layout a component's files are in, and where each of the module's tensors lies there.

    transformer      diffusers' names, or Black Forest Labs' (flux_layout.py)
    vae              diffusers' names, or its makers' (vae_layout.py)
    text_encoder     transformers' names, or those names after `text_model.`
    text_encoder_2   transformers' names

A single file may hold more than the component, each part after a prefix of its own, as ComfyUI's
checkpoints of a whole pipeline do. The layout is told from the keys, never from a file's name.

Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from depthflux.model.flux_layout import Origin, Shape, linear_origins, norm_origins
from depthflux.model.headers import TensorHeader
from depthflux.model.tensors import Part
from depthflux.model.vae_layout import ldm_name

#: What stands before a component's keys: nothing, or what ComfyUI's checkpoints put there.
PREFIXES = {
    "transformer": ("", "model.diffusion_model."),
    "vae": ("", "vae."),
    "text_encoder": ("", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("", "text_encoders.t5xxl.transformer."),
}
#: Beginnings of keys that only this component has, in any of its layouts.
MARKS = {
    "transformer": ("double_blocks.", "transformer_blocks."),
    "vae": ("decoder.up.", "decoder.up_blocks."),
    "text_encoder": ("text_model.embeddings.", "embeddings."),
    "text_encoder_2": ("encoder.block.",),
}
#: Tensors of the module that are another one's: the same weights under a second name.
TIED = {"encoder.embed_tokens.weight": "shared.weight"}
#: What files hold beside the component without harm: parts of the whole CLIP that FLUX does not
#: use, an old buffer of place numbers, and the second name of tied weights.
HARMLESS = {
    "text_encoder": (
        "text_projection.weight",
        "logit_scale",
        "text_model.embeddings.position_ids",
        "embeddings.position_ids",
    ),
    "text_encoder_2": ("encoder.embed_tokens.weight", "logit_scale"),
}


class Layout(NamedTuple):
    """How a component lies in its files.

    Attributes:
        parts: where each of the module's tensors lies, by its name in the module.
        prefix: what stands before the component's keys; those of others have another one.
        harmless: keys that may be left over.
    """

    parts: dict[str, Part]
    prefix: str
    harmless: tuple[str, ...]


def find_layout(component: str, module: Any, stored: Mapping[str, TensorHeader]) -> Layout | None:
    """The layout of a component's files.

    Args:
        component: diffusers' name of it, such as `vae`.
        module: built from its configuration; may be on the meta device.
        stored: the tensors of the files, by their keys.

    Returns:
        None where the files hold nothing of such a component.
    """
    prefix = _prefix(component, stored)
    if prefix is None:
        return None
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if name not in TIED
    }
    own = {key.removeprefix(prefix): h for key, h in stored.items() if key.startswith(prefix)}
    parts = _PARTS[component](module.config, shapes, own)
    return Layout(
        {name: part._replace(key=prefix + part.key) for name, part in parts.items()},
        prefix,
        tuple(prefix + name for name in HARMLESS.get(component, ())),
    )


def _prefix(component: str, stored: Mapping[str, TensorHeader]) -> str | None:
    for prefix in PREFIXES[component]:
        marks = tuple(prefix + mark for mark in MARKS[component])
        if any(key.startswith(marks) for key in stored):
            return prefix
    return None


Shapes = Mapping[str, tuple[int, ...]]
Stored = Mapping[str, TensorHeader]


def _transformer_parts(config: Any, shapes: Shapes, stored: Stored) -> dict[str, Part]:
    if not any(key.startswith("double_blocks.") for key in stored):
        return {name: Part(name) for name in shapes}
    shape = Shape.of(config)
    linears, norms = linear_origins(shape), norm_origins(shape)
    parts = {}
    for name in shapes:
        module, _, leaf = name.rpartition(".")
        # A q/k norm's weight is called `scale` there; what neither table has keeps its name, and
        # is then told as missing.
        leaf = "scale" if module in norms else leaf
        origin = norms.get(module) or linears.get(module) or Origin(module)
        parts[name] = Part(f"{origin.module}.{leaf}", origin.rows, origin.swapped)
    return parts


def _vae_parts(config: Any, shapes: Shapes, stored: Stored) -> dict[str, Part]:
    if not any(key.startswith("decoder.up.") for key in stored):
        return {name: Part(name) for name in shapes}
    parts = {}
    for name, shape in shapes.items():
        key = ldm_name(name, len(config.block_out_channels))
        as_convolution = key in stored and stored[key].shape == (*shape, 1, 1)
        parts[name] = Part(key, shape=shape if as_convolution else None)
    return parts


def _clip_parts(_: Any, shapes: Shapes, stored: Stored) -> dict[str, Part]:
    prefix = "text_model." if any(key.startswith("text_model.") for key in stored) else ""
    return {name: Part(prefix + name) for name in shapes}


def _t5_parts(_: Any, shapes: Shapes, stored: Stored) -> dict[str, Part]:
    parts = {name: Part(name) for name in shapes}
    for second, name in TIED.items():
        if name not in stored and second in stored:
            parts[name] = Part(second)
    return parts


_PARTS = {
    "transformer": _transformer_parts,
    "vae": _vae_parts,
    "text_encoder": _clip_parts,
    "text_encoder_2": _t5_parts,
}
