"""What each component of a FLUX pipeline is made of, as files: in a folder, or as one file.

`KINDS` is the table: which files a component needs, and under which names people keep it. A
`Component` is one that was found. Knows nothing of the order in which places are searched, nor of
what is inside the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from glob import glob
from os.path import isdir, isfile  # Path's own raise for what may not be looked at
from pathlib import Path
from typing import Any

from depthflux.errors import WeightsCorruptError, show
from depthflux.model import flux_config
from depthflux.model.catalogue import (
    CLIP_TOKENIZER,
    CONTROL_LORA,
    DEPTH_SMALL,
    FLUX,
    T5_TOKENIZER,
    Entry,
)

#: What single files of weights are called; .sft is the older name of safetensors.
SINGLE_FILE_SUFFIXES = (".safetensors", ".sft", ".gguf")
#: Files that hold pickles, which are never opened.
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
#: ComfyUI's folder of checkpoints that hold a whole pipeline in one file.
CHECKPOINTS = "models/checkpoints"
TEXT_ENCODERS = ("models/text_encoders", "models/clip")
#: The repository that ComfyUI's guides name for the text encoders.
COMFYUI_ENCODERS = "comfyanonymous/flux_text_encoders"
CONTROL_LORA_FILE = "flux1-depth-dev-lora.safetensors"


@dataclass(frozen=True)
class Kind:
    """One kind of component, and the names it goes by.

    Attributes:
        name: as diffusers calls it, such as `text_encoder_2`.
        title: what it is, in words.
        entry: what `depthflux weights pull` gets it by.
        stem: what its weight files in a folder are called before `.safetensors`; empty for none.
        needs: its folder's other files. Each entry is one file or, where several formats will do,
            any of several groups of files: without its vocabulary a tokenizer would load all the
            same and turn every word into the unknown one.
        inside: where it lies in a folder laid out like FLUX.1-dev's.
        beside: where it lies in the weights folder, in folders called as the Hub calls them.
        hub: repositories on the Hub and where it lies in them.
        files: names as a single file, the unrounded ones first.
        gguf: what its GGUF files are called, to say that they cannot be used.
        comfyui: folders of ComfyUI that hold it.
        bundles: names of checkpoints that hold a whole pipeline, this component among it.
    """

    name: str
    title: str
    entry: Entry = FLUX
    stem: str = ""
    needs: tuple[tuple[tuple[str, ...], ...], ...] = ()
    inside: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    hub: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    gguf: str = ""
    comfyui: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()

    def is_single(self, path: Path) -> bool:
        """Whether a path stands for one file with everything, not for a folder."""
        return not self.needs or (bool(self.files) and path.suffix in SINGLE_FILE_SUFFIXES)

    def lacks(self, path: Path) -> list[str]:
        """The files that a component at a path lacks; none where it is whole."""
        if self.is_single(path):
            return [] if isfile(path) else [str(path)]
        lacking = [
            " or ".join(str(path / group[0]) for group in groups)
            for groups in self.needs
            if not any(all(isfile(path / name) for name in group) for group in groups)
        ]
        try:
            weights = shards(path, self.stem) if self.stem else []
        except WeightsCorruptError:
            weights = []  # a damaged index is no missing file; it is told when the files are read
        return lacking + [str(file) for file in weights if not isfile(file)]

    def objection(self, path: Path) -> str | None:
        """Why a component cannot be had at a path; empty where there is nothing at all.

        Returns:
            None where it can.
        """
        if self.gguf and path.suffix == ".gguf":
            return f"a GGUF file cannot be used: {path}; use {self.files[0]}"
        lacking = self.lacks(path)
        if not lacking:
            return None
        if self.is_single(path):
            return f"{path} is a folder, not a file" if isdir(path) else ""
        if not isdir(path):
            return f"{path} is a file, not a folder" if isfile(path) else ""
        pickles = [p.name for p in matching(path, "*") if p.suffix in PICKLE_SUFFIXES]
        ignored = f" ({', '.join(pickles)}: pickles are not read)" if pickles else ""
        return f"lacks {', '.join(lacking)}{ignored}"


def _module(name: str, title: str, stem: str, **names: Any) -> Kind:
    """A component with weights; in a diffusers folder it has a config.json beside them."""
    return Kind(
        name,
        title,
        stem=stem,
        needs=((("config.json",),),),
        inside=(name,),
        hub=((FLUX.repository, name), *names.pop("hub_files")),
        bundles=("flux1-dev-fp8.safetensors",),
        **names,
    )


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _module(
            "transformer",
            "transformer",
            "diffusion_pytorch_model",
            hub_files=((FLUX.repository, "flux1-dev.safetensors"),),
            files=(
                "flux1-dev.safetensors",
                "flux1-dev.sft",
                "flux1-dev-fp8.safetensors",
                "flux1-dev-fp8-e4m3fn.safetensors",
                "flux1-dev-fp8-e5m2.safetensors",
            ),
            gguf="flux1-dev*.gguf",
            comfyui=("models/diffusion_models", "models/unet"),
        ),
        _module(
            "vae",
            "VAE",
            "diffusion_pytorch_model",
            hub_files=((FLUX.repository, "ae.safetensors"),),
            files=("ae.safetensors", "ae.sft"),
            comfyui=("models/vae",),
        ),
        _module(
            "text_encoder",
            "CLIP text encoder",
            "model",
            hub_files=((COMFYUI_ENCODERS, "clip_l.safetensors"),),
            files=("clip_l.safetensors",),
            comfyui=TEXT_ENCODERS,
        ),
        _module(
            "text_encoder_2",
            "T5 text encoder",
            "model",
            hub_files=((COMFYUI_ENCODERS, "t5xxl_fp16.safetensors"),),
            files=(
                "t5xxl_fp16.safetensors",
                "t5xxl_fp8_e4m3fn.safetensors",
                "t5xxl_fp8_e5m2.safetensors",
                "t5xxl_fp8_e4m3fn_scaled.safetensors",
            ),
            gguf="t5*xxl*.gguf",
            comfyui=TEXT_ENCODERS,
        ),
        Kind(
            "tokenizer",
            "CLIP tokenizer",
            entry=CLIP_TOKENIZER,
            needs=(
                (("tokenizer_config.json",),),
                (("tokenizer.json",), ("vocab.json", "merges.txt")),
            ),
            inside=("tokenizer",),
            beside=(CLIP_TOKENIZER.folder,),
            hub=((FLUX.repository, "tokenizer"), (CLIP_TOKENIZER.repository, "")),
            comfyui=("comfy/sd1_tokenizer",),
        ),
        Kind(
            "tokenizer_2",
            "T5 tokenizer",
            entry=T5_TOKENIZER,
            needs=((("tokenizer_config.json",),), (("tokenizer.json",), ("spiece.model",))),
            inside=("tokenizer_2",),
            beside=(T5_TOKENIZER.folder,),
            hub=((FLUX.repository, "tokenizer_2"), (T5_TOKENIZER.repository, "")),
            comfyui=("comfy/text_encoders/t5_tokenizer",),
        ),
        Kind(
            "scheduler",
            "scheduler",
            needs=((("scheduler_config.json",),),),
            inside=("scheduler",),
            hub=((FLUX.repository, "scheduler"),),
        ),
        Kind(
            "control_lora",
            "control LoRA",
            entry=CONTROL_LORA,
            inside=(
                "control_lora.safetensors",
                CONTROL_LORA_FILE,
                f"{CONTROL_LORA.folder}/{CONTROL_LORA_FILE}",
            ),
            beside=(f"{CONTROL_LORA.folder}/{CONTROL_LORA_FILE}",),
            hub=((CONTROL_LORA.repository, CONTROL_LORA_FILE),),
            files=("control_lora.safetensors", CONTROL_LORA_FILE),
            comfyui=("models/loras",),
        ),
        Kind(
            "depth_estimator",
            "depth estimator",
            entry=DEPTH_SMALL,
            stem="model",
            needs=((("config.json",),), (("preprocessor_config.json",),)),
            inside=("depth_estimator", DEPTH_SMALL.folder),
            beside=("depth_estimator", DEPTH_SMALL.folder),
            hub=((DEPTH_SMALL.repository, ""),),
        ),
    )
}
#: The components that are modules with weights of FLUX.
MODULES = ("text_encoder", "text_encoder_2", "transformer", "vae")
#: What a pipeline can be without, and what is published apart from it.
ACCESSORIES = ("control_lora", "depth_estimator")


@dataclass(frozen=True)
class Component:
    """One component of a model, found on disk.

    Attributes:
        kind: which.
        path: its folder or its single file; None for depthflux's own table.
        rule: the name of the rule that found it.
        rule_in_words: what that rule stands for.
        config: FLUX.1-dev's own configuration, for what comes without one; else None.
        passed_over: what stronger rules found but could not use, and why.
    """

    kind: Kind
    path: Path | None
    rule: str
    rule_in_words: str
    config: Mapping[str, Any] | None = None
    passed_over: tuple[str, ...] = field(default=(), compare=False)

    @property
    def place(self) -> Path:
        """Where it lies, to be shown."""
        return Path(flux_config.__file__) if self.path is None else self.path

    @property
    def is_single(self) -> bool:
        """Whether it is one file with everything."""
        return self.path is not None and self.kind.is_single(self.path)

    def weight_files(self) -> list[Path]:
        """Its safetensors files; several where they are sharded, none where it has no weights.

        Raises:
            WeightsCorruptError: the index of the shards is unreadable.
        """
        if self.path is None or self.is_single:
            return [] if self.path is None else [self.path]
        return shards(self.path, self.kind.stem) if self.kind.stem else []

    def small_files(self) -> list[Path]:
        """The configuration and vocabulary files that are there."""
        if self.path is None or self.is_single:
            return []
        names = sorted({name for groups in self.kind.needs for group in groups for name in group})
        return [file for name in names if isfile(file := self.path / name)]

    def read_config(self, name: str = "config.json") -> dict[str, Any]:
        """Its configuration, from its folder or FLUX.1-dev's own.

        Raises:
            WeightsCorruptError: the file is unreadable.
        """
        if self.config is not None or self.path is None:
            return dict(self.config or {})
        return read_json(self.path / name)


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that fit a pattern such as `*/ae.safetensors`, sorted."""
    return sorted(folder / name for name in glob(pattern, root_dir=folder))


def shards(folder: Path, stem: str) -> list[Path]:
    """A folder's safetensors files: one, or those that its index names.

    Raises:
        WeightsCorruptError: the index is unreadable.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not isfile(index):
        return [folder / f"{stem}.safetensors"]
    try:
        names = sorted(set(map(str, read_json(index)["weight_map"].values())))
    except (KeyError, AttributeError, TypeError) as error:
        raise WeightsCorruptError(f"{index} is no index of shards.") from error
    # The names come from a file that was downloaded: they could lead elsewhere, or to a pickle.
    bad = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]
    if bad or not names:
        named = ", ".join(map(show, bad)) or "no file"
        raise WeightsCorruptError(
            f"{index} names {named}; only safetensors files beside it can be shards."
        )
    return [folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document that must be an object.

    Raises:
        WeightsCorruptError: it is unreadable, no JSON or no object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsCorruptError(f"{path} is not readable as JSON: {error}.") from error
    if not isinstance(document, dict):
        raise WeightsCorruptError(f"{path} holds no JSON object.")
    return document
