"""Whether a model fits, said before its weights are read, with the profile that does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import depthflux
from depthflux.engine.preflight import choose_lossless, footprint_of, measure, require_fit
from depthflux.errors import SettingsError
from depthflux.model.footprint import FLUX_SIZE
from depthflux.model.loading import open_model
from depthflux.settings import ResolvedSettings, resolve_settings

CPU = torch.device("cpu")


def resolved(profile: str, limit_gb: float | None, **settings: Any) -> ResolvedSettings:
    """A profile's settings on a simulated device of a given size."""
    return resolve_settings(
        profile, arguments={"device": "cpu", "memory_limit_gb": limit_gb, **settings}
    )


@pytest.mark.parametrize(
    ("profile", "limit_gb", "advice"),
    [
        ("exact", 25.0, "The profile gpu24 fits and loses nothing"),
        ("exact", 16.5, "The profile gpu16 fits and rounds the blocks' weights"),
        ("gpu24", 12.2, "The profile gpu12 fits and rounds the blocks' weights"),
        ("gpu12", 8.0, "No profile for a GPU fits; .* the profile cpu"),
    ],
)
def test_a_named_profile_that_does_not_fit_is_refused_with_the_one_that_does(
    profile: str, limit_gb: float, advice: str
) -> None:
    with pytest.raises(SettingsError, match=advice) as caught:
        require_fit(FLUX_SIZE, resolved(profile, limit_gb), CPU)

    message = str(caught.value)
    assert message.startswith(f"profile {profile} needs ")
    assert f"of which {limit_gb} GB can be had" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("profile", "limit_gb"),
    [("exact", 40.0), ("gpu24", 25.0), ("gpu16", 16.5), ("gpu12", 12.2), ("exact", None)],
)
def test_a_profile_that_fits_is_not_refused(profile: str, limit_gb: float | None) -> None:
    footprint = require_fit(FLUX_SIZE, resolved(profile, limit_gb), CPU)

    assert limit_gb is None or footprint.peak_bytes <= limit_gb * 1e9


@pytest.mark.parametrize(
    ("limit_gb", "chosen"), [(None, "exact"), (79.0, "exact"), (39.0, "exact"), (25.0, "gpu24")]
)
def test_auto_takes_the_best_profile_that_loses_nothing(
    limit_gb: float | None, chosen: str
) -> None:
    assert choose_lossless(FLUX_SIZE, lambda name: resolved(name, limit_gb)) == chosen


@pytest.mark.parametrize(("limit_gb", "offered"), [(16.5, "gpu16"), (12.2, "gpu12")])
def test_auto_never_rounds_but_says_which_profile_would(limit_gb: float, offered: str) -> None:
    with pytest.raises(SettingsError, match="loses nothing fits: gpu24 needs") as caught:
        choose_lossless(FLUX_SIZE, lambda name: resolved(name, limit_gb))

    assert f"The profile {offered} fits and rounds" in str(caught.value)


def test_auto_counts_what_the_caller_set() -> None:
    """Twice the bytes a weight: what fitted in bfloat16 does not in float32."""
    with pytest.raises(SettingsError, match="loses nothing fits"):
        choose_lossless(FLUX_SIZE, lambda name: resolved(name, 25.0, dtype="float32"))


def test_the_miniature_is_not_sent_to_a_profile_of_flux() -> None:
    with pytest.raises(SettingsError, match="Raise memory_limit_gb"):
        require_fit(FLUX_SIZE, resolved("demo", 0.5), CPU)


def test_a_model_is_measured_before_its_weights_are_read(miniature_8x: Path) -> None:
    model = depthflux.load("reference", model=str(miniature_8x)).model

    size = measure(model.files, open_model(model.files))

    grown = model.transformer.x_embedder.weight.numel() // 2
    assert size.transformer + grown == sum(p.numel() for p in model.transformer.parameters())
    assert size.vae == sum(p.numel() for p in model.vae.parameters())
    assert size.grid == model.grid
    assert size.estimator > 0


def test_the_size_asked_for_decides() -> None:
    values = resolved("gpu24", None).values

    small, large = (footprint_of(FLUX_SIZE, values, CPU, s) for s in ("512*512", "1536*1536"))

    assert large.peak_bytes - small.peak_bytes > 3e9
