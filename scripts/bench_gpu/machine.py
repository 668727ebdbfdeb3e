"""What the figures are measured on and by which code. It knows nothing of the model or of torch."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from typing import Any

from depthflux.bench.host import commit_here, describe_host


def describe_run(arguments: list[str], commit: str | None) -> dict[str, Any]:
    """Command, date, commit and host."""
    commit = commit or commit_here()
    if commit is None:
        print("no git here: name the commit with --commit", file=sys.stderr)
    return {
        "command": shlex.join(["scripts/bench-gpu", *arguments]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "host": describe_host() | {"python": platform.python_version()},
    }
