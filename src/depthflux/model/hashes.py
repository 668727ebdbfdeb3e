"""Remembered sha256 sums of large files, so that 34 GB are not read again at every start.

Knows nothing of what the files are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from depthflux.files import cache_folder, sha256_of_file


class HashCache:
    """sha256 sums by path, each good while the file's size and time of change are as they were.

    The cache is an aid: one that cannot be found, read or written is done without.
    """

    def __init__(self) -> None:
        self._path = _cache_file()
        self._entries: dict[str, Any] = {}
        if self._path is None:
            return
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(entries, dict):
            self._entries = entries

    def sha256(self, path: Path) -> str:
        """A file's sha256, computed where it is not remembered."""
        key = _key(path)
        entry = self._entries.get(str(path))
        if isinstance(entry, list) and len(entry) == 5 and entry[:4] == key:
            return str(entry[4])
        digest = sha256_of_file(path)
        self._entries[str(path)] = [*key, digest]
        return digest

    def remember(self, path: Path, digest: str) -> None:
        """Take note of a file's sha256 that is known already, such as of one just written."""
        self._entries[str(path)] = [*_key(path), digest]

    def store(self) -> None:
        """Write the cache back, if that is possible."""
        if self._path is None:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._entries), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            return


def _key(path: Path) -> list[int]:
    """What changes when a file is exchanged: its size and times may be those of the old one."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _cache_file() -> Path | None:
    folder = cache_folder()
    return folder and folder / "sha256.json"
