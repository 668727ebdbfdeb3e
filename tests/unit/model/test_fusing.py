"""Fusing into quantized weights, and unfused weights kept in host memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depthflux.model import fusing
from depthflux.model.fusing import Delta, FusedLinears, packed
from depthflux.model.lora_file import Factors
from depthflux.model.placement import Placement
from depthflux.model.quantization import Kind, plain_tensors, quantize_linears, write_weight

CPU = Placement(torch.device("cpu"), torch.bfloat16, "as set")
#: What is fused into and quantized, what is only quantized, what is only fused into.
FUSED_AND_QUANTIZED, QUANTIZED, FUSED = "blocks.0.up", "blocks.0.down", "out"


class Master(dict[str, torch.Tensor]):
    """Unfused tensors in bfloat16, as FLUX's files are."""

    def read(self, name: str) -> torch.Tensor:
        return self[name]


def module_of_three(dtype: torch.dtype = torch.bfloat16) -> tuple[nn.Module, Master]:
    torch.manual_seed(0)
    blocks = nn.ModuleList(
        [nn.ModuleDict({"up": nn.Linear(32, 64), "down": nn.Linear(64, 32, bias=False)})]
    )
    module = nn.ModuleDict({"blocks": blocks, "out": nn.Linear(32, 16)}).bfloat16()
    master = Master({name: tensor.clone() for name, tensor in module.state_dict().items()})
    return module.to(dtype).requires_grad_(False), master


def deltas(scale: float) -> dict[str, list[Delta]]:
    draw = torch.Generator().manual_seed(1)
    wanted = {}
    for name, (rows, columns) in ((FUSED_AND_QUANTIZED, (64, 32)), (FUSED, (16, 32))):
        down, up = torch.randn(4, columns, generator=draw), torch.randn(rows, 4, generator=draw)
        bias = torch.randn(rows, generator=draw)
        wanted[name] = [Delta("lora", Factors(down, up, bias, 0.25), scale)]
    return wanted


def quantized(kind: Kind) -> tuple[nn.Module, FusedLinears]:
    module, master = module_of_three()
    quantize_linears(module, [FUSED_AND_QUANTIZED, QUANTIZED], kind, CPU)
    return module, FusedLinears(module, master, dtype=torch.float32)


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = plain_tensors(one.state_dict()), plain_tensors(other.state_dict())
    # As bytes: torch compares no float8 numbers.
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[n].view(torch.uint8), theirs[n].view(torch.uint8)) for n in ours
    )


# Into quantized weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize(
    "scales", [[0.3, 0.3], [1.0, 0.0, 1.0], [0.0, 2.0, 0.5], [2.0, 0.0]], ids=str
)
def test_any_sequence_of_scales_ends_where_a_fresh_fuse_and_quantization_ends(
    kind: Kind, scales: list[float]
) -> None:
    many, fused = quantized(kind)
    once, fresh = quantized(kind)

    for scale in scales:
        fused.fuse(deltas(scale))
    fresh.fuse(deltas(scales[-1]))

    assert equal(many, once)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_weights_are_rounded_once_from_the_float32_sum(kind: Kind) -> None:
    module, fused = quantized(kind)
    exact, master = module_of_three(torch.float32)
    fused.fuse(deltas(0.7))
    FusedLinears(exact, master, dtype=torch.float32).fuse(deltas(0.7))

    expected, _ = quantized(kind)
    for name in (FUSED_AND_QUANTIZED, QUANTIZED):
        write_weight(
            expected.get_parameter(f"{name}.weight"), exact.get_parameter(f"{name}.weight")
        )
    for name in (f"{FUSED_AND_QUANTIZED}.bias", f"{FUSED}.weight", f"{FUSED}.bias"):
        expected.get_parameter(name).copy_(exact.get_parameter(name))

    assert equal(module, expected)


def test_the_first_fuse_writes_all_quantized_weights_and_later_ones_what_changes() -> None:
    module, fused = quantized("int8")

    assert fused.fuse(deltas(0.0)) == 2, "both that are quantized; the plain one is unfused already"
    assert module.get_parameter(f"{QUANTIZED}.weight").qdata.any()
    assert fused.fuse(deltas(1.0)) == 2, "both that have a delta"
    assert fused.fuse(deltas(1.0)) == 0


def test_quantized_weights_keep_their_place_in_memory() -> None:
    module, fused = quantized("int8")
    fused.fuse(deltas(1.0))
    before = {n: t.data_ptr() for n, t in plain_tensors(module.state_dict()).items()}

    fused.fuse(deltas(0.5))

    assert {n: t.data_ptr() for n, t in plain_tensors(module.state_dict()).items()} == before


@pytest.mark.gpu
def test_weights_in_host_memory_are_summed_on_the_gpu() -> None:
    module, master = module_of_three()
    on_gpu, _ = module_of_three()
    on_gpu.cuda()
    device = torch.device("cuda:0")

    FusedLinears(module, master, dtype=torch.float32, device=device).fuse(deltas(0.7))
    FusedLinears(on_gpu, master, dtype=torch.float32).fuse(deltas(0.7))

    assert module.get_parameter(f"{FUSED}.weight").device.type == "cpu"
    assert equal(module, on_gpu.cpu())


# Kept in host memory ------------------------------------------------------------------------------


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
