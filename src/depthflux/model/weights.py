"""Which files make up a model, where they are looked for, and whether they are whole.

A model is a folder laid out like FLUX.1-dev's on the Hugging Face Hub: `model_index.json` and a
folder for each component. The control LoRA and the depth estimator lie in it (as the packaged
miniature has them) or beside it in the weights folder. Only safetensors are read.

Knows nothing of torch: a file's tensors are read from its header alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from depthflux.errors import WeightsCorruptError, WeightsMissingError
from depthflux.files import sha256_of_file
from depthflux.model.demo import demo_folder
from depthflux.settings import EngineSettings

FLUX_FOLDER = "FLUX.1-dev"
CONTROL_LORA_FILES = (
    "control_lora.safetensors",
    "flux1-depth-dev-lora.safetensors",
    "FLUX.1-Depth-dev-lora/flux1-depth-dev-lora.safetensors",
)
ESTIMATOR_FOLDERS = ("depth_estimator", "Depth-Anything-V2-Small-hf")

#: Each component's folder and the stem of its weight files, as diffusers and transformers have it.
COMPONENT_WEIGHTS = {
    "text_encoder": "model",
    "text_encoder_2": "model",
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
OTHER_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer_config.json",
)
#: safetensors' own limit for the header; a larger one is a hostile or damaged file.
MAX_HEADER_BYTES = 100_000_000

HOW_TO_GET_FLUX = (
    "Copy FLUX.1-dev (a diffusers folder), FLUX.1-Depth-dev-lora and Depth-Anything-V2-Small-hf "
    "there as weights/README.md says, or run the packaged miniature: depthflux demo."
)


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """The files of one model, found on disk.

    Attributes:
        folder: laid out like FLUX.1-dev's.
        control_lora: the depth control LoRA's file.
        estimator: the depth estimator's folder; None where there is none, which is enough for
            requests that supply their depth maps.
    """

    folder: Path
    control_lora: Path
    estimator: Path | None

    @property
    def is_demo(self) -> bool:
        """Whether this is the packaged miniature."""
        return self.folder == demo_folder()

    def component_files(self, component: str) -> list[Path]:
        """A component's safetensors files; several where they are sharded.

        Raises:
            WeightsCorruptError: the index of the shards is unreadable.
        """
        folder, stem = self.folder / component, COMPONENT_WEIGHTS[component]
        index = folder / f"{stem}.safetensors.index.json"
        if not index.is_file():
            return [folder / f"{stem}.safetensors"]
        try:
            shards = sorted(set(read_json(index)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise WeightsCorruptError(f"{index} is no index of shards.") from error
        # Names come from a file that was downloaded: they must stay inside the folder.
        return [folder / Path(str(shard)).name for shard in shards]

    def check(self) -> None:
        """See that every file is there and whole, reading headers only.

        Raises:
            WeightsMissingError: files are not there; all of them are listed.
            WeightsCorruptError: files are truncated or no safetensors; all of them are listed.
        """
        weights = [f for name in COMPONENT_WEIGHTS for f in self.component_files(name)]
        weights.append(self.control_lora)
        others = [self.folder / name for name in OTHER_FILES]
        others += [self.folder / name / "config.json" for name in COMPONENT_WEIGHTS]
        if self.estimator is not None:
            weights.append(self.estimator / "model.safetensors")
            others.append(self.estimator / "config.json")
        missing = [str(path) for path in [*others, *weights] if not path.is_file()]
        if missing:
            raise WeightsMissingError(
                f"{len(missing)} weight files are missing: {', '.join(missing)}.",
                fix="" if self.is_demo else HOW_TO_GET_FLUX,
            )
        problems = [problem for path in weights if (problem := header_problem(path))]
        if problems:
            raise WeightsCorruptError(
                " ".join(problems), fix="Copy these files again and compare their sha256."
            )

    def require_estimator(self) -> Path:
        """The depth estimator's folder.

        Raises:
            WeightsMissingError: there is none.
        """
        if self.estimator is None:
            raise WeightsMissingError(
                f"there is no depth estimator in {self.folder} or beside it, so depth cannot be "
                "estimated.",
                fix="Copy Depth-Anything-V2-Small-hf there as weights/README.md says, or supply "
                "a depth map with preprocess_depth=false.",
            )
        return self.estimator

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The sha256 of every weight file that shapes the picture, by its name in the folder.

        Large files are hashed once and remembered under the user's cache folder, by path, size
        and time of change.
        """
        files = {
            str(path.relative_to(self.folder)): path
            for name in COMPONENT_WEIGHTS
            for path in self.component_files(name)
        }
        files["control_lora"] = self.control_lora
        if self.estimator is not None:
            files["depth_estimator"] = self.estimator / "model.safetensors"
        remembered = HashCache.load()
        hashes = {name: remembered.sha256(path) for name, path in files.items()}
        remembered.store()
        return hashes


