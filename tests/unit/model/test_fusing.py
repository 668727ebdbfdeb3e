"""Unfused weights kept in host memory: the same numbers, in few blocks."""

from __future__ import annotations

import pytest
import torch

from depthflux.model import fusing
from depthflux.model.fusing import packed


@pytest.mark.parametrize("block_bytes", [256, 1000, 4096, 2**30])
def test_packed_copies_are_equal_and_lie_apart(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(fusing, "BLOCK_BYTES", block_bytes)
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (16, 33), (1,), (40, 2, 3)]
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.bfloat16]
    given = {
        str(i): torch.randn(shape, generator=draw).to(dtype)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    }

    copies = packed(given, pin=False)
    copies["1"].zero_()

    assert all(torch.equal(copies[name], given[name]) for name in given if name != "1")
    assert all(copies[name].dtype == given[name].dtype for name in given)
    assert given["1"].any()


def test_many_small_tensors_share_a_block() -> None:
    given = {str(i): torch.ones(10) for i in range(50)}

    copies = packed(given, pin=False)

    assert len({tensor.untyped_storage().data_ptr() for tensor in copies.values()}) == 1
    assert copies["0"].untyped_storage().nbytes() == 50 * fusing.ALIGNMENT
