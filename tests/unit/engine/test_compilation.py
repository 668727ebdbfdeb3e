"""torch.compile as a switch: it takes effect, on the CPU as on a GPU, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

import depthflux
from depthflux.engine import compilation
from depthflux.engine.compilation import MODES, choose_compilation, compiling
from depthflux.errors import DeviceError, GenerationError, SettingsError
from depthflux.model.placement import Placement
from depthflux.settings import EngineSettings

CPU = Placement(torch.device("cpu"), torch.float32, "as set")
GPU = Placement(torch.device("cuda:0"), torch.bfloat16, "as set")
REQUEST = {"prompt": "a red sphere", "size": "512*512", "num_inference_steps": 3, "seed": 1}


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


# Inductor imports modules that other libraries have deprecated; none of it is ours to mend.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_generate_compiled_makes_graphs_once_and_paints_the_same_scene(
    miniature_8x: Path, room: Image.Image
) -> None:
    eager = depthflux.load("reference", model=str(miniature_8x))
    expected = eager.generate(**REQUEST, control_image=room)
    assert not counters["stats"], "the eager run must not compile"

    compiled = depthflux.load("reference", model=str(miniature_8x), compile=True)
    prediction = compiled.generate(**REQUEST, control_image=room)
    graphs = counters["stats"]["unique_graphs"]
    compiled.generate(**REQUEST | {"control_scale": 0.5, "seed": 2}, control_image=room)

    assert graphs == 2, "one graph for each kind of block"
    assert counters["stats"]["unique_graphs"] == graphs, "another scale and seed compile nothing"
    assert not counters["graph_break"]
    assert prediction.record["ran"]["compiled"] is True
    difference = np.abs(
        np.asarray(prediction.images[0], dtype=float) - np.asarray(expected.images[0], dtype=float)
    )
    assert difference.mean() < 1.0, "grey values of 255; a compiler reorders sums"


def test_auto_does_not_compile_on_the_cpu_and_says_so(miniature_8x: Path) -> None:
    engine = depthflux.load("exact", model=str(miniature_8x), device="cpu", dtype="float32")

    assert not engine.compilation.applied
    assert "not on the CPU" in engine.compilation.reason


def test_compiling_without_a_compiler_is_refused_before_a_request(
    miniature_8x: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DeviceError, match=r"needs a C\+\+ compiler"):
        depthflux.load("reference", model=str(miniature_8x), compile=True)


def test_without_triton_auto_does_not_compile_for_cuda_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda _: None)

    chosen = choose_compilation(EngineSettings(compile="auto"), GPU)

    assert not chosen.applied
    assert chosen.reason == "auto: compiling for CUDA needs Triton, which is not installed"
    with pytest.raises(DeviceError, match=r"compile=true: compiling for CUDA needs Triton.*false"):
        choose_compilation(EngineSettings(compile=True), GPU)


def test_quantizing_is_refused_where_blocks_are_not_compiled() -> None:
    with pytest.raises(SettingsError, match=r"quantize=int8 without compiling .*compile=true"):
        choose_compilation(EngineSettings(quantize="int8"), CPU)

    assert choose_compilation(EngineSettings(quantize="int8", compile=True), CPU).applied


def test_kernels_are_timed_on_cuda_only_and_never_replayed_as_cuda_graphs() -> None:
    options = torch._inductor.list_mode_options(MODES["cuda"])

    assert options["max_autotune"]
    assert not options.get("triton.cudagraphs")
    assert MODES["cpu"] == "default"


def test_a_graph_made_for_equal_sizes_serves_different_ones() -> None:
    def join(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([text, image])

    compiled = torch.compile(join, backend="eager", fullgraph=True, dynamic=True)
    with compiling():
        compiled(torch.zeros(32), torch.zeros(32))
        compiled(torch.zeros(32), torch.zeros(48))

    assert counters["stats"]["unique_graphs"] == 1


def test_how_torch_compiles_is_changed_for_a_run_only() -> None:
    from torch.fx.experimental import _config as symbols

    before = symbols.use_duck_shape, torch._dynamo.config.recompile_limit
    with compiling():
        assert not symbols.use_duck_shape
        assert torch._dynamo.config.recompile_limit == compilation.MOST_GRAPHS

    assert (symbols.use_duck_shape, torch._dynamo.config.recompile_limit) == before


def test_a_block_that_does_not_compile_is_an_error_and_not_an_eager_step(
    miniature_8x: Path, room: Image.Image
) -> None:
    engine = depthflux.load("reference", model=str(miniature_8x), compile=True)
    block = engine.model.transformer.transformer_blocks[0]
    original = type(block).forward

    def with_graph_break(self: torch.nn.Module, *args: object, **kwargs: object) -> object:
        torch._dynamo.graph_break()
        return original(self, *args, **kwargs)

    type(block).forward = with_graph_break
    try:
        with pytest.raises(GenerationError, match=r"torch\.compile failed"):
            engine.generate(**REQUEST, control_image=room)
    finally:
        type(block).forward = original


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bfloat16_is_a_switch_of_the_profile(miniature_8x: Path, room: Image.Image) -> None:
    engine = depthflux.load("exact", model=str(miniature_8x), device="cpu")

    prediction = engine.generate(**REQUEST, control_image=room)

    assert engine.model.transformer.x_embedder.weight.dtype == torch.bfloat16
    assert prediction.record["ran"]["dtype"] == "bfloat16"
    assert np.asarray(prediction.images[0]).std() > 0
