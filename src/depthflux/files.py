"""Writing files so that they are either whole or not there.

Every result that depthflux leaves behind passes through `write_atomically`. The module knows
nothing of what is in the files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from io import FileIO
from pathlib import Path

from depthflux.errors import OutputError

#: Read size for hashing; larger ones are no faster from an SSD and cost memory.
HASH_CHUNK_BYTES = 1 << 20


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, or say why that cannot be.

    Raises:
        OutputError: a part of the path is a file, or it may not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise _refused(folder, error.strerror or str(error)) from error
    if not writable:
        raise _refused(folder, "no permission to write there")


def cache_folder() -> Path | None:
    """The user's folder for what depthflux can make again; None for a user without a home."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no HOME and no such user, as in some containers
        return None
    return Path(base) / "depthflux"


def write_atomically(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write a file whole or not at all: a temporary file beside it, then renamed.

    Args:
        path: of the file; one that is there is replaced.
        data: all of it.
        flush: whether it would survive a power cut when this returns; without, `flush_file` of it
            and of its folder is still to come.

    Raises:
        OutputError: the folder is missing or may not be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        # Not tempfile's: those are private, and results get the permissions of any new file.
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        temporary = name
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        if flush:
            # Its name, too: on some file systems it would not be there after a power cut.
            flush_file(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _refused(path, error.strerror or str(error)) from error
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def flush_file(path: Path) -> None:
    """Return once a file's bytes, or a folder's names, are on the disk.

    Raises:
        OSError: it is not there, or the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_regular(path: Path) -> bool:
    """Whether a path is a regular file itself: no link to one, no folder, pipe or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return False


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file, which is no link to one either.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return file.readall()


def open_regular(path: Path) -> FileIO:
    """A regular file, which is no link to one either, opened for reading.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be opened.
    """
    try:
        # Without waiting for the writer of a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FileNotFoundError(errno.ENOENT, "is a link", str(path)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(errno.ENOENT, "is no regular file", str(path))
    return FileIO(handle, "rb")


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _refused(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot write {path}: {reason}; name a folder you may write to with --out.",
        field="out",
        value=str(path),
        allowed="a folder that may be written",
    )
