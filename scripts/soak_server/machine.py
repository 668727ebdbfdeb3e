"""What the figures are measured on and by which code. It knows nothing of what is measured."""

from __future__ import annotations

import platform
import shlex
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from depthflux.bench.host import commit_here, describe_host

LIBRARIES = (
    "depthflux",
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "pydantic",
    "sqlalchemy",
    "httpx",
)


def describe_run(arguments: list[str], *, script: str = "scripts/soak") -> dict[str, Any]:
    """Command, date, commit, host and versions."""
    return {
        "command": shlex.join([script, *arguments]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit_here(),
        "host": describe_host() | {"cpu": _cpu()},
        "python": platform.python_version(),
        "versions": {library: version(library) for library in LIBRARIES}
        | {"sqlite": sqlite3.sqlite_version},
    }


def _cpu() -> str | None:
    """The processor's name as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None
