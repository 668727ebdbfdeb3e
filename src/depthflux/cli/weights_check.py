"""Which weights are where, and whether they are whole: each part of a model on a line of its own.

Reads headers and one small model; knows nothing of machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthflux.errors import DepthFluxError, WeightsMissingError
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


def check_demo() -> list[Check]:
    """The packaged miniature's parts."""
    return _check_parts("demo", resolve_settings("demo").values)


def check_flux(environment: Mapping[str, str]) -> list[Check]:
    """FLUX.1-dev's parts, the control LoRA and the estimator, in the weights folder."""
    from depthflux.model.weights import (
        CONTROL_LORA_FILES,
        ESTIMATOR_FOLDERS,
        FLUX_FOLDER,
        flux_is_there,
    )

    try:
        settings = resolve_settings("exact", environment=environment).values
    except DepthFluxError as error:
        return [Check("flux", False, str(error))]
    if flux_is_there(settings):
        return _check_parts("flux", settings)
    folder = settings.weights_dir.absolute()
    return [
        Check("flux", None, f"not there: {folder / FLUX_FOLDER}"),
        _one_of("flux control LoRA", folder, CONTROL_LORA_FILES),
        _one_of("flux depth estimator", folder, ESTIMATOR_FOLDERS),
    ]


def check_safety() -> Check:
    """The safety checker: its file is the pinned one, and it runs."""
    from PIL import Image

    from depthflux.safety import PACKAGE, PACKAGE_VERSION, SafetyChecker

    try:
        SafetyChecker().flags([Image.new("RGB", (64, 64))])
    except DepthFluxError as error:
        return Check("safety checker", False, str(error))
    return Check("safety checker", True, f"{PACKAGE} {PACKAGE_VERSION}, sha256 as pinned")


def _check_parts(label: str, settings: EngineSettings) -> list[Check]:
    from depthflux.model.weights import COMPONENT_WEIGHTS, find_model

    try:
        files = find_model(settings)
    except WeightsMissingError as error:
        return [Check(label, False, str(error))]
    checks = [_check_whole(label, files)]
    for name in COMPONENT_WEIGHTS:
        try:
            checks.append(_check_files(f"{label} {name}", files.component_files(name)))
        except DepthFluxError as error:
            checks.append(Check(f"{label} {name}", False, str(error)))
    checks.append(_check_files(f"{label} control LoRA", [files.control_lora]))
    return [*checks, _check_estimator(f"{label} depth estimator", files)]


def _check_estimator(name: str, files: ModelFiles) -> Check:
    from depthflux.depth.depth_anything import DEMO, describe

    if files.estimator is None:
        return Check(name, None, "not there: only supplied depth maps can be used")
    try:
        card = DEMO if files.is_demo else describe(files.estimator)
    except DepthFluxError as error:
        return Check(name, False, str(error))
    weights = _check_files(name, [files.estimator / "model.safetensors"])
    return Check(name, weights.ok, f"{weights.detail}; {card.name}, {card.licence}")


def _check_whole(label: str, files: ModelFiles) -> Check:
    try:
        files.check()
    except DepthFluxError as error:
        return Check(label, False, str(error))
    return Check(label, True, str(files.folder))


def _check_files(name: str, paths: list[Path]) -> Check:
    from depthflux.model.weights import header_problem

    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        return Check(name, False, f"missing: {', '.join(missing)}")
    problems = [problem for path in paths if (problem := header_problem(path))]
    if problems:
        return Check(name, False, " ".join(problems))
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    size = f"{megabytes:.1f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
    return Check(name, True, size)


def _one_of(name: str, folder: Path, candidates: tuple[str, ...]) -> Check:
    found = next((folder / each for each in candidates if (folder / each).exists()), None)
    if found is None:
        return Check(name, None, f"not there: {folder / candidates[-1]}")
    return Check(name, True, str(found))