def find_model(settings: EngineSettings) -> ModelFiles:
    """The files that the settings' `model` stands for.

    Raises:
        WeightsMissingError: a part is not where it should be; the message says what is and where
            it was looked for.
    """
    if settings.model == "demo":
        folder, beside = demo_folder(), demo_folder()
    elif settings.model == "flux":
        folder, beside = settings.weights_dir / FLUX_FOLDER, settings.weights_dir
    else:
        folder = Path(settings.model).expanduser()
        beside = settings.weights_dir
    if not (folder / "model_index.json").is_file():
        raise WeightsMissingError(
            f"there is no model in {folder.absolute()} (no model_index.json).", fix=HOW_TO_GET_FLUX
        )
    loras = _candidates(settings.control_lora, folder, beside, CONTROL_LORA_FILES)
    estimators = _candidates(settings.depth_estimator, folder, beside, ESTIMATOR_FOLDERS)
    lora, estimator = _first_there(loras), _first_there(estimators)
    if lora is None or (settings.depth_estimator is not None and estimator is None):
        looked = ", ".join(str(path) for path in (estimators if lora else loras))
        raise WeightsMissingError(f"none of these is there: {looked}.", fix=HOW_TO_GET_FLUX)
    return ModelFiles(folder.absolute(), lora, estimator)


def flux_is_there(settings: EngineSettings) -> bool:
    """Whether FLUX.1-dev lies in the settings' weights folder."""
    return (settings.weights_dir / FLUX_FOLDER / "model_index.json").is_file()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document that must be an object.

    Raises:
        WeightsCorruptError: it is unreadable, no JSON or no object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsCorruptError(f"{path} is not readable as JSON: {error}.") from error
    if not isinstance(document, dict):
        raise WeightsCorruptError(f"{path} holds no JSON object.")
    return document


def header_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file's header, in one sentence; None where nothing is.

    The layout is 8 bytes little-endian header length, the header (JSON: name → dtype, shape,
    data_offsets), then the tensors' bytes without gaps.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            return f"{path} is no safetensors file, or truncated ({size} bytes)."
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return f"{path} is no safetensors file (its header is no JSON)."
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
    except (AttributeError, KeyError, TypeError, IndexError):
        return f"{path} is no safetensors file (its header lists no tensors)."
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        return f"{path} has {size} bytes where its header says {expected}: truncated or damaged."
    return None


def _candidates(
    chosen: Path | None, folder: Path, beside: Path, names: tuple[str, ...]
) -> list[Path]:
    """Where a part may lie: where the settings say, or else in the model's folder or beside it."""
    if chosen is not None:
        return [chosen.expanduser().absolute()]
    return list(dict.fromkeys((b / name).absolute() for b in (folder, beside) for name in names))


def _first_there(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


@dataclasses.dataclass
class HashCache:
    """Remembered sha256 sums, so that 34 GB are not read again at every start.

    A remembered sum counts only while the file's size and time of change are as they were; the
    cache is an aid, so a cache that cannot be read or written is done without.
    """

    path: Path
    entries: dict[str, list[Any]]

    @classmethod
    def load(cls) -> HashCache:
        """Read the cache from the user's cache folder."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        path = Path(base) / "depthflux" / "sha256.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entries = {}
        return cls(path, entries if isinstance(entries, dict) else {})

    def sha256(self, path: Path) -> str:
        """A file's sha256, computed where it is not remembered."""
        status = path.stat()
        key = [status.st_size, status.st_mtime_ns]
        entry = self.entries.get(str(path))
        if isinstance(entry, list) and entry[:2] == key:
            return str(entry[2])
        digest = sha256_of_file(path)
        self.entries[str(path)] = [*key, digest]
        return digest

    def store(self) -> None:
        """Write the cache back, if that is possible."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(self.entries), encoding="utf-8")
            temporary.replace(self.path)
        except OSError:
            return
