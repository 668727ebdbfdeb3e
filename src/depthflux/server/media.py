"""Where pictures lie: outputs and uploads, two folders of files with names nobody can guess.

A file is whole or not there, and no link: one that somebody has put in its place is not followed,
neither for reading nor for writing. What no row of the store names is swept away: it was left by a
process that was killed between the two.

Knows nothing of rows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from depthflux.errors import OutputError
from depthflux.files import (
    HASH_CHUNK_BYTES,
    flush_file,
    is_regular,
    make_folder,
    open_regular,
    read_regular,
    write_atomically,
)
from depthflux.server.disk import require_room
from depthflux.server.errors import StoreError
from depthflux.server.names import is_file_name

logger = logging.getLogger("depthflux")

#: A file that no row names may be about to get its row; older ones are not.
_SWEEP_AGE_S = 3600.0
#: By so many of its first bytes a picture's format is known.
_FIRST_BYTES = 64
#: Why there can be no link: another disk, one that knows none, or no more of this file.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}


@dataclass(frozen=True)
class Kept:
    """A file that was kept under another name.

    Attributes:
        first: its first bytes, by which its format is known.
        size: in bytes.
        sha256: 64 hexadecimal digits.
    """

    first: bytes
    size: int
    sha256: str


class Media:
    """The files of a server's data folder.

    Attributes:
        outputs: the folder of finished pictures.
        uploads: the folder of control images that clients sent.
    """

    def __init__(self, data_dir: Path) -> None:
        """Make the folders.

        Raises:
            OutputError: they cannot be made or written.
        """
        self.outputs, self.uploads = data_dir / "outputs", data_dir / "uploads"
        for folder in (self.outputs, self.uploads):
            make_folder(folder)

    def write_output(self, name: str, data: bytes) -> None:
        """Write a finished picture; one of the same name is replaced.

        Raises:
            StoreError: the disk is full, or refuses.
        """
        _write(self.outputs / name, data, flush=True)

    def write_upload(self, name: str, data: bytes, *, flush: bool) -> str:
        """Write a control image; the sha256 of its bytes.

        Args:
            name: of the file.
            data: its bytes.
            flush: whether they are on the disk when this returns; else see `flush_upload`.

        Raises:
            StoreError: the disk is full, or refuses.
        """
        _write(self.uploads / name, data, flush=flush)
        return hashlib.sha256(data).hexdigest()

    def keep_output(self, name: str, new_name: str) -> Kept | None:
        """Keep a finished picture as a control image, too; it stays when the other is deleted.

        Args:
            name: the finished picture's.
            new_name: the control image's; on the disk as after `write_upload` without a flush.

        Returns:
            What it is; None where there is no such picture, or no more.

        Raises:
            StoreError, OSError: the disk refuses.
        """
        output, upload = self.outputs / name, self.uploads / new_name
        try:
            kept = _sum_up(output)
            # A link is as old as what it leads to, and old ones that no row names yet are swept.
            os.utime(output, follow_symlinks=False)
            self._link_or_copy(output, upload, kept.size)
        except FileNotFoundError:
            return None
        return kept

    def _link_or_copy(self, output: Path, upload: Path, size: int) -> None:
        try:
            os.link(output, upload, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            require_room(self.uploads, size)
            _write(upload, read_regular(output), flush=False)

    def flush_upload(self, name: str) -> None:
        """Return once a control image is on the disk.

        Raises:
            OSError: the disk refuses.
        """
        with contextlib.suppress(FileNotFoundError):  # deleted with its prediction just now
            flush_file(self.uploads / name)
        flush_file(self.uploads)

    def find(self, name: str) -> Path | None:
        """The file of this name, an upload or an output; None where there is none."""
        if not is_file_name(name):
            return None
        for folder in (self.uploads, self.outputs):
            if is_regular(folder / name):
                return folder / name
        return None

    def read(self, name: str) -> bytes | None:
        """The bytes of the file of this name, an upload or an output; None where there is none."""
        path = self.find(name)
        try:
            return None if path is None else read_regular(path)
        except FileNotFoundError:  # deleted just now
            return None

    def open(self, name: str) -> FileIO | None:
        """The file of this name, opened for reading; whoever asks closes it. None as `read`."""
        path = self.find(name)
        try:
            return None if path is None else open_regular(path)
        except FileNotFoundError:  # deleted just now
            return None

    def size_of_outputs(self, names: list[str]) -> int:
        """How many bytes finished pictures have together; what is gone has none."""
        return sum(_size_of(self.outputs / name) for name in names)

    def read_outputs(self, names: list[str]) -> list[bytes]:
        """The bytes of finished pictures.

        Raises:
            FileNotFoundError: one of them is gone.
        """
        return [read_regular(self.outputs / name) for name in names]

    def remove_outputs(self, names: list[str]) -> None:
        """Delete finished pictures, as far as they are there and the disk lets them go."""
        _remove(self.outputs, names)

    def remove_uploads(self, names: list[str]) -> None:
        """Delete control images, as far as they are there and the disk lets them go."""
        _remove(self.uploads, names)

    def remove_partial_uploads(self) -> None:
        """Delete what a killed server has not written whole; only while no other server runs."""
        _remove_partial(self.uploads)

    def remove_partial_outputs(self) -> None:
        """Delete what killed workers have not written whole; only while no worker runs."""
        _remove_partial(self.outputs)

    def sweep(
        self, known_outputs: Callable[[], set[str]], known_uploads: Callable[[], set[str]]
    ) -> int:
        """Delete files that nothing names, but young ones; how many there were.

        Args:
            known_outputs: what the names of outputs begin with that are or may yet be needed, up
                to a dash; asked after listing.
            known_uploads: names of uploads, likewise.
        """
        return _sweep(self.outputs, known_outputs) + _sweep(self.uploads, known_uploads)


def _size_of(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _sum_up(path: Path) -> Kept:
    """What a file is, of which no more than a piece is in memory."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        first = file.read(_FIRST_BYTES)
        file.seek(0)
        while piece := file.read(HASH_CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
    return Kept(first=first, size=size, sha256=digest.hexdigest())


def _write(path: Path, data: bytes, *, flush: bool) -> None:
    try:
        write_atomically(path, data, flush=flush)
    except OutputError as error:
        # Without the path, which is nobody's business but the operator's.
        reason = getattr(error.__cause__, "strerror", None) or "the disk refuses"
        raise StoreError(f"a picture cannot be written just now: {reason}.") from error


def _remove(folder: Path, names: list[str]) -> None:
    problems = []
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            problems.append(error)
    if problems:
        # Nobody is told: their rows are gone, and what is left is swept away later.
        logger.error(
            "%d of %d files in %s cannot be deleted just now: %s",
            len(problems),
            len(names),
            folder.name,
            problems[0].strerror,
        )


def _remove_partial(folder: Path) -> None:
    # Files are written under names with a dot in front, see depthflux.files.
    for path in folder.glob(".*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)


def _sweep(folder: Path, known: Callable[[], set[str]]) -> int:
    before = time.time() - _SWEEP_AGE_S
    with os.scandir(folder) as entries:
        # A link itself, whatever it leads to, and be it nowhere.
        old = [
            entry.name
            for entry in entries
            if not entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_mtime < before
        ]
    names = known() if old else set()
    left = [name for name in old if name not in names and name.partition("-")[0] not in names]
    for name in left:
        (folder / name).unlink(missing_ok=True)
    return len(left)
