"""What the figures were measured on and by which code.

Knows nothing of what is measured.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from depthflux.bench.gpu_samples import GpuSamples
from depthflux.engine.provenance import describe_versions
from depthflux.model.placement import device_name

#: The repository that the code runs from, where it does.
ROOT = Path(__file__).resolve().parents[3]


def describe_run(device: torch.device, samples: GpuSamples) -> dict[str, Any]:
    """Command, date, commit, versions, host and device."""
    torchao = importlib.metadata.version("torchao") if _has("torchao") else None
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit_here(),
        "versions": {**describe_versions(), "torchao": torchao, "cuda": torch.version.cuda},
        "host": {
            "machine": platform.machine(),
            "kernel": platform.release(),
            "processors": _processors(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_average_before": round(os.getloadavg()[0], 2),
        },
        "device": {
            "name": device_name(device),
            "torch": str(device),
            "threads": torch.get_num_threads(),
            "nvidia_smi": samples.describe(),
            "nvidia_smi_missing": samples.missing,
        },
    }


def commit_here() -> str | None:
    """The commit that is checked out, `-dirty` where files differ; None outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        told = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processors() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
