"""Where compiled blocks are kept between starts.

torch.compile's Inductor and Triton look for what they made before in a folder; by default that is
one in /tmp, gone after the next start of the machine. Here it is one in the user's cache folder for
each combination of torch, Triton, device and the settings that change the blocks' code, so that a
folder is never used by a machine that could not run what is in it, and can be deleted by itself.

Knows nothing of what is compiled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

from depthflux.files import cache_folder
from depthflux.model.placement import Placement, device_name
from depthflux.settings import EngineSettings

#: What Inductor and Triton read, and each one's folder.
VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}

# What this module has set, so that it is not taken for the user's own.
_ours: dict[str, str] = {}


def use_compile_cache(settings: EngineSettings, placement: Placement) -> Path | None:
    """Let torch keep what it compiles from now on in this combination's folder.

    The process's variables are changed. A variable of VARIABLES that the user has set stays as it
    is, and counts.

    Args:
        settings: dtype, order and quantize count.
        placement: the device counts.

    Returns:
        Where Inductor keeps its part; None where there is no home folder, and torch's default
        holds.
    """
    base = cache_folder()
    if base is not None:
        folder = base / "compile" / compile_cache_name(settings, placement)
        for variable, name in VARIABLES.items():
            if not _is_the_users(variable):
                os.environ[variable] = _ours[variable] = str(folder / name)
    used = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(used) if used else None


def compile_cache_name(settings: EngineSettings, placement: Placement) -> str:
    """The folder's name: all that what is inside depends on, legible."""
    device = device_name(placement.device)
    if placement.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(placement.device)
        device += f" sm{major}{minor}"
    else:
        device += f" {_processor()}"
    parts = [
        f"torch {torch.__version__}",
        f"triton {_version('triton')}",
        device,
        settings.dtype,
        settings.order,
        f"quantize {settings.quantize}",
    ]
    if settings.quantize != "none":
        parts.append(f"torchao {_version('torchao')}")
    return "_".join(re.sub(r"[^A-Za-z0-9.+]+", "-", part).strip("-") for part in parts)


def _is_the_users(variable: str) -> bool:
    """Whether a variable was set by somebody else than this module or torch itself."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    value = os.environ.get(variable)
    # Inductor writes its default into the variable when it first looks.
    return value is not None and value not in (_ours.get(variable), default_cache_dir())


def _processor() -> str:
    """The processor in 8 hexadecimal digits.

    Code for the CPU uses all that the CPU has, and the cache may lie in a home that other
    machines share.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    told |= {platform.machine(), platform.processor()}
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:8]


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "none"
