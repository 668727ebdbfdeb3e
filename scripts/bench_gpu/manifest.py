"""The note that `make` leaves in a folder: which model lies there. It knows nothing of torch."""

import json
import sys
from pathlib import Path
from typing import Any

MANIFEST = "bench.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `make` wrote.

    Raises:
        SystemExit: it wrote nothing there.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        sys.exit(f"error: there is no model in {folder}; run: bench-gpu make --folder {folder}")
    return manifest
