"""Preparing weights: the next start loads what a fresh fuse would have made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import depthflux
from depthflux.engine.preparation import prepare
from depthflux.model.prepared import FOLDER

REQUEST = {"prompt": "a red sphere", "size": "512*512", "num_inference_steps": 2, "seed": 3}


def weights(engine: depthflux.Engine) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in engine.model.transformer.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prepared_start_has_the_weights_of_a_fresh_fuse_and_fuses_nothing(
    miniature_8x: Path, tmp_path: Path, dtype: str
) -> None:
    settings = {"model": str(miniature_8x), "weights_dir": tmp_path, "dtype": dtype}
    fresh = depthflux.load("exact", **settings)
    fresh.model.control_lora.set_scale(1.0)

    prepare("exact", **settings)
    started = depthflux.load("exact", **settings)

    assert started.model.control_lora.scale == 1.0
    assert started.model.control_lora.set_scale(1.0) == 0, "no linear is left to fuse"
    ours, wanted = weights(started), weights(fresh)
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_from_a_prepared_start_any_other_scale_is_exact(miniature_8x: Path, tmp_path: Path) -> None:
    settings = {"model": str(miniature_8x), "weights_dir": tmp_path}
    fresh = depthflux.load("exact", **settings)
    prepare("exact", **settings, control_scale=0.5)
    started = depthflux.load("exact", **settings)
    assert started.model.control_lora.scale == 0.5

    for scale in (1.7, 0.0):
        started.model.control_lora.set_scale(scale)
        fresh.model.control_lora.set_scale(scale)
        ours, wanted = weights(started), weights(fresh)
        assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_a_prepared_engine_paints_the_same_picture(
    miniature_8x: Path, tmp_path: Path, depth_ramp: object, engine_8x: depthflux.Engine
) -> None:
    settings = {"model": str(miniature_8x), "weights_dir": tmp_path}
    prepare("reference", **settings)
    started = depthflux.load("reference", **settings)

    fields = {**REQUEST, "control_image": depth_ramp, "preprocess_depth": False}
    ours, theirs = (e.generate(**fields).images[0] for e in (started, engine_8x))

    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_what_another_profile_prepared_is_passed_over(miniature_8x: Path, tmp_path: Path) -> None:
    settings = {"model": str(miniature_8x), "weights_dir": tmp_path}
    prepare("reference", **settings)

    assert depthflux.load("exact", **settings).model.control_lora.scale is None
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


@pytest.mark.parametrize("scale", [-0.1, 2.1, float("nan")])
def test_a_control_scale_out_of_range_is_refused(miniature_8x: Path, scale: float) -> None:
    with pytest.raises(depthflux.SettingsError, match=r"control_scale=.*from 0 to 2"):
        prepare("exact", model=str(miniature_8x), control_scale=scale)
