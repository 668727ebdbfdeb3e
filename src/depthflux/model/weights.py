"""The files that a model consists of: all components together, found, and what is missing.

Knows which settings mean which places; the places themselves are depthflux.model.discovery's, and
what a component is made of depthflux.model.components'. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from os.path import isdir, isfile
from pathlib import Path

from depthflux.errors import WeightsCorruptError, WeightsMissingError
from depthflux.model.catalogue import DEPTH_SMALL, FLUX
from depthflux.model.components import ACCESSORIES, MODULES, Component
from depthflux.model.demo import demo_folder
from depthflux.model.discovery import (
    DEMO_RULES,
    FLUX_RULES,
    FOLDER_RULES,
    Places,
    Search,
    search,
)
from depthflux.model.hashes import HashCache
from depthflux.model.headers import header_problem, read_headers
from depthflux.model.hub_cache import hub_cache
from depthflux.settings import EngineSettings

MODEL_INDEX = "model_index.json"
OTHER_WAYS = (
    "or copy them as weights/README.md says, or name ComfyUI's folder with comfyui_dir; the "
    "packaged miniature needs none of them: depthflux demo."
)
HOW_TO_GET_FLUX = f"Run: depthflux weights pull, {OTHER_WAYS}"


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """The files of one model, found on disk.

    Attributes:
        components: by diffusers' names, the tokenizers and the scheduler among them.
        control_lora: the depth control LoRA's file.
        estimator: the depth estimator's folder; None where there is none, which is enough for
            requests that supply their depth maps.
        without_estimator: where there is none, what was found of one and why it cannot be used.
    """

    components: Mapping[str, Component]
    control_lora: Path
    estimator: Path | None
    without_estimator: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the model: the pipeline's, or the one that the transformer's file is in."""
        return self.components["transformer"].place.parent

    @property
    def name(self) -> str:
        """What to call a model that is not FLUX: its folder, or its transformer's file."""
        transformer = self.components["transformer"]
        return transformer.place.stem if transformer.is_single else self.folder.name

    @property
    def is_demo(self) -> bool:
        """Whether this is the packaged miniature."""
        return self.folder == demo_folder()

    def accessory_problems(self) -> Iterator[str]:
        """What is wrong with the control LoRA's and the estimator's files, by their headers."""
        files = [self.control_lora]
        if self.estimator is not None:
            files.append(self.estimator / "model.safetensors")
        yield from filter(None, map(header_problem, files))

    def require_estimator(self) -> Path:
        """The depth estimator's folder.

        Raises:
            WeightsMissingError: there is none.
        """
        if self.estimator is None:
            found = f" ({'; '.join(self.without_estimator)})" if self.without_estimator else ""
            raise WeightsMissingError(
                f"there is no depth estimator in {self.folder} or beside it{found}, so depth "
                "cannot be estimated.",
                fix="Run: depthflux weights pull depth-small, or copy it as weights/README.md "
                "says, or supply a depth map with preprocess_depth=false.",
            )
        return self.estimator

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The sha256 of every file that shapes the picture, by its name in a pipeline's folder.

        Where a file was found does not show in it. Taken when it is first asked for, which is when
        the model is loaded. Large files are hashed once and remembered in the user's cache folder,
        by path, size and time of change.
        """
        files = {
            f"{name}/{path.name}": path
            for name, component in self.components.items()
            for path in (*component.small_files(), *component.weight_files())
        }
        index = self.folder / MODEL_INDEX
        if not self.components["transformer"].is_single and isfile(index):
            files[MODEL_INDEX] = index
        files = dict(sorted(files.items())) | {"control_lora": self.control_lora}
        if self.estimator is not None:
            files["depth_estimator"] = self.estimator / "model.safetensors"
        remembered = HashCache()
        hashes = {name: remembered.sha256(path) for name, path in files.items()}
        remembered.store()
        return hashes


def find_model(settings: EngineSettings) -> ModelFiles:
    """The files that the settings' `model` stands for.

    Raises:
        WeightsMissingError: parts of it are nowhere; the message names all of them, and what is
            wrong with the others.
    """
    searches = search_model(settings)
    _refuse_missing(settings, searches)
    found = {name: one.found for name, one in searches.items() if one.found is not None}
    places = {name: found.pop(name).place for name in ACCESSORIES if name in found}
    return ModelFiles(
        found,
        places["control_lora"],
        places.get("depth_estimator"),
        searches["depth_estimator"].passed_over,
    )


def find_estimator(settings: EngineSettings) -> Path:
    """The depth estimator's folder, whether or not there is a model beside it.

    Raises:
        WeightsMissingError: there is none.
    """
    searched = search_model(settings)["depth_estimator"]
    if searched.found is None:
        looked = ", ".join(str(path) for path in searched.looked)
        raise WeightsMissingError(
            f"there is no depth estimator: none of {looked} is whole"
            f"{''.join(f'; {note}' for note in searched.passed_over)}.",
            fix=f"Run: depthflux weights pull {DEPTH_SMALL.name}, or name one with "
            "depth_estimator.",
        )
    return searched.found.place


def search_model(settings: EngineSettings) -> dict[str, Search]:
    """Look for every component of the settings' `model`, whether or not all can be found.

    Raises:
        WeightsMissingError: a folder that the settings name is no folder of a model.
    """
    places = _places(settings)
    rules = {"demo": DEMO_RULES, "flux": FLUX_RULES}.get(settings.model, FOLDER_RULES)
    return search(rules, places)


def flux_is_there(settings: EngineSettings) -> bool:
    """Whether FLUX.1-dev is meant to run here: its transformer is there, or its folder is."""
    if isfile(_weights_dir(settings) / FLUX.folder / MODEL_INDEX):
        return True
    return search_model(settings)["transformer"].found is not None


def flux_places(settings: EngineSettings) -> list[Path]:
    """The folders that FLUX.1-dev is looked for in."""
    places = _places(settings)
    return [path for path in (places.weights_dir, places.hub_cache, places.comfyui_dir) if path]


def _weights_dir(settings: EngineSettings) -> Path:
    return settings.weights_dir.expanduser().absolute()


def _places(settings: EngineSettings) -> Places:
    """The folders that the settings mean."""
    chosen = {"control_lora": settings.control_lora, "depth_estimator": settings.depth_estimator}
    named = {n: path.expanduser().absolute() for n, path in chosen.items() if path is not None}
    places = Places(_weights_dir(settings), hub_cache(), named=named)
    if settings.model == "demo":
        return dataclasses.replace(places, model=demo_folder())
    if settings.model == "flux":
        return dataclasses.replace(places, comfyui_dir=_comfyui_dir(settings))
    model = Path(settings.model).expanduser().absolute()
    if not isfile(model / MODEL_INDEX):
        raise WeightsMissingError(
            f"there is no model in {model} (no {MODEL_INDEX}).", fix=HOW_TO_GET_FLUX
        )
    return dataclasses.replace(places, model=model)


def _comfyui_dir(settings: EngineSettings) -> Path | None:
    if settings.comfyui_dir is None:
        return None
    folder = settings.comfyui_dir.expanduser().absolute()
    if not isdir(folder / "models"):
        raise WeightsMissingError(
            f"comfyui_dir={folder} has no folder models.",
            fix="Name the folder that ComfyUI itself lies in.",
        )
    return folder


def _refuse_missing(settings: EngineSettings, searches: Mapping[str, Search]) -> None:
    """Raise for everything that is nowhere; for the estimator only where a setting names it."""
    named = [name for name in ACCESSORIES if getattr(settings, name) is not None]
    missing = [
        one
        for name, one in searches.items()
        if one.found is None and (name != "depth_estimator" or name in named)
    ]
    if not missing:
        return
    is_flux = settings.model == "flux"
    where = ", ".join(map(str, flux_places(settings) if is_flux else [_places(settings).model]))
    told = [
        searches[name] for name in MODULES if searches[name].found or searches[name].passed_over
    ]
    told += [one for one in missing if one.kind.name in named]
    if is_flux and not told:
        message = f"there is no model in {where}: nothing of FLUX.1-dev is there."
    else:
        parts = ", ".join(_missing_part(one, say_where=not is_flux) for one in missing)
        message = f"the model in {where} is not whole; missing: {parts}."
    damaged = [_file_problems(one.found) for one in searches.values() if one.found is not None]
    raise WeightsMissingError(
        " ".join(filter(None, (message, *damaged))), fix=_how_to_get(settings, missing)
    )


def _file_problems(component: Component) -> str:
    """What is wrong with a component's weight files as files; empty where nothing is."""
    try:
        read_headers(component.weight_files())
    except WeightsCorruptError as error:
        return str(error)
    return ""


def _missing_part(one: Search, *, say_where: bool) -> str:
    """A component that is missing and, where that says more, what is there instead."""
    if one.passed_over:
        return f"{one.kind.title} ({'; '.join(one.passed_over)})"
    if len(one.looked) == 1:
        return f"{one.kind.title} ({one.looked[0]} is not there)"
    looked = ", ".join(map(str, one.looked))
    return f"{one.kind.title} (none of {looked} is there)" if say_where else one.kind.title


def _how_to_get(settings: EngineSettings, missing: Iterable[Search]) -> str:
    """What gets the missing components; pulling FLUX brings the usual rest along."""
    if settings.model == "demo":
        return ""
    names = list(dict.fromkeys(one.kind.entry.name for one in missing))
    if settings.model != "flux" or FLUX.name in names:
        return HOW_TO_GET_FLUX
    return f"Run: depthflux weights pull {' '.join(names)}, {OTHER_WAYS}"
