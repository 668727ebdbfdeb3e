"""Which files make up a model, where they are looked for, and whether they are whole.

A model is a folder laid out like FLUX.1-dev's on the Hugging Face Hub: `model_index.json` and a
folder for each component. The control LoRA and the depth estimator lie in it (as the packaged
miniature has them) or beside it in the weights folder. Only safetensors are read.

Knows nothing of torch: a file's tensors are read from its header alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from depthflux.errors import WeightsCorruptError, WeightsMissingError, show
from depthflux.model.demo import demo_folder
from depthflux.model.hashes import HashCache
from depthflux.model.headers import header_problem
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
#: What else a model consists of. Each entry is one file or, where several formats will do, any of
#: several groups of files. Without its vocabulary a tokenizer would load all the same and turn
#: every word into the unknown one.
OTHER_FILES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("model_index.json",),),
    (("scheduler/scheduler_config.json",),),
    (("tokenizer/tokenizer_config.json",),),
    (("tokenizer/tokenizer.json",), ("tokenizer/vocab.json", "tokenizer/merges.txt")),
    (("tokenizer_2/tokenizer_config.json",),),
    (("tokenizer_2/tokenizer.json",), ("tokenizer_2/spiece.model",)),
    *(((f"{component}/config.json",),) for component in COMPONENT_WEIGHTS),
)

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
            shards = sorted(set(map(str, read_json(index)["weight_map"].values())))
        except (KeyError, AttributeError, TypeError) as error:
            raise WeightsCorruptError(f"{index} is no index of shards.") from error
        # The names come from a file that was downloaded, and transformers opens what they say:
        # another folder, or a pickle.
        bad = [name for name in shards if not re.fullmatch(r"[\w.-]+\.safetensors", name)]
        if bad or not shards:
            named = ", ".join(map(show, bad)) or "no file"
            raise WeightsCorruptError(
                f"{index} names {named}; only safetensors files beside it can be shards."
            )
        return [folder / name for name in shards]

    def check(self) -> None:
        """See that every file is there and whole, reading headers only.

        Raises:
            WeightsMissingError: files are not there; all of them are listed.
            WeightsCorruptError: files are truncated or no safetensors; all of them are listed.
        """
        weights = [f for name in COMPONENT_WEIGHTS for f in self.component_files(name)]
        weights.append(self.control_lora)
        if self.estimator is not None:
            weights.append(self.estimator / "model.safetensors")
        missing = [str(path) for path in weights if not path.is_file()]
        missing += [
            " or ".join(str(self.folder / group[0]) for group in alternatives)
            for alternatives in OTHER_FILES
            if not any(self._all_there(group) for group in alternatives)
        ]
        if missing:
            raise WeightsMissingError(
                f"{len(missing)} model files are missing: {', '.join(missing)}.",
                fix="" if self.is_demo else HOW_TO_GET_FLUX,
            )
        problems = [problem for path in weights if (problem := header_problem(path))]
        if problems:
            raise WeightsCorruptError(
                " ".join(problems), fix="Copy these files again and compare their sha256."
            )

    def _all_there(self, names: tuple[str, ...]) -> bool:
        return all((self.folder / name).is_file() for name in names)

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
        """The sha256 of every file that shapes the picture, by its name in the folder.

        Taken when it is first asked for, which is when the model is loaded. Large files are hashed
        once and remembered in the user's cache folder, by path, size and time of change.
        """
        others = {name for groups in OTHER_FILES for group in groups for name in group}
        paths = [self.folder / name for name in sorted(others)]
        paths += [file for name in COMPONENT_WEIGHTS for file in self.component_files(name)]
        files = {str(p.relative_to(self.folder)): p for p in paths if p.is_file()}
        files["control_lora"] = self.control_lora
        if self.estimator is not None:
            files["depth_estimator"] = self.estimator / "model.safetensors"
        remembered = HashCache()
        hashes = {name: remembered.sha256(path) for name, path in files.items()}
        remembered.store()
        return hashes


def find_model(settings: EngineSettings) -> ModelFiles:
    """The files that the settings' `model` stands for.

    Raises:
        WeightsMissingError: a part is not where it should be; the message says what is and where
            it was looked for.
    """
    beside = settings.weights_dir.expanduser()
    if settings.model == "demo":
        folder, beside = demo_folder(), demo_folder()
    elif settings.model == "flux":
        folder = flux_folder(settings)
    else:
        folder = Path(settings.model).expanduser()
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
    return (flux_folder(settings) / "model_index.json").is_file()


def flux_folder(settings: EngineSettings) -> Path:
    """Where FLUX.1-dev is looked for."""
    return (settings.weights_dir.expanduser() / FLUX_FOLDER).absolute()


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


def _candidates(
    chosen: Path | None, folder: Path, beside: Path, names: tuple[str, ...]
) -> list[Path]:
    """Where a part may lie: where the settings say, or else in the model's folder or beside it."""
    if chosen is not None:
        return [chosen.expanduser().absolute()]
    return list(dict.fromkeys((b / name).absolute() for b in (folder, beside) for name in names))


def _first_there(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)
