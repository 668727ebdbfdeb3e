"""The fused transformer on disk, so that the next start loads it and fuses nothing.

    <weights_dir>/prepared/<key>/
      prepared.json                       what it was made of, and each file's size and sha256
      transformer-0001.safetensors …      diffusers' names, grown for the control; a quantized
                                          weight in two parts, its codes and its scales

The key is a hash of everything that decides the bits: the files that went in, the control scale,
the law, the dtype, what is quantized to, the kind of device and the versions of what computed. A
change of any of them finds nothing here and the start fuses as before; so a stale file is never
used.

Knows nothing of how weights are fused or loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from depthflux.errors import OutputError, WeightsCorruptError, first_line
from depthflux.files import make_folder, sha256_of_file, write_atomically
from depthflux.model.hashes import HashCache
from depthflux.model.placement import Placement, device_name
from depthflux.model.quantization import Kind
from depthflux.model.weights import ModelFiles
from depthflux.settings import Compat

FOLDER = "prepared"
CARD = "prepared.json"
#: Raised when the law of fusing changes, so that what was prepared before is passed over.
LAW_VERSION = 1
#: Libraries that take part in fusing.
FUSING_LIBRARIES = ("torch", "peft", "diffusers")
#: What quantizes.
QUANTIZING_LIBRARY = "torchao"
#: One file's size: what is written at once lies in host memory a second time.
SHARD_BYTES = 2 * 2**30
#: The control scale that most requests have.
USUAL_SCALE = 1.0


@dataclass(frozen=True)
class Ingredients:
    """Everything that decides the bits of a fused transformer, but for the control scale.

    Attributes:
        transformer: sha256 of the base model's files, by name.
        control_lora: sha256 of its file.
        compat: whose law it is fused by.
        dtype: of the weights, such as `bfloat16`.
        device: the kind that fused it, `cpu` or `cuda`: their sums may differ in the last bit.
        processor: which one, and of how many threads: likewise.
        versions: of the libraries that fuse and, where it takes part, of the one that quantizes.
        quantized: what the blocks' large linears are rounded to.
        law: LAW_VERSION.
    """

    transformer: dict[str, str]
    control_lora: str
    compat: str
    dtype: str
    device: str
    processor: str
    versions: dict[str, str]
    quantized: Kind = "none"
    law: int = LAW_VERSION

    def key(self, scale: float) -> str:
        """The name of the folder for a control scale: 16 hexadecimal digits."""
        document = json.dumps({**asdict(self), "control_scale": scale}, sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Prepared:
    """A fused transformer on disk.

    Attributes:
        folder: where it lies.
        control_scale: what it was fused with.
        files: its safetensors files.
    """

    folder: Path
    control_scale: float
    files: tuple[Path, ...]


def ingredients_of(
    files: ModelFiles, placement: Placement, compat: Compat, quantized: Kind = "none"
) -> Ingredients:
    """What a model's transformer is fused of on this machine; hashes the files."""
    transformer = "transformer/"
    libraries = [*FUSING_LIBRARIES, *([QUANTIZING_LIBRARY] if quantized != "none" else [])]
    return Ingredients(
        transformer={n: h for n, h in files.sha256.items() if n.startswith(transformer)},
        control_lora=files.sha256["control_lora"],
        compat=compat,
        dtype=str(placement.dtype).removeprefix("torch."),
        device=placement.device.type,
        processor=_processor(placement.device),
        versions={name: importlib.metadata.version(name) for name in libraries},
        quantized=quantized,
    )


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return device_name(device)
    return f"{device_name(device)}, {torch.get_num_threads()} threads"


def find_prepared(weights_dir: Path, ingredients: Ingredients) -> Prepared | None:
    """A transformer that was prepared of the same ingredients, of the usual control scale if any.

    Raises:
        WeightsCorruptError: it is there, but is not what was written.
    """
    wanted = asdict(ingredients)
    matching = {
        float(card["control_scale"]): (path.parent, card)
        for path in sorted((weights_dir / FOLDER).glob(f"*/{CARD}"))
        # A hidden folder is one that is still being written.
        if not path.parent.name.startswith(".")
        and (card := _read_card(path)).get("ingredients") == wanted
    }
    if not matching:
        return None
    scale = USUAL_SCALE if USUAL_SCALE in matching else min(matching)
    folder, card = matching[scale]
    _check(folder, card["files"])
    return Prepared(folder, scale, tuple(folder / name for name in card["files"]))


def save_prepared(
    weights_dir: Path,
    ingredients: Ingredients,
    scale: float,
    weights: Mapping[str, torch.Tensor],
) -> Prepared:
    """Write a fused transformer, whole or not at all.

    Args:
        weights_dir: where weights lie; it goes into a folder of its own there.
        ingredients: what it was made of.
        scale: the control scale that is fused in.
        weights: the transformer's state in plain tensors, on any device.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    home = weights_dir / FOLDER / ingredients.key(scale)
    staging = home.with_name(f".{home.name}.{secrets.token_hex(4)}")
    make_folder(staging)
    try:
        files = dict(_write_shards(staging, weights))
        card = {"ingredients": asdict(ingredients), "control_scale": scale, "files": files}
        write_atomically(staging / CARD, (json.dumps(card, indent=2) + "\n").encode())
        if home.exists():
            shutil.rmtree(home)
        staging.replace(home)
        _remember(home, files)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OutputError(
            f"cannot write the prepared transformer to {home}: {reason}; it takes "
            f"{_gigabytes(weights):.1f} GB in weights_dir.",
            field="weights_dir",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Prepared(home, scale, tuple(home / name for name in files))


def _write_shards(
    folder: Path, weights: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write the tensors file by file; each file's name, size and sha256."""
    for index, shard in enumerate(_shards(weights), start=1):
        path = folder / f"transformer-{index:04}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in shard.items()}, path)
        path.chmod(0o644)  # safetensors makes files that only their owner can read
        yield path.name, {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def _remember(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Spare the next start the hashing of what was hashed just now."""
    hashes = HashCache()
    for name, entry in files.items():
        hashes.remember(folder / name, entry["sha256"])
    hashes.store()


def _shards(weights: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in weights.items():
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _read_card(path: Path) -> dict[str, Any]:
    """A card that can be used, or nothing: another version may have written it otherwise."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        float(card["control_scale"])
        usable = all(
            Path(name).name == name and {"bytes", "sha256"} <= entry.keys()
            for name, entry in card["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
    return card if usable else {}


def _check(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """See that every file is the one that was written."""
    hashes = HashCache()
    wrong = []
    for name, entry in files.items():
        path = folder / name
        whole = path.is_file() and path.stat().st_size == entry["bytes"]
        if not whole or hashes.sha256(path) != entry["sha256"]:
            wrong.append(name)
    hashes.store()
    if wrong:
        raise WeightsCorruptError(
            f"the prepared transformer in {folder} is damaged: {', '.join(wrong)}.",
            fix="Delete that folder, or make it again: depthflux weights prepare.",
        )


def _gigabytes(weights: Mapping[str, torch.Tensor]) -> float:
    return sum(tensor.nbytes for tensor in weights.values()) / 1e9
