"""Remembered sha256 sums: never those of another file."""

from __future__ import annotations

import os
from pathlib import Path

from depthflux.files import sha256_of_file
from depthflux.model.hashes import HashCache


def test_a_file_exchanged_for_one_of_equal_size_and_time_is_hashed_anew(tmp_path: Path) -> None:
    file, other = tmp_path / "lora.safetensors", tmp_path / "other"
    file.write_bytes(b"a" * 100)
    other.write_bytes(b"b" * 100)
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    cache = HashCache()
    first = cache.sha256(file)
    os.utime(other, ns=times)
    other.replace(file)

    assert cache.sha256(file) == sha256_of_file(file) != first
