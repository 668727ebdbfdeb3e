"""On a CUDA device: the exact profile in bfloat16, compiled, against the CPU's reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import depthflux

REQUEST = {"prompt": "a red sphere", "size": "512*640", "num_inference_steps": 4, "seed": 7}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
def test_exact_compiles_on_cuda_and_paints_what_the_reference_paints(
    miniature_8x: Path, engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    engine = depthflux.load("exact", model=str(miniature_8x))
    prediction = engine.generate(**REQUEST, control_image=room)

    expected = engine_8x.generate(**REQUEST, control_image=room)
    ours, theirs = (np.asarray(p.images[0], dtype=float) for p in (prediction, expected))
    assert engine.compilation.applied
    assert prediction.record["ran"]["dtype"] == "bfloat16"
    assert prediction.record["ran"]["compiled"] is True
    assert prediction.record["ran"]["reason"] == "auto: on CUDA"
    assert np.abs(ours - theirs).mean() < 4, "grey values; bfloat16 keeps 8 bits"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
def test_the_same_seed_gives_the_same_picture_twice_on_cuda(
    miniature_8x: Path, room: Image.Image
) -> None:
    engine = depthflux.load("exact", model=str(miniature_8x), compile=False)
    first, second = (engine.generate(**REQUEST, control_image=room) for _ in range(2))

    assert np.array_equal(np.asarray(first.images[0]), np.asarray(second.images[0]))
