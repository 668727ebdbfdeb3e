"""Which settings a load asks for: what `auto`, a profile's name or a path mean on this machine.

Knows which weights and devices are there; loads nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from depthflux.engine.preflight import choose_lossless
from depthflux.errors import SettingsError, WeightsMissingError, show
from depthflux.model.footprint import FLUX_SIZE
from depthflux.model.weights import HOW_TO_GET_FLUX, flux_is_there, flux_places
from depthflux.settings import ENVIRONMENT_PREFIX, ResolvedSettings, resolve_settings

logger = logging.getLogger("depthflux")


def select_settings(
    target: str | Path, *, environment: Mapping[str, str], arguments: Mapping[str, Any]
) -> ResolvedSettings:
    """The settings that a target stands for.

    Args:
        target: `auto`; a profile's name; the path of a profile's `.toml` file; or a model's folder,
            which runs in the `exact` profile.
        environment: the process's variables; `DEPTHFLUX_PROFILE` says what `auto` is.
        arguments: settings given by the caller, strongest of all.

    Raises:
        SettingsError: an unknown profile, or settings that cannot work.
        WeightsMissingError: `auto` on a machine with CUDA but without FLUX's weights.
    """
    if not isinstance(target, str | Path):
        raise SettingsError(
            f"{show(target)} is nothing that can be loaded; give auto, a profile's name or a path."
        )
    if str(target) == "auto":
        target = environment.get(f"{ENVIRONMENT_PREFIX}PROFILE") or "auto"
    if str(target) == "auto":
        target = _choose_profile(environment, arguments)
    elif _is_folder(target):
        # Absolute, so that a folder called "demo" or "flux" is not taken for the word.
        arguments = {"model": str(Path(target).expanduser().absolute()), **arguments}
        target = "exact"
    return resolve_settings(target, environment=environment, arguments=arguments)


def _choose_profile(environment: Mapping[str, str], arguments: Mapping[str, Any]) -> str:
    """FLUX where its weights are; the miniature where there is neither them nor CUDA."""
    settings = resolve_settings("exact", environment=environment, arguments=arguments).values
    cuda = torch.cuda.is_available()
    if settings.model == "demo":
        return "demo"
    if settings.model != "flux" or flux_is_there(settings):
        if not cuda:
            logger.warning("No CUDA device: FLUX runs on the CPU, hours for a picture.")
            return "cpu"
        if settings.model != "flux":
            return "exact"
        return choose_lossless(
            FLUX_SIZE,
            lambda name: resolve_settings(name, environment=environment, arguments=arguments),
        )
    looked = ", ".join(map(str, flux_places(settings)))
    if cuda:
        raise WeightsMissingError(f"there is no FLUX.1-dev in {looked}.", fix=HOW_TO_GET_FLUX)
    logger.warning(
        "No CUDA device and no FLUX.1-dev in %s: running the packaged miniature "
        "(depthflux/demo), which paints toy scenes only.",
        looked,
    )
    return "demo"


def _is_folder(target: str | Path) -> bool:
    # A bare word is a profile's name even where a folder happens to be called so.
    is_path = isinstance(target, Path) or "/" in target or "\\" in target
    return is_path and Path(target).expanduser().suffix != ".toml"
