"""The Hugging Face cache on disk: where it is, and which snapshots of a repository it holds.

    <cache>/models--<owner>--<name>/refs/main            the commit that was `main` last
    <cache>/models--<owner>--<name>/snapshots/<commit>/  the repository's files, as links

Source: the folder layout that huggingface_hub documents, and its variables' precedence. Read as
files, since that library fixes the variables when it is imported. Knows nothing of networks.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def hub_cache() -> Path:
    """The cache's folder: HF_HUB_CACHE, else hub/ in HF_HOME, else in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME", os.path.join("~", ".cache"))
    home = os.environ.get("HF_HOME", os.path.join(user, "huggingface"))
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    named = os.environ.get("HF_HUB_CACHE", older)
    return Path(os.path.expandvars(os.path.expanduser(named))).absolute()


def snapshots(cache: Path, repository: str) -> list[Path]:
    """A repository's snapshots, that of `main` first, then the others from the newest on.

    Args:
        cache: the cache's folder.
        repository: owner and name, such as `black-forest-labs/FLUX.1-dev`.
    """
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        main = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        main = ""
    try:
        found = [path for path in (folder / "snapshots").iterdir() if os.path.isdir(path)]
        found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    except OSError:
        return []
    if not re.fullmatch(r"[0-9a-f]+", main):
        return found
    return sorted(found, key=lambda path: path.name != main)
