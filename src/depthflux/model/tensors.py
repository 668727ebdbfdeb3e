"""The tensors of one module, by the module's own names, read from memory-mapped files.

A file may hold them under other names and cut otherwise (`Part` says how); whoever reads sees the
names and shapes of the module. Nothing is read before it is asked for, and what is asked for is a
view into the mapped file wherever the layout allows one: 24 GB cost no memory of their own.

Knows nothing of what the tensors mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from depthflux.errors import WeightsCorruptError, first_line
from depthflux.model.headers import TensorHeader, read_header


class Part(NamedTuple):
    """Where one of a module's tensors lies in its files.

    Attributes:
        key: the tensor's name there.
        rows: which of its rows, (first, past the last); None for all.
        swapped: whether the two halves of the rows change places.
        shape: another shape of the same numbers, such as a linear kept as a 1x1 convolution.
    """

    key: str
    rows: tuple[int, int] | None = None
    swapped: bool = False
    shape: tuple[int, ...] | None = None


class TensorFiles:
    """Tensors by the module's names.

    Attributes:
        paths: the files.
        headers: dtype and shape of every tensor, by the module's names.
    """

    def __init__(self, paths: Sequence[Path], parts: Mapping[str, Part] | None = None) -> None:
        """Read the files' headers.

        Args:
            paths: safetensors files, shards of one component.
            parts: where each of the module's tensors lies; without it, under its own name. Keys
                that the files lack are left out of `headers`, for the caller to complain of.

        Raises:
            WeightsCorruptError: a file is unreadable or no safetensors.
        """
        self.paths = list(paths)
        self._states = {path: _state(path) for path in self.paths}
        self._home = {key: path for path in self.paths for key in read_header(path)}
        stored = {key: entry for path in self.paths for key, entry in read_header(path).items()}
        self._parts = {key: Part(key) for key in stored} if parts is None else dict(parts)
        self.headers = {
            name: TensorHeader(stored[part.key].dtype, _shape(part, stored[part.key].shape))
            for name, part in self._parts.items()
            if part.key in stored
        }
        self._files: dict[Path, Any] = {}
        #: Keys of the files that none of the module's tensors comes from.
        self.left_over = sorted(stored.keys() - {part.key for part in self._parts.values()})

    def read(self, name: str) -> torch.Tensor:
        """A tensor in the file's dtype, on the CPU; never to be written to, it may be the file.

        Raises:
            WeightsCorruptError: the file has changed or cannot be read any more.
        """
        part = self._parts[name]
        try:
            if part.rows is None:
                tensor = self._open(part.key).get_tensor(part.key)
            else:
                tensor = self._open(part.key).get_slice(part.key)[slice(*part.rows)]
        except (SafetensorError, OSError) as error:
            path = self._home[part.key]
            raise WeightsCorruptError(f"{path} cannot be read: {first_line(error)}.") from error
        if part.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        return tensor if part.shape is None else tensor.reshape(part.shape)

    def _open(self, key: str) -> Any:
        path = self._home[key]
        if path not in self._files:
            if _state(path) != self._states[path]:
                raise WeightsCorruptError(
                    f"{path} has changed since its tensors were listed; start again."
                )
            self._files[path] = safe_open(path, framework="pt", device="cpu")
        return self._files[path]


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is exchanged; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _shape(part: Part, stored: tuple[int, ...]) -> tuple[int, ...]:
    """A part's shape as its module has it."""
    if part.shape is not None:
        return part.shape
    if part.rows is None or not stored:
        return stored
    first, end = part.rows
    return (max(0, min(end, stored[0]) - first), *stored[1:])
