"""8-bit weights: what is chosen, which linears, how exactly, and that they are written in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import accelerate
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from depthflux.errors import DeviceError, SettingsError
from depthflux.model.flux_config import FLUX_CONFIG
from depthflux.model.placement import Placement
from depthflux.model.quantization import (
    Kind,
    choose_quantization,
    is_quantized,
    joined_rows,
    large_linears,
    quantize_linears,
    rows_of,
    write_weight,
)

CPU = Placement(torch.device("cpu"), torch.bfloat16, "as set")
KINDS: list[Kind] = ["int8", "fp8"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers of the size of FLUX's weights, float32."""
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(values: torch.Tensor, kind: Kind) -> torch.Tensor:
    holder = nn.ModuleDict({"linear": nn.Linear(values.shape[1], values.shape[0], device="meta")})
    quantize_linears(holder, ["linear"], kind, CPU)
    weight: torch.Tensor = holder.get_parameter("linear.weight")
    write_weight(weight, values)
    return weight


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.qdata, other.qdata) and torch.equal(one.scale, other.scale)


# What is chosen -----------------------------------------------------------------------------------


def test_nothing_is_quantized_unasked() -> None:
    assert not choose_quantization("none", CPU).applied


def test_auto_is_int8_on_the_cpu_and_says_why() -> None:
    chosen = choose_quantization("auto", CPU)

    assert chosen.kind == "int8"
    assert chosen.reason == "auto: no fp8, the CPU does not compute in it"


def test_fp8_on_the_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"quantize=fp8: the CPU does not.*Use quantize=int8"):
        choose_quantization("fp8", CPU)


def test_without_torchao_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)

    assert choose_quantization("none", CPU).kind == "none"
    with pytest.raises(SettingsError, match=r"quantize=int8.*pip install 'depthflux\[fast\]'"):
        choose_quantization("int8", CPU)


# Which linears ------------------------------------------------------------------------------------


def test_the_large_linears_are_those_of_the_blocks_but_the_modulation() -> None:
    with accelerate.init_empty_weights():
        flux = FluxTransformer2DModel.from_config(FLUX_CONFIG["transformer"])

    names = large_linears(flux)

    assert len(names) == 19 * 12 + 38 * 5
    assert not [name for name in names if "norm" in name]
    # 57 blocks of 3072 wide: 24 d² a double, 12 d² a single block.
    count = sum(flux.get_parameter(f"{name}.weight").numel() for name in names)
    assert count == (19 * 24 + 38 * 12) * 3072**2


def test_sides_that_the_matrix_product_cannot_take_are_refused() -> None:
    holder = nn.ModuleDict({"odd": nn.Linear(64, 72)})

    with pytest.raises(DeviceError, match=r"odd is \[72, 64\].*multiples of 16"):
        quantize_linears(holder, ["odd"], "int8", CPU)


# How exactly --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_quantized_apart_equal_the_whole(kind: Kind) -> None:
    values = drawn(96, 64)

    apart = joined_rows([quantized(values[:32], kind), quantized(values[32:], kind)])

    assert equal(apart, quantized(values, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_is_zeros(kind: Kind) -> None:
    values = drawn(32, 64)
    values[3] = 0

    back = quantized(values, kind).dequantize()

    assert back.isfinite().all()
    assert not back[3].any()


def test_int8_weights_are_those_of_torchaos_own_recipe() -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    linear = nn.Linear(64, 96, dtype=torch.bfloat16)
    linear.weight.data.copy_(drawn(96, 64))
    ours = quantized(linear.weight.data, "int8")

    quantize_(linear, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))

    assert equal(ours, linear.weight)
    assert ours.act_quant_kwargs == linear.weight.act_quant_kwargs


def test_fp8_codes_reach_each_rows_largest_and_round_to_the_nearest() -> None:
    values = drawn(96, 64)

    held = quantized(values, "fp8")

    largest = torch.finfo(torch.float8_e4m3fn).max
    assert torch.allclose(held.scale, values.abs().amax(dim=1, keepdim=True) / largest)
    assert torch.equal(held.qdata.float(), (values / held.scale).to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.009), ("fp8", 0.028)])
def test_weights_are_off_by_no_more_than_8_bits_explain(kind: Kind, most: float) -> None:
    values = drawn(256, 3072)

    back = quantized(values, kind).dequantize(torch.float32)

    assert 0 < ((back - values).norm() / values.norm()).item() < most


def test_an_int8_linear_of_fluxs_width_is_off_by_about_one_percent() -> None:
    """Weights a row and inputs a token, both rounded to 8 bits."""
    values, tokens = drawn(768, 3072), torch.randn(64, 3072, generator=torch.Generator())
    linear = nn.Linear(3072, 768)
    exact = functional.linear(tokens, values, linear.bias)
    linear.weight = nn.Parameter(quantized(values, "int8"), requires_grad=False)

    with torch.no_grad():
        off = ((linear(tokens) - exact).norm() / exact.norm()).item()

    assert 0.003 < off < 0.013


