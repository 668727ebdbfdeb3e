"""Where each component of a model is looked for: an ordered table of rules, the first match wins.

    named       what a setting names
    folder      a folder in weights_dir, as `depthflux weights pull` leaves it
    cache       the Hugging Face cache
    files       a single file in weights_dir
    comfyui     a single file in comfyui_dir
    own table   depthflux's own table, for the scheduler, which has no weights

Each component is found on its own, so a transformer of ComfyUI's and a T5 from the Hugging Face
cache go together. A rule matches where all files of the component are there; one where only some
are is passed over, and the search says so. Whether the files are good is not asked here: a damaged
file is an error, not a reason to take another in silence.

Knows nothing of what is inside the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from depthflux.model.catalogue import FLUX
from depthflux.model.components import ACCESSORIES, CHECKPOINTS, KINDS, Component, Kind, matching
from depthflux.model.flux_config import FLUX_CONFIG
from depthflux.model.hub_cache import snapshots


@dataclass(frozen=True)
class Places:
    """The folders of one search.

    Attributes:
        weights_dir: the setting.
        hub_cache: the Hugging Face cache.
        comfyui_dir: the setting; None where it is not used.
        model: a folder laid out like FLUX.1-dev's that everything is in.
        named: components that a setting names, and where.
    """

    weights_dir: Path
    hub_cache: Path
    comfyui_dir: Path | None = None
    model: Path | None = None
    named: Mapping[str, Path] = field(default_factory=dict)


class Rule(NamedTuple):
    """One place to look.

    Attributes:
        name: as `depthflux doctor` prints it.
        sentence: what it stands for, in words.
        candidates: the paths of a component there, best first; None is depthflux's own table.
    """

    name: str
    sentence: str
    candidates: Callable[[Kind, Places], Iterable[Path | None]]


@dataclass(frozen=True)
class Search:
    """What looking for one component came to.

    Attributes:
        kind: what was looked for.
        found: the component; None where it is nowhere.
        passed_over: what was there but cannot be used, and why.
        looked: the paths that were tried.
    """

    kind: Kind
    found: Component | None
    passed_over: tuple[str, ...]
    looked: tuple[Path, ...]


def _named(kind: Kind, places: Places) -> Iterable[Path]:
    return [places.named[kind.name]] if kind.name in places.named else []


def _in_model_folder(kind: Kind, places: Places) -> Iterable[Path]:
    return [places.model / name for name in kind.inside] if places.model else []


def _in_weights_dir(kind: Kind, places: Places) -> Iterable[Path]:
    inside = [places.weights_dir / FLUX.folder / name for name in kind.inside]
    return inside + [places.weights_dir / name for name in kind.beside]


def _in_hub_cache(kind: Kind, places: Places) -> Iterator[Path]:
    for repository, inside in kind.hub:
        for snapshot in snapshots(places.hub_cache, repository):
            yield snapshot / inside


def _files_in_weights_dir(kind: Kind, places: Places) -> Iterable[Path]:
    files = [places.weights_dir / name for name in kind.files]
    return files + (matching(places.weights_dir, kind.gguf) if kind.gguf else [])


def _beside_model_folder(kind: Kind, places: Places) -> Iterable[Path]:
    """Only what is published apart from FLUX.1-dev: the folder is to hold all the rest."""
    if kind.name not in ACCESSORIES:
        return []
    return [places.weights_dir / name for name in dict.fromkeys((*kind.beside, *kind.files))]


def _in_comfyui(kind: Kind, places: Places) -> Iterator[Path]:
    if places.comfyui_dir is None:
        return
    folders = [places.comfyui_dir / name for name in kind.comfyui]
    if not kind.files:
        yield from folders
    # ComfyUI finds files in folders of these folders, too; people keep one for each model.
    for pattern in filter(None, (*kind.files, kind.gguf)):
        for folder in folders:
            yield from matching(folder, pattern)
            yield from matching(folder, f"*/{pattern}")
    yield from (places.comfyui_dir / CHECKPOINTS / name for name in kind.bundles)


def _own_table(kind: Kind, _: Places) -> Iterable[None]:
    return [None] if kind.name == "scheduler" else []


NAMED = Rule("named", "a setting names it", _named)

#: For `model = "flux"`.
FLUX_RULES = (
    NAMED,
    Rule("folder", "a folder in weights_dir", _in_weights_dir),
    Rule("cache", "the Hugging Face cache", _in_hub_cache),
    Rule("files", "a single file in weights_dir", _files_in_weights_dir),
    Rule("comfyui", "in comfyui_dir", _in_comfyui),
    Rule("own table", "the numbers of FLUX.1-dev", _own_table),
)
#: For the path of a folder.
FOLDER_RULES = (
    NAMED,
    Rule("model", "the model's own folder", _in_model_folder),
    Rule("beside", "in weights_dir", _beside_model_folder),
)
#: For `model = "demo"`.
DEMO_RULES = (Rule("demo", "the packaged miniature", _in_model_folder),)


def search(rules: Iterable[Rule], places: Places) -> dict[str, Search]:
    """Look for every component, each on its own."""
    return {name: _search(kind, tuple(rules), places) for name, kind in KINDS.items()}


def _search(kind: Kind, rules: tuple[Rule, ...], places: Places) -> Search:
    # What a setting names is meant: nothing else takes its place where it is not there.
    rules = (NAMED,) if NAMED in rules and kind.name in places.named else rules
    passed_over: list[str] = []
    looked: list[Path] = []
    for rule in rules:
        for path in rule.candidates(kind, places):
            objection = None
            if path is not None:
                looked.append(path)
                objection = kind.objection(path)
            if objection is None:
                found = Component(
                    kind, path, rule.name, rule.sentence, _config(kind, path), tuple(passed_over)
                )
                return Search(kind, found, tuple(passed_over), tuple(looked))
            passed_over += [objection] if objection else []
    return Search(kind, None, tuple(passed_over), tuple(looked))


def _config(kind: Kind, path: Path | None) -> Mapping[str, object] | None:
    """FLUX.1-dev's own configuration for what is no folder of a pipeline, which has its own."""
    if path is not None and not kind.is_single(path) and path.name == kind.name:
        return None
    return FLUX_CONFIG.get(kind.name)
