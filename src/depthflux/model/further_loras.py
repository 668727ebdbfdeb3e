"""A request's further LoRAs: names → tensors that fit the transformer, or one line on why not.

The last few stay open, mapped and not copied; a file that has changed on disk is read anew. Knows
nothing of how LoRAs are fused.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflux.contract import MAX_LORAS, Lora
from depthflux.errors import (
    InvalidParameterError,
    LoraMismatchError,
    WeightsCorruptError,
    first_line,
)
from depthflux.model.control_lora import FurtherLora
from depthflux.model.hashes import HashCache
from depthflux.model.lora_downloads import LoraDownloads
from depthflux.model.lora_file import LoraTensors, read_lora
from depthflux.model.lora_names import FoundLora, Origin, find_loras, raise_together
from depthflux.settings import EngineSettings

#: Those of two requests; what stays open costs address space, not memory.
MOST_KEPT = 2 * MAX_LORAS


@dataclass(frozen=True)
class ShelfLora:
    """A LoRA that was taken for a request.

    Attributes:
        name: what records call it, see `FoundLora`.
        origin: what its path in the request was.
        lora: its hash, tensors and scale.
    """

    name: str
    origin: Origin
    lora: FurtherLora


class LoraShelf:
    """The further LoRAs that one transformer's requests can use. Several threads may take some."""

    def __init__(
        self,
        settings: EngineSettings,
        transformer: Any,
        *,
        downloads: LoraDownloads | None = None,
    ) -> None:
        """Remember where to look.

        Args:
            settings: loras_dir, and whether paths and addresses are allowed.
            transformer: diffusers' FluxTransformer2DModel, which the LoRAs have to fit.
            downloads: where files behind addresses come from; None = from their addresses.
        """
        self._settings = settings
        self._transformer = transformer
        self._downloads = downloads or LoraDownloads(settings)
        self._kept: OrderedDict[tuple[Any, ...], tuple[str, LoraTensors]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, loras: Sequence[Lora]) -> list[ShelfLora]:
        """Find, read and check a request's LoRAs; nothing is fused yet.

        Args:
            loras: the request's. One that is given twice is taken twice: both scales count.

        Returns:
            One for each, in their order.

        Raises:
            InvalidParameterError: one is not allowed, not there, damaged or does not fit; the
                message names all of them.
        """
        taken, errors = [], []
        for found in find_loras(loras, self._settings):
            try:
                sha256, tensors = self._opened(found)
                lora = FurtherLora(sha256, tensors, found.scale)
                taken.append(ShelfLora(found.name, found.origin, lora))
            except InvalidParameterError as error:
                errors.append(error)
        raise_together(errors)
        return taken

    def _opened(self, found: FoundLora) -> tuple[str, LoraTensors]:
        file = found.file or self._downloads.file_of(found)
        try:
            return self._read(file)
        except (WeightsCorruptError, LoraMismatchError) as error:
            # The caller knows the name; where it lies on this machine is not told.
            raise found.refusal(str(error).replace(str(file), "it")) from error
        except OSError as error:
            raise found.refusal(f"cannot be read ({first_line(error)})") from error

    def _read(self, file: Path) -> tuple[str, LoraTensors]:
        """A file's sha256 and tensors; a file that is the same as before is not read again."""
        state = _state(file)
        with self._lock:
            if state in self._kept:
                self._kept.move_to_end(state)
                return self._kept[state]
        remembered = HashCache()
        sha256 = remembered.sha256(file)
        remembered.store()
        tensors = read_lora(file, self._transformer)
        if _state(file) != state:
            raise WeightsCorruptError(f"{file} changed while it was read; ask again.")
        with self._lock:
            self._kept[state] = (sha256, tensors)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return sha256, tensors


def _state(file: Path) -> tuple[Any, ...]:
    """What changes with a file's content."""
    status = file.stat()
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
