"""The reference profile against its oracle: FluxControlPipeline on the CPU in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxControlPipeline
from PIL import Image
from safetensors.torch import load_file

import depthflux

PROMPT = "a red sphere on a green floor, white sky"


def oracle_pipeline(folder: Path, lora_scale: float) -> FluxControlPipeline:
    pipeline = FluxControlPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.load_lora_weights(load_file(folder / "control_lora.safetensors"))
    pipeline.fuse_lora(lora_scale=lora_scale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def oracle_picture(
    pipeline: FluxControlPipeline, control: Image.Image, *, seed: int, size: tuple[int, int]
) -> np.ndarray:
    picture = pipeline(
        prompt=PROMPT,
        control_image=control.convert("RGB"),
        width=size[0],
        height=size[1],
        num_inference_steps=4,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(seed),
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
    ).images[0]
    return np.asarray(picture)


@pytest.mark.filterwarnings("ignore:You have saved the LoRA weights:UserWarning")
@pytest.mark.parametrize(
    ("scale_factor", "size", "control_scale"),
    [
        pytest.param(8, (512, 512), 1.0, id="flux-geometry-square"),
        pytest.param(8, (512, 640), 1.0, id="flux-geometry-portrait"),
        pytest.param(8, (512, 512), 0.6, id="weaker-control"),
        pytest.param(16, (512, 544), 1.0, id="demo-geometry"),
    ],
)
def test_reference_gives_the_pipelines_picture_bit_for_bit(
    scale_factor: int,
    size: tuple[int, int],
    control_scale: float,
    depth_ramp: Image.Image,
    request: pytest.FixtureRequest,
) -> None:
    folder = request.getfixturevalue(f"miniature_{scale_factor}x")
    engine = depthflux.load("reference", model=str(folder))

    prediction = engine.generate(
        prompt=PROMPT,
        control_image=depth_ramp,
        preprocess_depth=False,
        control_scale=control_scale,
        size=f"{size[0]}*{size[1]}",
        num_inference_steps=4,
        seed=1234567890,
        enable_safety_checker=False,
    )

    pipeline = oracle_pipeline(folder, control_scale)
    expected = oracle_picture(pipeline, prediction.depth_map, seed=1234567890, size=size)
    ours = np.asarray(prediction.images[0])
    assert ours.shape == (size[1], size[0], 3)
    assert ours.std() > 5, "a constant picture would prove nothing"
    assert np.array_equal(ours, expected)


def test_reference_differs_from_the_pipeline_at_another_seed(
    engine_8x: depthflux.Engine, miniature_8x: Path, depth_ramp: Image.Image
) -> None:
    """The oracle test above can fail: one seed further the pictures differ."""
    fields = {"prompt": PROMPT, "preprocess_depth": False, "size": "512*512"}
    prediction = engine_8x.generate(
        **fields, control_image=depth_ramp, num_inference_steps=4, seed=1234567891
    )

    pipeline = oracle_pipeline(miniature_8x, 1.0)
    expected = oracle_picture(pipeline, prediction.depth_map, seed=1234567890, size=(512, 512))
    assert not np.array_equal(np.asarray(prediction.images[0]), expected)
