"""Prompts' embeddings on disk, so that a prompt is encoded once and not once a start.

    <cache folder>/depthflux/prompts/<key>.safetensors

A prompt is private: the files are readable by their owner only, and hold its embeddings but not
its words. The store is an aid: what is damaged, foreign or of another version is passed over and
written anew, and a disk that is full or cannot be written is done without. Files appear whole
under their names, so several processes may share the store.

Knows nothing of how prompts are encoded, or of what a key stands for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from depthflux.errors import OutputError
from depthflux.files import cache_folder, write_atomically

#: Room for about 60 of FLUX's prompts in bfloat16, 4.2 MB each.
MOST_BYTES = 256_000_000
SUFFIX = ".safetensors"
#: Nobody but the owner lists, reads or writes.
FOLDER_MODE, FILE_MODE = 0o700, 0o600


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt's embeddings, in host memory.

    Attributes:
        tokens: T5's hidden states, [1, T, joint width].
        pooled: CLIP's pooled vector, [1, pooled width].
        read_characters: of the prompt, from its start, that fit into T tokens.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    read_characters: int


def prompt_folder() -> Path | None:
    """Where prompts are stored; None where the user has no cache folder."""
    folder = cache_folder()
    return folder and folder / "prompts"


class PromptStore:
    """Embeddings by key; those not used for longest go first."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        """Store in a folder, which is made when something is written.

        Args:
            folder: of this store's own.
            most_bytes: of all files together.
        """
        self._folder = folder
        self._most_bytes = most_bytes

    def read(self, key: str) -> StoredPrompt | None:
        """What was written under a key; None where that is not there whole.

        Args:
            key: 64 hexadecimal digits.
        """
        path = self._path(key)
        try:
            if not path.is_file() or path.stat().st_size > self._most_bytes:
                return None
            data = path.read_bytes()
        except OSError:
            return None
        stored = _parse(data, key)
        if stored is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return stored

    def write(self, key: str, stored: StoredPrompt) -> None:
        """Write embeddings under a key, if that is possible.

        Args:
            key: 64 hexadecimal digits.
            stored: on the CPU.
        """
        metadata = {
            "read_characters": str(stored.read_characters),
            "sha256": _digest(key, stored),
        }
        data = save({"tokens": stored.tokens, "pooled": stored.pooled}, metadata)
        if len(data) > self._most_bytes:
            return
        path = self._path(key)
        # An OutputError's advice, another folder for results, does not fit here: nothing is said.
        with contextlib.suppress(OSError, OutputError):
            self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._folder.chmod(FOLDER_MODE)
            write_atomically(path, data)
            path.chmod(FILE_MODE)
            self._make_room()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{SUFFIX}"

    def _make_room(self) -> None:
        """Remove what was not used for longest, what a killed process left half-written too."""
        files = []
        for path in self._folder.glob(f"*{SUFFIX}*"):
            with contextlib.suppress(FileNotFoundError):  # another process made room, too
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _parse(data: bytes, key: str) -> StoredPrompt | None:
    """A file's content; None where it is not what was written under the key."""
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = load(data)
        stored = StoredPrompt(
            tensors["tokens"], tensors["pooled"], int(metadata["read_characters"])
        )
        return stored if metadata["sha256"] == _digest(key, stored) else None
    # Anything may stand in a damaged or foreign file.
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None


def _digest(key: str, stored: StoredPrompt) -> str:
    """The sha256 of everything in a file, the key that it was written under included."""
    digest = hashlib.sha256(f"{key} {stored.read_characters}".encode())
    for tensor in (stored.tokens, stored.pooled):
        digest.update(f" {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
