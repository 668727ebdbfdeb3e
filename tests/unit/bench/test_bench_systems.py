"""The systems on a model that is small enough for a test, watched without being changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from depthflux.bench.models import SMALL, RandomSource
from depthflux.bench.sizes import depth_map
from depthflux.bench.systems import Pipeline, Task, canvas_request
from depthflux.errors import InvalidParameterError
from depthflux.model.placement import Placement


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    blocks = {"num_layers": 1, "num_single_layers": 1}
    source = RandomSource("a test's", replace(SMALL, transformer=SMALL.transformer | blocks))
    model = source.model(Placement(torch.device("cpu"), torch.float32, "a test"))
    return Pipeline("E", model)


def task_of(**changed: object) -> Task:
    fields = {
        "prompt": "a red cube",
        "control": depth_map(128, 96, 1),
        "width": 128,
        "height": 96,
        "steps": 3,
        "num_images": 1,
        "seed": 1,
    }
    return Task(**{**fields, **changed})


def test_a_pipeline_s_parts_are_timed_and_add_up(pipeline: Pipeline) -> None:
    run = pipeline.run(task_of())

    assert run.phases_milliseconds.keys() == {"prompt", "control", "denoise", "decode"}
    assert run.phases_milliseconds["denoise"] == pytest.approx(1000 * run.denoise_seconds, abs=1e-2)
    assert sum(run.phases_milliseconds.values()) < 1000 * run.wall_seconds
    # Two of three steps: before the first lies other work.
    assert len(run.step_milliseconds) == 2
    assert sum(run.step_milliseconds) < 1000 * run.denoise_seconds


def test_watching_leaves_nothing_behind(pipeline: Pipeline) -> None:
    inner = pipeline.pipeline
    before = [set(inner.__dict__), set(inner.vae.__dict__)]

    pipeline.run(task_of(steps=1))

    assert [set(inner.__dict__), set(inner.vae.__dict__)] == before
    assert not inner.transformer._forward_hooks


def test_watching_keeps_a_method_that_was_replaced_before(pipeline: Pipeline) -> None:
    vae, calls = pipeline.pipeline.vae, []
    plain = vae.decode

    def compiled(*words: object, **options: object) -> object:
        calls.append(1)
        return plain(*words, **options)

    vae.decode = compiled
    pipeline.run(task_of(steps=1))

    assert calls == [1]
    assert vae.__dict__.pop("decode") is compiled


def test_each_picture_has_a_seed_of_its_own(pipeline: Pipeline) -> None:
    two = pipeline.run(task_of(steps=1, num_images=2)).pictures
    second = pipeline.run(task_of(steps=1, seed=2)).pictures[0]

    assert np.abs(two[1].astype(int) - second).max() <= 1
    assert np.abs(two[0].astype(int) - second).max() > 1


def test_a_tier_s_request_paints_the_canvas_that_diffusers_rounds_to() -> None:
    control = Image.new("L", (864, 1632), 7)

    request = canvas_request(task_of(control=control, width=864, height=1632))

    assert request.dimensions == (864, 1632)
    assert request.with_seed_drawn().picture_seeds() == [1]
    assert not request.preprocess_depth


def test_a_tier_s_request_keeps_the_other_fields_ranges() -> None:
    with pytest.raises(InvalidParameterError, match="num_inference_steps=0"):
        canvas_request(task_of(steps=0))
