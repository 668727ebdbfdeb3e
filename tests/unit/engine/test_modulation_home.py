"""The modulation linears live on the device, on the host or nowhere; the pictures are the same."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import depthflux
from depthflux.engine.modulation import modulation_linears

REQUEST = {"prompt": "a red sphere", "size": "512*512", "num_inference_steps": 2, "seed": 6}


def load(model: Path, **settings: Any) -> depthflux.Engine:
    settings = {"order": "hoisted", "compat": "none", **settings}
    return depthflux.load("reference", model=str(model), **settings)


def tensor_bytes() -> int:
    """Of all tensors alive, each storage once; what is mapped from a file or empty is not there."""
    storages = {}
    for thing in gc.get_objects():
        # By its type: asking some things for their class warns that they are deprecated. And no
        # FakeTensor, which compiling in earlier tests may have left.
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def bytes_in_the_loop(engine: depthflux.Engine, room: Image.Image) -> int:
    """The most tensor bytes alive when a block of the last step runs."""
    seen: list[int] = []
    block = engine.transformer.single[-1]
    hook = block.register_forward_hook(lambda *_: seen.append(tensor_bytes()))
    engine.generate(**REQUEST, control_image=room)
    hook.remove()
    return max(seen)


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
    miniature_8x: Path, room: Image.Image
) -> None:
    usual = load(miniature_8x)
    weights = sum(
        parameter.nbytes
        for _, linear in modulation_linears(usual.model.transformer)
        for parameter in linear.parameters()
    )
    with_them = bytes_in_the_loop(usual, room)
    del usual
    gc.collect()

    without = bytes_in_the_loop(load(miniature_8x, modulation="file"), room)

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
