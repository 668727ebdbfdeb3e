"""The modulation linears live on the device, on the host or nowhere; the pictures are the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import depthflux

REQUEST = {"prompt": "a red sphere", "size": "512*512", "num_inference_steps": 2, "seed": 6}


def load(model: Path, **settings: Any) -> depthflux.Engine:
    settings = {"order": "hoisted", "compat": "none", **settings}
    return depthflux.load("reference", model=str(model), **settings)


#: Prints the most tensor bytes alive when the last block runs, each storage once, and the bytes of
#: the modulation weights that are there. What is mapped from a file or empty is not there.
IN_THE_LOOP = """
import gc, sys
import numpy as np
import torch
import depthflux
from depthflux.engine.modulation import modulation_linears

engine = depthflux.load(
    "reference", model=sys.argv[1], order="hoisted", compat="none", modulation=sys.argv[2]
)

def tensor_bytes():
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())

seen = []
engine.transformer.single[-1].register_forward_hook(lambda *_: seen.append(tensor_bytes()))
ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3))
engine.generate(prompt="x", control_image=ramp, size="512*512", num_inference_steps=2, seed=1)
linears = [linear for _, linear in modulation_linears(engine.model.transformer)]
print(max(seen), sum(p.nbytes for linear in linears for p in linear.parameters() if not p.is_meta))
"""


def bytes_in_the_loop(model: Path, home: str) -> tuple[int, int]:
    """In a process of its own, where nothing is left of earlier tests."""
    words = [sys.executable, "-W", "ignore", "-c", IN_THE_LOOP, str(model), home]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    most, weights = map(int, run.stdout.split())
    return most, weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("home", ["host", "file"])
def test_the_home_changes_no_pixel_at_any_scale(
    home: str, dtype: str, miniature_8x: Path, room: Image.Image
) -> None:
    usual = load(miniature_8x, dtype=dtype)
    elsewhere = load(miniature_8x, dtype=dtype, modulation=home)
    painted = []

    for scale in (1.0, 0.3, 0.0, 1.0):
        request = REQUEST | {"control_scale": scale}
        theirs = usual.generate(**request, control_image=room).images[0].tobytes()
        painted.append(elsewhere.generate(**request, control_image=room).images[0].tobytes())
        assert painted[-1] == theirs

    assert len(set(painted)) == 3, "each scale has a picture of its own"


def test_in_the_file_the_loop_needs_less_memory_by_all_of_the_modulation_weights(
    miniature_8x: Path,
) -> None:
    with_them, weights = bytes_in_the_loop(miniature_8x, "device")
    without, none = bytes_in_the_loop(miniature_8x, "file")

    assert none == 0
    assert with_them - without == pytest.approx(weights, rel=0.02)
    assert weights > 50_000, "too little to prove anything"


def test_a_linear_in_the_file_is_made_for_the_caller_and_not_kept(miniature_8x: Path) -> None:
    engine = load(miniature_8x, modulation="file")
    engine.model.control_lora.set_scale(0.5)

    first, second = (engine.model.control_lora.linear("norm_out.linear") for _ in range(2))

    assert first is not second
    assert torch.equal(first.weight, second.weight)
    own = engine.model.transformer.get_submodule("norm_out.linear")
    assert own.weight.is_meta
    assert engine.model.control_lora.linear("proj_out") is engine.model.transformer.proj_out
