"""Where compiled blocks are kept between starts.

torch.compile's Inductor and Triton look for what they made before in a folder; by default that is
one in /tmp, gone after the next start of the machine. Here it is one in the user's cache folder for
each combination of torch, Triton, device and the settings that change the blocks' code, so that a
folder is never used by a machine that could not run what is in it, and can be deleted by itself.

What lies there is run: Inductor keeps machine code and pickles. So the folder is its owner's alone,
and one that others could have written to is refused; torch's default, whose name anybody can guess
and make first, is never used.

Knows nothing of what is compiled.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from depthflux.errors import SettingsError
from depthflux.files import cache_folder
from depthflux.model.placement import Placement, device_name
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


def use_compile_cache(settings: EngineSettings, placement: Placement) -> Path | None:
    """Let torch keep what it compiles from now on in this combination's folder.

    The process's variables are changed. A variable of VARIABLES that the user has set stays as it
    is, and counts.

    Args:
        settings: dtype, order and quantize count.
        placement: the device counts.

    Returns:
        Where Inductor keeps its part; without a home folder, a new one for this process.

    Raises:
        SettingsError: others could have written to the folder.
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
        SettingsError: others could have written to it.
    """
    cache = cache_folder()
    try:
        if cache is not None:
            base = cache / "compile"
            cache.mkdir(parents=True, exist_ok=True)
            _make_private(base)
            _make_private(base / name)
            return base / name
    except OSError as error:
        logger.warning("nothing compiled is kept: %s (%s).", base, error.strerror)
    folder = _folder_of_this_process() / name
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return folder


@lru_cache(maxsize=1)
def _folder_of_this_process() -> Path:
    """A new folder, its owner's alone; removed when the process ends as it should."""
    folder = Path(tempfile.mkdtemp(prefix="depthflux-compile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _make_private(folder: Path) -> None:
    """Make a folder for its owner alone, or see that one which is there has been so.

    Raises:
        SettingsError: others own it or may write to it.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=FOLDER_MODE)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS_WRITE:
        raise SettingsError(
            f"{folder} can be written by others, and what is compiled there is run.",
            fix=f"Delete it, or name another cache folder with XDG_CACHE_HOME: rm -r {folder}",
        )


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
