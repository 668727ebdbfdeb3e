"""Which weights are where, and whether they are whole: each part of a model on a line of its own.

Reads headers and one small model; knows nothing of machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthflux.errors import SettingsError, SetupError
from depthflux.settings import EngineSettings, resolve_settings

if TYPE_CHECKING:
    from depthflux.model.weights import ModelFiles


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what it is.
        ok: whether it can be used; None where it is not there and need not be.
        detail: what was found, in words.
    """

    name: str
    ok: bool | None
    detail: str


def check_demo(environment: Mapping[str, str]) -> list[Check]:
    """The packaged miniature's parts, as `depthflux demo` would load them."""
    try:
        settings = resolve_settings(
            "demo", environment=environment, arguments={"model": "demo"}
        ).values
    except SettingsError as error:
        return [Check("demo", False, str(error))]
    return _check_parts("demo", settings)


def check_flux(environment: Mapping[str, str]) -> list[Check]:
    """FLUX.1-dev's parts, the control LoRA and the estimator, in the weights folder."""
    from depthflux.model.weights import (
        CONTROL_LORA_FILES,
        ESTIMATOR_FOLDERS,
        flux_folder,
        flux_is_there,
    )

    try:
        settings = resolve_settings(
            "exact", environment=environment, arguments={"model": "flux"}
        ).values
    except SettingsError as error:
        return [Check("flux", False, str(error))]
    if flux_is_there(settings):
        return _check_parts("flux", settings)
    folder = flux_folder(settings)
    loras = [folder.parent / name for name in CONTROL_LORA_FILES]
    estimators = [folder.parent / name for name in ESTIMATOR_FOLDERS]
    return [
        Check("flux", None, f"not there: {folder}"),
        _check_one_of("flux control LoRA", loras, lambda name, path: _check_files(name, [path])),
        _check_one_of("flux depth estimator", estimators, _check_estimator),
    ]


def check_safety() -> Check:
    """The safety checker: its file is the pinned one, and it runs."""
    from PIL import Image

    from depthflux.safety import PACKAGE, PACKAGE_VERSION, SafetyChecker

    try:
        SafetyChecker().flags([Image.new("RGB", (64, 64))])
    except SetupError as error:
        return Check("safety checker", False, str(error))
    return Check("safety checker", True, f"{PACKAGE} {PACKAGE_VERSION}, sha256 as pinned")


def _check_parts(label: str, settings: EngineSettings) -> list[Check]:
    from depthflux.model.placement import place
    from depthflux.model.weights import COMPONENT_WEIGHTS, find_model

    try:
        place(settings)
        files = find_model(settings)
    except SetupError as error:
        return [Check(label, False, str(error))]
    checks = [_check_whole(label, files)]
    for name in COMPONENT_WEIGHTS:
        try:
            checks.append(_check_files(f"{label} {name}", files.component_files(name)))
        except SetupError as error:
            checks.append(Check(f"{label} {name}", False, str(error)))
    checks.append(_check_files(f"{label} control LoRA", [files.control_lora]))
    name = f"{label} depth estimator"
    if files.estimator is None:
        missing = Check(name, None, "not there: only supplied depth maps can be used")
        return [*checks, missing]
    return [*checks, _check_estimator(name, files.estimator)]


def _check_one_of(name: str, candidates: list[Path], check: Callable[[str, Path], Check]) -> Check:
    found = next((path for path in candidates if path.exists()), None)
    return (
        Check(name, None, f"not there: {candidates[-1]}") if found is None else check(name, found)
    )


def _check_estimator(name: str, folder: Path) -> Check:
    from depthflux.depth.depth_anything import WEIGHTS_FILE, describe

    try:
        card = describe(folder)
    except SetupError as error:
        return Check(name, False, str(error))
    weights = _check_files(name, [folder / WEIGHTS_FILE])
    return Check(name, weights.ok, f"{weights.detail}; {card.name}, {card.licence}")


def _check_whole(label: str, files: ModelFiles) -> Check:
    try:
        files.check()
    except SetupError as error:
        return Check(label, False, str(error))
    return Check(label, True, str(files.folder))


def _check_files(name: str, paths: list[Path]) -> Check:
    from depthflux.model.headers import header_problem

    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        return Check(name, False, f"missing: {', '.join(missing)}")
    problems = [problem for path in paths if (problem := header_problem(path))]
    if problems:
        return Check(name, False, " ".join(problems))
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    size = f"{megabytes:.1f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
    return Check(name, True, size)
