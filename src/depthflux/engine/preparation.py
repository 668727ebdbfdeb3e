"""Fuse the transformer once and save it, so that the next start loads it as it is.

What `depthflux weights prepare` does; `depthflux.load` finds the result by itself. Knows nothing
of pictures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from depthflux.engine.failures import translated_load_failures
from depthflux.engine.selection import select_settings
from depthflux.errors import SettingsError, show
from depthflux.model.loading import load_transformer, open_component
from depthflux.model.placement import place
from depthflux.model.prepared import USUAL_SCALE, Prepared, ingredients_of, save_prepared
from depthflux.model.quantization import choose_quantization, plain_tensors
from depthflux.model.weights import find_model

LOWEST_SCALE, HIGHEST_SCALE = 0.0, 2.0


def prepare(
    target: str | Path = "auto", *, control_scale: float = USUAL_SCALE, **settings: Any
) -> Prepared:
    """Save the fused transformer under the settings' weights_dir.

    Args:
        target: as for `depthflux.load`.
        control_scale: what to fuse, 0 to 2; requests may have any other, which fuses anew.
        settings: single settings, as for `depthflux.load`.

    Raises:
        SettingsError: the control scale is out of range, or as for `depthflux.load`.
        WeightsMissingError: the model's files are not there.
        WeightsCorruptError: they are damaged or do not fit together.
        DeviceError: the device cannot be had, or cannot compute in what is quantized to.
        OutputError: weights_dir cannot be written to.
    """
    if not LOWEST_SCALE <= control_scale <= HIGHEST_SCALE:
        raise SettingsError(
            f"control_scale={show(control_scale)} is not allowed; allowed: a number from "
            f"{LOWEST_SCALE:g} to {HIGHEST_SCALE:g}."
        )
    values = select_settings(target, environment=os.environ, arguments=settings).values
    placement = place(values)
    quantized = choose_quantization(values.quantize, placement).kind
    files = find_model(values)
    if values.threads is not None:
        torch.set_num_threads(values.threads)
    ingredients = ingredients_of(files, placement, values.compat, quantized)
    with translated_load_failures(placement.device):
        fitted = open_component(files.components["transformer"])
        transformer, control_lora = load_transformer(
            fitted, files.control_lora, placement, compat=values.compat, quantized=quantized
        )
        control_lora.set_scale(control_scale)
    weights = plain_tensors(transformer.state_dict())
    return save_prepared(values.weights_dir.expanduser(), ingredients, control_scale, weights)
