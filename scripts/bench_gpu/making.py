"""`make`: a folder with the files of a model, laid out as downloads leave them.

    <folder>/bench.json                                   what it is; written last
    <folder>/FLUX.1-dev/…                                 diffusers' layout, sharded as published
    <folder>/FLUX.1-Depth-dev-lora/…                      the control LoRA, Black Forest Labs' keys

It knows nothing of measuring.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench_gpu.drawing import split, total_bytes, write_drawn
from bench_gpu.manifest import MANIFEST, read_manifest
from bench_gpu.shapes import component_shapes, control_lora_shapes
from bench_gpu.sizes import Size
from depthflux.model.catalogue import CONTROL_LORA, FLUX
from depthflux.model.components import CONTROL_LORA_FILE, KINDS
from depthflux.model.flux_config import SCHEDULER
from train_demo.tokenization import build_clip_tokenizer, build_t5_tokenizer

#: Files that FLUX.1-dev's components are published in.
SHARDS = {"transformer": 3, "text_encoder_2": 2, "text_encoder": 1, "vae": 1}
CLIP_LENGTH, T5_LENGTH = 77, 512
#: What the small files take, and room to spare.
SPARE_BYTES = 10**9
CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "T5Tokenizer"),
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def make(folder: Path, size: Size, *, seed: int, device: torch.device) -> dict[str, Any]:
    """Write a model's files; a folder that has them already is left as it is.

    Returns:
        The manifest: size, seed, bytes and numbers of weights by component, and how long it took.

    Raises:
        SystemExit: the folder holds another model, or its disk has no room.
    """
    if (folder / MANIFEST).is_file():
        return _made_before(folder, size, seed)
    shapes = component_shapes(size)
    lora = control_lora_shapes(size)
    weights = {name: total_bytes(tensors) for name, tensors in shapes.items()}
    weights["control_lora"] = total_bytes(lora)
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_without_room(folder, sum(weights.values()))
    started = time.perf_counter()
    home = folder / FLUX.folder
    _write_small_files(home, size)
    for name, tensors in shapes.items():
        _write_component(home / name, name, tensors, seed=seed, device=device)
        print(f"{name}: {weights[name] / 1e9:.2f} GB", file=sys.stderr)
    path = folder / CONTROL_LORA.folder / CONTROL_LORA_FILE
    path.parent.mkdir(exist_ok=True)
    write_drawn(path, lora, prefix="control_lora", seed=seed, device=device)
    manifest = {
        "size": size.name,
        "seed": seed,
        "drawn_on": device.type,
        "control_lora_rank": size.rank,
        "weights_bytes": weights,
        "make_seconds": round(time.perf_counter() - started, 1),
    }
    _write_json(folder / MANIFEST, manifest)
    return manifest


def _made_before(folder: Path, size: Size, seed: int) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if (manifest["size"], manifest["seed"]) != (size.name, seed):
        sys.exit(
            f"error: {folder} holds the {manifest['size']} model of seed {manifest['seed']}; "
            "name another folder, or delete it."
        )
    return manifest


def _refuse_without_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        sys.exit(
            f"error: {folder}: {free / 1e9:.1f} GB are free there and "
            f"{(needed + SPARE_BYTES) / 1e9:.1f} GB are needed; free some, or name another folder."
        )


def _write_component(
    folder: Path,
    name: str,
    shapes: dict[str, tuple[int, ...]],
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Write a component's shards and, where there are several, their index."""
    stem = KINDS[name].stem
    shards = list(split(shapes, SHARDS[name]))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        of = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        path = folder / f"{stem}{of}.safetensors"
        write_drawn(path, shard, prefix=name, seed=seed, device=device)
        index |= dict.fromkeys(shard, path.name)
    if len(shards) > 1:
        document = {"metadata": {"total_size": total_bytes(shapes)}, "weight_map": index}
        _write_json(folder / f"{stem}.safetensors.index.json", document)


def _write_small_files(home: Path, size: Size) -> None:
    """Configurations, the scheduler and tokenizers of FLUX's lengths, made of a word list."""
    configs: dict[str, dict[str, Any]] = {name: dict(c) for name, c in size.modules.items()}
    for name in ("transformer", "vae"):
        configs[name]["_class_name"] = CLASSES[name][1]
    for name, kind in (("text_encoder", "clip_text_model"), ("text_encoder_2", "t5")):
        configs[name] |= {"architectures": [CLASSES[name][1]], "model_type": kind}
    for name, config in configs.items():
        _write_json(home / name / "config.json", config)
    scheduler = {"_class_name": CLASSES["scheduler"][1], **SCHEDULER}
    _write_json(home / "scheduler" / "scheduler_config.json", scheduler)
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    clip.model_max_length, t5.model_max_length = CLIP_LENGTH, T5_LENGTH
    clip.save_pretrained(home / "tokenizer")
    t5.save_pretrained(home / "tokenizer_2")
    _write_json(home / "model_index.json", {"_class_name": "FluxPipeline", **CLASSES})


def _write_json(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