# In place -----------------------------------------------------------------------------------------


def addresses(weight: torch.Tensor) -> tuple[int, int]:
    return weight.qdata.data_ptr(), weight.scale.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_into_rows_is_what_the_packed_weight_holds(kind: Kind) -> None:
    packed = joined_rows([quantized(drawn(32, 64, seed=i), kind) for i in range(3)])
    before = addresses(packed)

    write_weight(rows_of(packed, slice(32, 64)), drawn(32, 64, seed=9))

    expected = torch.cat([drawn(32, 64, seed=i) for i in (0, 9, 2)])
    assert equal(packed, quantized(expected, kind))
    assert addresses(packed) == before


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_unquantized_weights_stays_in_memory(kind: Kind) -> None:
    holder = nn.ModuleDict({name: nn.Linear(64, 64, dtype=torch.bfloat16) for name in "qkv"})
    whole = torch.cat([linear.weight.data for linear in holder.values()])
    for index, linear in enumerate(holder.values()):
        linear.weight.data = whole[64 * index : 64 * (index + 1)]
    storage = StorageWeakRef(whole.untyped_storage())
    del whole, linear

    quantize_linears(holder, list(holder), kind, CPU)

    assert storage.expired()
    assert all(is_quantized(linear.weight) for linear in holder.values())
    assert holder.get_parameter("q.weight").qdata.untyped_storage().nbytes() == 64 * 64


class Block(nn.Module):
    """Compiled from outside a linear, as the engine's blocks are."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear(functional.silu(tokens))


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


# Importing what traces brings modules that other libraries have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("_fresh_dynamo")
def test_a_compiled_block_sees_new_weights_and_is_not_compiled_again() -> None:
    linear = nn.Linear(64, 96).requires_grad_(False)
    linear.weight = nn.Parameter(quantized(drawn(96, 64), "int8"), requires_grad=False)
    block = Block(linear)
    tokens = drawn(1, 40, 64)
    # The graph, its guards and its sizes are those of the other backends; only code is not made.
    block.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    first = block(tokens)

    write_weight(linear.weight, drawn(96, 64, seed=1))
    second = block(tokens)
    block(drawn(1, 56, 64))

    assert counters["stats"]["unique_graphs"] == 1
    assert not torch.equal(first, second)
    assert torch.allclose(second, linear(functional.silu(tokens)), atol=1e-5)


# On a GPU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_torch_takes_the_shapes_and_dtypes_of_the_gpus_matrix_product(kind: Kind) -> None:
    """Without a GPU: torch's own checks of what its kernels take, on tensors without numbers."""
    holder = nn.ModuleDict({"linear": nn.Linear(3072, 768, bias=False, device="meta")})
    placement = Placement(torch.device("cuda"), torch.bfloat16, "as set")

    with torch.no_grad(), FakeTensorMode():
        quantize_linears(holder, ["linear"], kind, placement)
        out = holder["linear"](torch.empty(1, 64, 3072, device="cuda", dtype=torch.bfloat16))

    assert (out.shape, out.dtype, out.device.type) == ((1, 64, 768), torch.bfloat16, "cuda")


@pytest.fixture
def cuda() -> Placement:
    return Placement(torch.device("cuda:0"), torch.bfloat16, "as set")


@pytest.mark.gpu
def test_auto_is_fp8_where_the_gpu_computes_in_it(cuda: Placement) -> None:
    able = torch.cuda.get_device_capability() >= (8, 9)

    assert choose_quantization("auto", cuda).kind == ("fp8" if able else "int8")


@pytest.mark.gpu
def test_fp8_takes_bfloat16(cuda: Placement) -> None:
    with pytest.raises(DeviceError, match="quantize=fp8"):
        choose_quantization("fp8", Placement(cuda.device, torch.float32, "as set"))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_on_the_gpu_is_as_exact_as_its_kind(kind: Kind, cuda: Placement) -> None:
    if kind == "fp8" and choose_quantization("auto", cuda).kind != "fp8":
        pytest.skip("this GPU does not compute in fp8")
    holder = nn.ModuleDict({"linear": nn.Linear(3072, 768, bias=False)})
    holder.to(cuda.device, cuda.dtype).requires_grad_(False)
    values = drawn(768, 3072).to(cuda.device)
    tokens = torch.randn(1, 64, 3072, device=cuda.device, dtype=cuda.dtype)
    exact = functional.linear(tokens.float(), values)
    quantize_linears(holder, ["linear"], kind, cuda)
    write_weight(holder.get_parameter("linear.weight"), values)

    run: Callable[[torch.Tensor], torch.Tensor] = holder["linear"]
    off = ((run(tokens).float() - exact).norm() / exact.norm()).item()

    assert 0.003 < off < {"int8": 0.02, "fp8": 0.045}[kind]
