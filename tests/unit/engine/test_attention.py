"""The kernel of attention: what was chosen computes, eager and compiled, or the load is refused."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.profiler import profile

from depthflux.engine import attention_choice
from depthflux.engine.attention import (
    FLASH3_MODULE,
    attention_by,
    check_attention,
    flash3_computes,
    obstacle,
)
from depthflux.engine.attention_choice import (
    AttentionChoice,
    choose_attention,
    expect_attention,
    fastest,
    measure,
    remember,
    remembered,
)
from depthflux.engine.blocks import attend
from depthflux.errors import DeviceError
from depthflux.model.placement import Placement
from depthflux.settings import EngineSettings

CPU = Placement(torch.device("cpu"), torch.float32, "as set")
#: The operator by which each kernel is known on the CPU.
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
SOFTMAX = "aten::_softmax"
#: Measured figures, as a GPU might give them.
FIGURES = {"cudnn": 0.4, "flash": 0.6}


# torch.compile imports modules that other libraries have deprecated; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "depthflux"


@pytest.fixture
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def heads() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 40, 2, 16)
    return q, k, v


def operators(run: object) -> set[str]:
    with profile() as told, torch.no_grad():
        run(*heads())
    return {event.key for event in told.key_averages()}


def test_the_chosen_kernel_computes_eagerly() -> None:
    with attention_by("flash"):
        by_flash = operators(attend)
    with attention_by("math"):
        by_math = operators(attend)

    assert FLASH in by_flash
    assert SOFTMAX not in by_flash
    assert FLASH not in by_math
    assert SOFTMAX in by_math


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize(("kernel", "is_flash"), [("flash", True), ("math", False)])
def test_the_chosen_kernel_computes_compiled(kernel: str, is_flash: bool) -> None:
    # aot_eager takes operators as a compiler does, at tracing, and runs them as they are.
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)

    with attention_by(kernel):
        compiled(*heads())
        found = operators(compiled)

    assert (FLASH in found) is is_flash


@pytest.mark.usefixtures("_fresh_dynamo")
def test_a_graph_made_with_one_kernel_is_not_taken_for_another() -> None:
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
    with attention_by("math"):
        compiled(*heads())

    with attention_by("flash"):
        found = operators(compiled)
    with attention_by("math"):
        found_again = operators(compiled)

    assert FLASH in found
    assert FLASH not in found_again


def test_all_kernels_give_the_same_attention() -> None:
    with attention_by("math"):
        expected = attend(*heads())
    with attention_by("flash"):
        torch.testing.assert_close(attend(*heads()), expected)


def test_outside_of_the_block_torch_chooses_again() -> None:
    with attention_by("math"):
        pass

    assert FLASH in operators(attend)


def test_a_kernel_that_cannot_run_computes_nothing_instead_of_another_one() -> None:
    with attention_by("cudnn"), pytest.raises(RuntimeError, match="backend"):
        attend(*heads())


@pytest.mark.parametrize("kernel", ["cudnn", "efficient", "flash3"])
def test_a_kernel_that_cannot_run_here_is_refused_before_weights(kernel: str) -> None:
    with pytest.raises(DeviceError, match=f"attention={kernel} cannot run on CPU .* in float32: "):
        check_attention(kernel, CPU)


def test_a_kernel_that_was_asked_for_and_can_run_is_taken() -> None:
    assert choose_attention(EngineSettings(attention="math"), CPU, 2, 16) == AttentionChoice(
        "math", "as set"
    )


def test_auto_leaves_the_choice_to_torch_on_the_cpu(cache: Path) -> None:
    choice = choose_attention(EngineSettings(), CPU, 2, 16)

    assert choice == AttentionChoice("torch", "auto: torch's own choice on the CPU")
    assert not cache.exists(), "nothing was timed"


def test_diffusers_order_leaves_the_choice_to_torch_even_on_a_gpu() -> None:
    on_a_gpu = Placement(torch.device("cuda"), torch.bfloat16, "as set")

    assert choose_attention(EngineSettings(order="diffusers"), on_a_gpu, 24, 128).kernel == "torch"


def test_kernels_that_can_run_are_timed_and_the_others_left_out() -> None:
    milliseconds = measure(["flash", "math", "cudnn"], CPU, 2, 16, tokens=256)

    assert set(milliseconds) == {"flash", "math"}
    assert all(value > 0 for value in milliseconds.values())


def test_the_fastest_is_chosen_and_all_times_are_told() -> None:
    choice = fastest({"flash": 0.6, "cudnn": 0.4})

    assert choice.kernel == "cudnn"
    assert choice.reason == "auto: the fastest here of cudnn 0.4 ms, flash 0.6 ms"


def test_without_any_kernel_of_ours_the_choice_is_torchs_and_said() -> None:
    choice = fastest({})

    assert choice.kernel == "torch"
    assert "none of cudnn, flash, efficient, flash3" in choice.reason


def test_what_was_timed_is_remembered_for_its_dtype_and_shape_only(cache: Path) -> None:
    remember(CPU, 24, 128, FIGURES)

    assert remembered(CPU, 24, 128) == FIGURES
    assert remembered(CPU, 24, 64) is None
    assert remembered(Placement(CPU.device, torch.bfloat16, ""), 24, 128) is None
    remember(CPU, 24, 64, {"flash": 1.0})
    assert remembered(CPU, 24, 128) == FIGURES


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"key": 1}', '{"key": {"cudnn": "fast"}}', '{"key": {"telepathy": 0.1}}'],
    ids=["empty", "a list", "a number", "a word", "an unknown kernel"],
)
def test_a_damaged_memory_is_done_without(
    cache: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = attention_choice._key(CPU, 24, 128)
    cache.mkdir()
    (cache / "attention.json").write_text(text.replace("key", key))

    assert remembered(CPU, 24, 128) is None
    remember(CPU, 24, 128, FIGURES)
    assert remembered(CPU, 24, 128) == FIGURES


def test_a_cache_folder_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.write_text("no folder")

    remember(CPU, 24, 128, FIGURES)

    assert remembered(CPU, 24, 128) is None


def test_telling_what_will_run_times_nothing(cache: Path) -> None:
    assert expect_attention(EngineSettings(), CPU).kernel == "torch"
    assert expect_attention(EngineSettings(attention="flash"), CPU).kernel == "flash"
    assert not cache.exists()


@pytest.mark.usefixtures("_fresh_dynamo")
def test_flash3_is_one_operator_in_a_graph_and_is_the_installed_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = types.ModuleType(FLASH3_MODULE)

    def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2)

    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, FLASH3_MODULE, package)
    expected = attend(*heads())
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)

    with attention_by("flash3"), torch.no_grad():
        assert flash3_computes()
        found = operators(compiled)
        torch.testing.assert_close(compiled(*heads()), expected)

    assert not flash3_computes()
    assert "depthflux::flash3" in found


def test_flash3_needs_its_package() -> None:
    on_a_gpu = Placement(torch.device("cuda"), torch.bfloat16, "as set")

    assert obstacle("flash3", on_a_gpu) == f"the package {FLASH3_MODULE} is not installed"


@pytest.mark.gpu
def test_auto_times_the_kernels_of_a_gpu_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = Placement(torch.device("cuda:0"), torch.bfloat16, "as set")

    choice = choose_attention(EngineSettings(), placement, 24, 128)
    monkeypatch.setattr(attention_choice, "measure", None)

    assert choice.kernel in attention_choice.CANDIDATES
    assert choose_attention(EngineSettings(), placement, 24, 128) == choice
