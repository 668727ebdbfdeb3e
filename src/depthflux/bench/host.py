"""The computer that figures were measured on, and the commit of the code.

Knows nothing of torch or of what is measured.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

#: The repository that the code runs from, where it does.
ROOT = Path(__file__).resolve().parents[3]


def describe_host() -> dict[str, Any]:
    """Processor, kernel, memory, and how busy the computer was before."""
    return {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "processors": _processors(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average_before": round(os.getloadavg()[0], 2),
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


def _processors() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
