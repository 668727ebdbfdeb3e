"""torch.compile of the transformer's blocks, or the reason why not.

Each kind of block is compiled once for all its repetitions, for any size, as one graph: where a
graph would break, compiling fails with an error, so that a run is never half compiled.

Knows nothing of what is computed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from depthflux.engine.denoiser import HoistedTransformer
from depthflux.errors import DeviceError
from depthflux.model.loading import Model
from depthflux.settings import EngineSettings


@dataclass(frozen=True)
class Compilation:
    """Whether the blocks are compiled.

    Attributes:
        applied: True where they are.
        reason: why or why not, in words.
    """

    applied: bool
    reason: str


def compile_model(
    model: Model, transformer: HoistedTransformer | None, settings: EngineSettings
) -> Compilation:
    """Compile the transformer's repeated blocks where the settings say so.

    Args:
        model: whose transformer runs in diffusers' order where there is no hoisted one.
        transformer: the hoisted one.
        settings: what is asked for.

    Compiling itself happens at the first step.

    Raises:
        DeviceError: it is asked for on the CPU and there is no C++ compiler.
    """
    on_cuda = model.placement.device.type == "cuda"
    if settings.compile is False:
        return Compilation(False, "switched off")
    if settings.compile == "auto" and not on_cuda:
        return Compilation(False, "auto: not on the CPU, where compiling outlasts a few pictures")
    if not on_cuda and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise DeviceError(
            "compile=true: compiling for the CPU needs a C++ compiler, and none is on the PATH.",
            fix="Install g++, or use compile=false.",
        )
    if transformer is None:
        model.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
    else:
        for block in (*transformer.double, *transformer.single):
            block.compile(fullgraph=True, dynamic=True)
    return Compilation(True, "as set" if settings.compile is True else "auto: on CUDA")
