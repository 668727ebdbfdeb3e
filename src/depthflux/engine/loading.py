"""Load an engine: settings, what cannot work refused, the model, then how it runs.

Everything that can be refused is refused before a weight is read. Knows nothing of requests.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from depthflux.depth.depth_anything import DepthAnything
from depthflux.engine.compilation import compile_model
from depthflux.engine.denoiser import HoistedTransformer
from depthflux.engine.engine import Engine
from depthflux.engine.failures import translated_load_failures
from depthflux.engine.preflight import measure, require_fit
from depthflux.engine.selection import select_settings
from depthflux.engine.switches import check_switches
from depthflux.model.loading import Model, load_model, open_model
from depthflux.model.placement import hold_to_limit, place
from depthflux.model.prepared import find_prepared, ingredients_of
from depthflux.model.quantization import choose_quantization
from depthflux.model.weights import ModelFiles, find_model
from depthflux.safety import SafetyChecker
from depthflux.settings import ResolvedSettings

logger = logging.getLogger("depthflux")


def load(target: str | Path = "auto", **settings: Any) -> Engine:
    """Load an engine.

    Args:
        target: `auto` (FLUX where its weights are, else the packaged miniature where there is no
            CUDA either), a profile's name, the path of a profile's `.toml` file, or a folder laid
            out like FLUX.1-dev's.
        settings: single settings that win over the profile's, see `EngineSettings`.

    Raises:
        SettingsError: an unknown profile or setting, or a combination that cannot work.
        WeightsMissingError: the model's files are not there.
        WeightsCorruptError: they are damaged or do not fit together.
        DeviceError: the asked device cannot be had.
    """
    resolved = select_settings(target, environment=os.environ, arguments=settings)
    values = resolved.values
    placement = place(values)
    check_switches(values, placement)
    quantization = choose_quantization(values.quantize, placement)
    files = find_model(values)
    if values.threads is not None:
        torch.set_num_threads(values.threads)
    hold_to_limit(placement.device, values.memory_limit_gb)
    components = open_model(files)
    require_fit(measure(files, components), resolved, placement.device)
    with translated_load_failures(placement.device):
        ingredients = ingredients_of(files, placement, values.compat, quantization.kind)
        model = load_model(
            files,
            placement,
            compat=values.compat,
            master=values.master,
            modulation=values.modulation,
            text_encoders=values.text_encoders,
            components=components,
            quantized=quantization.kind,
            prepared=find_prepared(values.weights_dir.expanduser(), ingredients),
        )
        estimator = _load_estimator(files, placement.device)
    return engine_of(resolved, model, estimator)


def engine_of(resolved: ResolvedSettings, model: Model, estimator: DepthAnything | None) -> Engine:
    """An engine around a model that is loaded already; its blocks are packed and compiled.

    Args:
        resolved: the settings that the model was loaded with.
        model: whose control scale is still to be set.
        estimator: None where depth maps are supplied.

    Raises:
        DeviceError: something that the settings ask for cannot be had here.
    """
    values = resolved.values
    threshold = values.safety_threshold
    safety = SafetyChecker() if threshold is None else SafetyChecker(threshold=threshold)
    transformer = hoist(model) if values.order == "hoisted" else None
    compilation = compile_model(model, transformer, values)
    logger.info(
        "%s on %s in %s, compiled: %s (%s)",
        model.id,
        model.placement.device,
        values.dtype,
        compilation.applied,
        compilation.reason,
    )
    return Engine(resolved, model, estimator, safety, compilation, transformer)


def hoist(model: Model) -> HoistedTransformer:
    """Bring a model into the order in which what is constant is computed once."""
    # Convolutions are faster so, on GPUs and CPUs. In float32 the encoder stays as it is: the CPU's
    # kernels for this layout err ten times as much, and what they err the whole run is built on.
    model.vae.decoder.to(memory_format=torch.channels_last)
    if model.placement.dtype != torch.float32:
        model.vae.encoder.to(memory_format=torch.channels_last)
    return HoistedTransformer(model.transformer)


def _load_estimator(files: ModelFiles, device: torch.device) -> DepthAnything | None:
    """The depth estimator of a model; None where it has none, which is said."""
    if files.estimator is None:
        logger.warning("No depth estimator beside %s: supply depth maps.", files.folder)
        return None
    # float32: the estimator is small, and its depth then does not depend on the profile.
    return DepthAnything.load(files.estimator, device=device)
