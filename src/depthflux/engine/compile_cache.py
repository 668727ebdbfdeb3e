"""Where compiled blocks are kept between starts.

torch.compile's Inductor and Triton look for what they made before in a folder; by default that is
one in /tmp, gone after the next start of the machine. Here it is one in the user's cache folder for
each combination of torch, Triton, device and the settings that change the blocks' code, so that a
folder is never used by a machine that could not run what is in it, and can be deleted by itself.

What lies there is run: Inductor keeps machine code and pickles. So the folder is its owner's alone,
and where others could have written to it one of this process is used; torch's default, whose name
anybody can guess and make first, is never used.

Knows nothing of what is compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import stat
from pathlib import Path

import torch

from depthflux.errors import SettingsError
from depthflux.files import cache_folder
from depthflux.model.placement import Placement, device_name
from depthflux.scratch import scratch_folder
from depthflux.settings import EngineSettings

logger = logging.getLogger("depthflux")

#: What Inductor and Triton read, and each one's folder.
VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}

#: Nobody but the owner lists, reads or writes.
FOLDER_MODE = 0o700
#: What no folder of code may allow.
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

# What this module has set, so that it is not taken for the user's own.
_ours: dict[str, str] = {}


def use_compile_cache(settings: EngineSettings, placement: Placement) -> Path:
    """Let torch keep what it compiles from now on in this combination's folder.

    The process's variables are changed. A variable of VARIABLES that the user has set stays as it
    is, and counts.

    Args:
        settings: dtype, order and quantize count.
        placement: the device counts.

    Returns:
        Where Inductor keeps its part. Without a home folder, or where others could have written to
        this one, that is a new folder for this process.

    Raises:
        SettingsError: no folder can be made, not even for this process.
    """
    ours = [variable for variable in VARIABLES if not _is_the_users(variable)]
    if ours:
        folder = _private_folder(compile_cache_name(settings, placement))
        for variable in ours:
            os.environ[variable] = _ours[variable] = str(folder / VARIABLES[variable])
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


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


def _private_folder(name: str) -> Path:
    """A combination's folder, which nobody but its owner can write to.

    Raises:
        SettingsError: none can be made.
    """
    cache = cache_folder()
    if cache is not None:
        base = cache / "compile"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            problem = _make_private(base) or _make_private(base / name)
        except OSError as error:
            problem = f"{base}: {error.strerror}"
        if not problem:
            return base / name
        logger.warning("nothing compiled is kept: %s.", problem)
    try:
        folder = scratch_folder() / name
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"there is no folder for what is compiled: {error.strerror or error}.",
            fix="Name one that can be written: with XDG_CACHE_HOME, or with TMPDIR for one run.",
        ) from error
    return folder


def _make_private(folder: Path) -> str:
    """Make a folder for its owner alone, or see that one which is there has been so.

    Returns:
        Why what lies in it cannot be trusted and what helps, without a full stop; empty if it can.

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=FOLDER_MODE)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return (
            f"{folder} belongs to user {status.st_uid}, this process to user {os.geteuid()}, and "
            "what is compiled there is run; name a cache folder of your own with XDG_CACHE_HOME"
        )
    if status.st_mode & OTHERS_WRITE:
        return (
            f"{folder} has mode {stat.S_IMODE(status.st_mode):04o}, so others could have written "
            "to it, and what is compiled there is run; delete it, or name another cache folder "
            f"with XDG_CACHE_HOME: rm -r {folder}"
        )
    return ""


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
