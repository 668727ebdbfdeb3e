"""A folder of this process alone, for what is worth nothing without it: removed when it ends.

A process that is killed removes nothing. So each folder holds a file that its process has locked,
and who makes a new one removes those of the same user whose lock the kernel has freed since.

Knows nothing of what is put there.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import IO

PREFIX = "depthflux-compile-"
#: The file that is locked, and the folder beside it that is given out.
LOCK, INSIDE = "lock", "inside"
_PRIVATE = 0o700

# The folders of this process, each with the lock that is held while the file is open, and the
# process: one that was forked ends without them.
_ours: dict[Path, tuple[IO[bytes], int]] = {}


@lru_cache(maxsize=1)
def scratch_folder() -> Path:
    """This process's folder, its owner's alone; made when it is first asked for.

    Raises:
        OSError: it cannot be made.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        _ours[folder] = _lock(folder), os.getpid()
        (folder / INSIDE).mkdir(mode=_PRIVATE)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    atexit.register(remove_scratch)
    return folder / INSIDE


def _lock(folder: Path) -> IO[bytes]:
    lock = (folder / f"{LOCK}.new").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under its name only once it is locked: before, somebody's sweeping passes the folder over.
        os.rename(folder / f"{LOCK}.new", folder / LOCK)
    except OSError:
        lock.close()
        raise
    return lock


def remove_scratch() -> None:
    """Remove this process's folder; who ends by os._exit has to call it."""
    for folder in list(_ours):
        # Another thread may be ending the process, too.
        lock, process = _ours.pop(folder, (None, 0))
        if lock is not None and process == os.getpid():
            _remove(folder)
            lock.close()
    scratch_folder.cache_clear()


def _sweep() -> None:
    """Remove what processes of the same user have left that are dead now."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Gone meanwhile, still held, or somebody else's, who may have put anything there.
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            with os.fdopen(handle, "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder; its lock goes last, so that what cannot be removed now is swept later."""
    shutil.rmtree(folder / INSIDE, ignore_errors=True)
    if not (folder / INSIDE).exists():
        shutil.rmtree(folder, ignore_errors=True)
