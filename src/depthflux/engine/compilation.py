"""torch.compile of the transformer's blocks, or the reason why not.

Each kind of block is compiled once for all its repetitions, for any size, as one graph: where a
graph would break, compiling fails with an error, so that a run is never half compiled. One graph
serves a picture alone and another any batch of two or more, since torch takes 1 for a constant; so
four graphs serve all requests, and a request that comes while one is missing waits for it.

Knows nothing of what is computed.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.fx.experimental import _config as symbol_config

from depthflux.engine.compile_cache import use_compile_cache
from depthflux.engine.denoiser import HoistedTransformer
from depthflux.errors import DeviceError, SettingsError
from depthflux.model.loading import Model
from depthflux.model.placement import Placement
from depthflux.settings import EngineSettings

#: How Inductor chooses kernels. On CUDA it times several for each matrix product, at the size that
#: is compiled first; the others serve all sizes. CUDA graphs would be replayed at fixed addresses
#: for one size each, and gain at most 0.7 % at FLUX's sizes (docs/experiments.md). On the CPU there
#: is little to choose from.
MODES = {"cuda": "max-autotune-no-cudagraphs", "cpu": "default"}
#: Graphs of one kind of block in a process. Torch's 8 are used up by four engines, since all
#: engines' blocks are of the same classes, and are then an error.
MOST_GRAPHS = 64
CPU_COMPILERS = ("g++", "clang++", "c++")
CUDA_COMPILERS = ("gcc", "clang", "cc", "cl")


@dataclass(frozen=True)
class Compilation:
    """Whether the blocks are compiled.

    Attributes:
        applied: True where they are.
        reason: why or why not, in words.
    """

    applied: bool
    reason: str


def choose_compilation(settings: EngineSettings, placement: Placement) -> Compilation:
    """Whether the blocks will be compiled; nothing is loaded for it.

    Raises:
        DeviceError: it is asked for and something that it needs is not there.
        SettingsError: the weights are to be quantized and it cannot be or is not meant to be.
    """
    on_cuda = placement.device.type == "cuda"
    problem = compile_obstacle(placement)
    if settings.compile is False:
        compilation = Compilation(False, "switched off")
    elif settings.compile == "auto" and not on_cuda:
        reason = "auto: not on the CPU, where compiling outlasts a few pictures"
        compilation = Compilation(False, reason)
    elif settings.compile == "auto" and problem:
        compilation = Compilation(False, f"auto: {problem}")
    elif problem:
        raise DeviceError(
            f"compile=true: {problem}.", fix="Install what is missing, or use compile=false."
        )
    else:
        compilation = Compilation(True, "as set" if settings.compile is True else "auto: on CUDA")
    if settings.quantize != "none" and not compilation.applied:
        raise SettingsError(
            f"quantize={settings.quantize} without compiling would be slower than bfloat16, and "
            f"blocks are not compiled here ({compilation.reason}).",
            fix="Use compile=true, or quantize=none.",
        )
    return compilation


def compile_model(
    model: Model, transformer: HoistedTransformer | None, settings: EngineSettings
) -> Compilation:
    """Compile the transformer's repeated blocks where the settings say so.

    Compiling itself happens at the first step, which has to be within `compiling`.

    Args:
        model: whose transformer runs in diffusers' order where there is no hoisted one.
        transformer: the hoisted one.
        settings: what is asked for.

    Raises:
        DeviceError, SettingsError: as `choose_compilation` does.
    """
    compilation = choose_compilation(settings, model.placement)
    if not compilation.applied:
        return compilation
    use_compile_cache(settings, model.placement)
    mode = MODES[model.placement.device.type]
    if transformer is None:
        model.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, mode=mode)
    else:
        for block in (*transformer.double, *transformer.single):
            block.compile(fullgraph=True, dynamic=True, mode=mode)
    return compilation


@contextmanager
def compiling() -> Iterator[None]:
    """How torch.compile is to treat blocks that run in here; elsewhere nothing changes.

    Sizes that happen to be equal are different sizes: torch would else make a graph for as many
    text tokens as image tokens, and another for all other numbers.
    """
    with (
        symbol_config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
        torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS),
    ):
        yield


def compile_obstacle(placement: Placement) -> str:
    """Why compiling is not possible here; empty where it is."""
    on_cuda = placement.device.type == "cuda"
    if on_cuda and importlib.util.find_spec("triton") is None:
        return "compiling for CUDA needs Triton, which is not installed"
    compilers = CUDA_COMPILERS if on_cuda else CPU_COMPILERS
    if any(map(shutil.which, compilers)):
        return ""
    device, language = ("CUDA", "C") if on_cuda else ("the CPU", "C++")
    return f"compiling for {device} needs a {language} compiler, and none is on the PATH"
