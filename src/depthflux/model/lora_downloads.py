"""LoRAs from https addresses: fetched once, and kept in the user's cache folder.

    <cache>/depthflux/loras/<sha256 of the file>.safetensors
    <cache>/depthflux/loras/<sha256 of the address>.sha256       that file's sha256

The address itself may hold a secret, and is written nowhere. It is asked once: whoever wants what
it gives today takes its file out of the folder. Knows nothing of what is in the files, but that
they are whole safetensors files.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import tempfile
from pathlib import Path
from typing import BinaryIO

from depthflux.errors import InvalidParameterError, first_line
from depthflux.files import cache_folder, sha256_of_file
from depthflux.images.addresses import Resolver, resolve
from depthflux.images.limits import ReadLimits
from depthflux.model.headers import header_problem
from depthflux.model.lora_names import ALLOWED, SUFFIX, FoundLora
from depthflux.settings import EngineSettings

#: A LoRA of rank 128 on all of FLUX's linears has 1.2 GB.
MAX_BYTES = 2 * 2**30
#: As many bytes at 4 MB a second.
MAX_SECONDS = 600.0


class LoraDownloads:
    """The files behind addresses."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Remember how far a fetch may go.

        Args:
            settings: allow_private_addresses, and loras_dir for advice.
            resolver: turns names into addresses.
            tls: what certificates are trusted; None = certifi's.
        """
        self._limits = ReadLimits(
            max_bytes=MAX_BYTES,
            allow_private_addresses=settings.allow_private_addresses,
            read_timeout_s=30.0,
            total_timeout_s=MAX_SECONDS,
        )
        self._loras_dir = settings.loras_dir
        self._resolver = resolver
        self._tls = tls

    def file_of(self, lora: FoundLora) -> Path:
        """The file behind a LoRA's address, fetched where it is not there yet.

        Raises:
            InvalidParameterError: the address is refused, unreachable, too slow, or gives no whole
                safetensors file; or it cannot be kept.
        """
        folder = _folder()
        if folder is None:
            raise lora.refusal("there is no cache folder to keep it in; set XDG_CACHE_HOME")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / f"{hashlib.sha256(lora.url.encode()).hexdigest()}.sha256"
            return _noted_file(note) or self._fetched(lora, folder, note)
        except OSError as error:
            raise lora.refusal(f"cannot be kept in {folder} ({first_line(error)})") from error

    def _fetched(self, lora: FoundLora, folder: Path, note: Path) -> Path:
        handle, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=folder)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as body:
                self._fetch(lora, body)
            # A page that asks for a password must not stay in place of the file.
            if problem := header_problem(partial):
                raise lora.refusal(problem.replace(str(partial), "what its address gives"))
            digest = sha256_of_file(partial)
            kept = folder / f"{digest}{SUFFIX}"
            os.replace(partial, kept)
            partial.write_text(digest, encoding="ascii")
            os.replace(partial, note)
        finally:
            partial.unlink(missing_ok=True)
        return kept

    def _fetch(self, lora: FoundLora, body: BinaryIO) -> None:
        # httpx costs 0.2 s to import, which only those pay who fetch.
        from depthflux.images.fetch import Wanted, fetch_into

        wanted = Wanted(
            accept="application/octet-stream, */*",
            allowed=ALLOWED,
            error=InvalidParameterError,
            advice=f"download it into {self._loras_dir} and give its name",
            https_only=True,
        )
        fetch_into(
            body,
            lora.url,
            limits=self._limits,
            wanted=wanted,
            field=lora.field,
            resolver=self._resolver,
            tls=self._tls,
        )


def _noted_file(note: Path) -> Path | None:
    """The file that an address gave before, if it is still there."""
    try:
        digest = note.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    file = note.with_name(f"{digest}{SUFFIX}")
    return file if re.fullmatch(r"[0-9a-f]{64}", digest) and file.is_file() else None


def _folder() -> Path | None:
    folder = cache_folder()
    return folder and folder / "loras"
