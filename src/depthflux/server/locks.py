"""Locked files: which process has a data folder, or a worker's place in it.

The kernel frees a lock when its process dies, however it dies; so who holds one knows that the
last holder computes no more. No clock decides.

Knows nothing of what is done in the folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import IO

from depthflux.errors import SettingsError

#: How long an earlier server's workers may take to notice that it is dead, in seconds.
TAKEOVER_S = 30.0
#: How often it is looked whether they have, in seconds.
_LOOK_S = 0.05


def hold_data_dir(data_dir: Path) -> IO[bytes]:
    """Take a data folder for this server alone, while the file is open.

    Raises:
        SettingsError: another server has it.
    """
    try:
        file = _open(data_dir / "server.lock")
    except OSError as error:
        raise _unusable(data_dir / "server.lock", error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SettingsError(
            f"data_dir={data_dir}: another server is using it.",
            fix="Stop that one, or name another folder with --data-dir.",
        ) from None
    return file


async def wait_until_free(path: Path) -> None:
    """Wait until no process holds a worker's place.

    Args:
        path: of the place's file.

    Raises:
        SettingsError: the file cannot be used, or its holder does not end.
    """
    try:
        file = _open(path)
    except OSError as error:
        raise _unusable(path, error) from error
    with file:
        for _ in range(int(TAKEOVER_S / _LOOK_S)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(_LOOK_S)
            else:
                return
    raise SettingsError(
        f"data_dir: a worker of an earlier server still holds {path}.",
        fix="End that process and start again.",
    )


def _open(path: Path) -> IO[bytes]:
    """A lock's file, made where it is not there.

    Not emptied, and not where a link leads: its name is known to everybody, and a link in its place
    would have emptied another file.
    """
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "wb")


def _unusable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"data_dir: {path} cannot be used: {error.strerror}.",
        fix="Give it to the user that the server runs as, or name another folder with --data-dir.",
    )


def hold_slot(data_dir: Path, slot: int) -> IO[bytes]:
    """Wait for a worker's place to be free, and hold it while the file is open.

    Who holds it knows that no earlier worker of this place computes any more.
    """
    file = _open(data_dir / f"worker-{slot}.lock")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def place_files(data_dir: Path) -> list[Path]:
    """The files of all places that workers have ever held in a folder."""
    return sorted(data_dir.glob("worker-*.lock"))
