"""Which weights are where, and whether they are whole: each part of a model on a line of its own.

Reads headers and one small model; knows nothing of machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthflux.cli.bytes_progress import in_words
from depthflux.errors import SetupError, WeightsCorruptError, WeightsMissingError
from depthflux.settings import EngineSettings, resolve_settings

if TYPE_CHECKING:
    from depthflux.model.components import Component
    from depthflux.model.discovery import Search

#: What to say of a part that is not there, where the line for the whole model does not say it.
NOT_THERE = {
    "depth_estimator": "not there: only supplied depth maps can be used; run: depthflux weights "
    "pull depth-small"
}


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what it is.
        ok: whether it can be used; None where it is not there and need not be.
        detail: what was found, in words.
        rule: the rule that found it, for a model's part.
        path: where it lies, for a model's part.
    """

    name: str
    ok: bool | None
    detail: str
    rule: str = ""
    path: str = ""


def check_demo(environment: Mapping[str, str]) -> list[Check]:
    """The packaged miniature's parts, as `depthflux demo` would load them."""
    return _check_model("demo", "demo", environment)


def check_flux(environment: Mapping[str, str]) -> list[Check]:
    """FLUX.1-dev's parts, the control LoRA and the estimator, each wherever it is found."""
    return _check_model("flux", "exact", environment)


def check_safety() -> Check:
    """The safety checker: its file is the pinned one, and it runs."""
    from PIL import Image

    from depthflux.safety import PACKAGE, PACKAGE_VERSION, SafetyChecker

    try:
        SafetyChecker().flags([Image.new("RGB", (64, 64))])
    except SetupError as error:
        return Check("safety checker", False, str(error))
    return Check("safety checker", True, f"{PACKAGE} {PACKAGE_VERSION}, sha256 as pinned")


def _check_model(label: str, profile: str, environment: Mapping[str, str]) -> list[Check]:
    """A line for the whole model and one for each of its parts."""
    from depthflux.model.weights import search_model

    try:
        settings = resolve_settings(
            profile, environment=environment, arguments={"model": label}
        ).values
        searches = search_model(settings)
    except SetupError as error:
        return [Check(label, False, str(error))]
    parts = [_check_part(label, one) for one in searches.values()]
    return [_check_whole(label, settings, parts), *parts]


def _check_whole(label: str, settings: EngineSettings, parts: list[Check]) -> Check:
    """Whether the parts make a model; without an estimator they do, for supplied depth maps."""
    from depthflux.model.components import MODULES
    from depthflux.model.placement import place
    from depthflux.model.weights import find_model

    try:
        place(settings)
        folder = find_model(settings).folder
    except WeightsMissingError as error:
        nothing = all(part.ok is None for part in parts if part.name.split()[-1] in MODULES)
        return Check(label, None if nothing else False, str(error))
    except SetupError as error:
        return Check(label, False, str(error))
    unusable = [part.name for part in parts if part.ok is False]
    if unusable:
        return Check(label, False, f"cannot be used: {', '.join(unusable)}")
    return Check(label, True, "all parts are there", path=str(folder))


def _check_part(label: str, searched: Search) -> Check:
    from depthflux.model.components import ACCESSORIES

    kind, found = searched.kind, searched.found
    name = f"{label} {kind.title if kind.name in ACCESSORIES else kind.name}"
    if found is None:
        if searched.passed_over:
            return Check(name, False, "; ".join(searched.passed_over))
        return Check(name, None, NOT_THERE.get(kind.name, "not there"))
    try:
        told = _judge(found)
    except SetupError as error:
        return Check(name, False, str(error), found.rule, str(found.place))
    notes = [f"passed over: {note}" for note in found.passed_over]
    if label != "demo":
        told = [*told, f"rule {found.rule} ({found.rule_in_words}): {found.place}"]
    return Check(name, True, "; ".join([*told, *notes]), found.rule, str(found.place))


def _judge(found: Component) -> list[str]:
    """A component's size and what else is to be known about it, in words.

    Raises:
        SetupError: it cannot be used.
    """
    from depthflux.model.headers import header_problem
    from depthflux.model.loading import open_component

    if found.kind.name == "depth_estimator":
        return _judge_estimator(found.place)
    files = found.weight_files()
    size = [in_words(sum(file.stat().st_size for file in files))] if files else []
    if found.kind.name == "control_lora":
        problem = header_problem(found.place)
        if problem:
            raise WeightsCorruptError(problem)
        return size
    rounded = getattr(open_component(found), "rounded", "")
    return [*size, *([f"stored in fp8 ({rounded}), so its numbers are rounded"] if rounded else [])]


def _judge_estimator(folder: Path) -> list[str]:
    from depthflux.depth.depth_anything import WEIGHTS_FILE, describe
    from depthflux.model.headers import header_problem

    card = describe(folder)
    problem = header_problem(folder / WEIGHTS_FILE)
    if problem:
        raise WeightsCorruptError(problem)
    return [in_words((folder / WEIGHTS_FILE).stat().st_size), f"{card.name}, {card.licence}"]
