"""What the figures are measured on and by which code. It knows nothing of the model or of torch."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def describe_run(arguments: list[str], commit: str | None) -> dict[str, Any]:
    """Command, date, commit and host."""
    return {
        "command": shlex.join(["scripts/bench-gpu", *arguments]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit or commit_here(),
        "host": {
            "machine": platform.machine(),
            "kernel": platform.release(),
            "processors": _processors(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_average_before": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
        },
    }


def commit_here() -> str | None:
    """The commit that is checked out, `-dirty` where files differ from it; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        print("no git here: name the commit with --commit", file=sys.stderr)
        return None


def _processors() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
