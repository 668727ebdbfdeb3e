"""A disk of the run's own that can be full: a tmpfs in a mount namespace.

Knows nothing of what lies on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chaos_server.errors import ChaosError

#: Set in the process that may mount.
_MARK = "CHAOS_MAY_MOUNT"
#: Ways into a namespace in which a mount is ours alone, the one that needs no rights first.
_WAYS = (("unshare", "--user", "--map-root-user", "--mount"), ("unshare", "--mount"))
_ALLOWED_S = 20
#: Written at a time; the last bytes go page by page.
_PIECES = (2**20, 2**12)
#: How often what was freed meanwhile is filled up again, in seconds.
_AGAIN_S = 0.05
#: How long it is waited that somebody notices, in seconds: after a minute workers give up pictures
#: that cannot be written.
_MOST_S = 30.0


def enter_namespace(arguments: list[str]) -> None:
    """Begin this script again where it may mount; returns there at once.

    Args:
        arguments: the script's.

    Raises:
        ChaosError: it may nowhere.
    """
    if os.environ.get(_MARK):
        return
    for way in _WAYS:
        if shutil.which(way[0]) and _may_mount(way):
            os.environ[_MARK] = "1"
            command = [*way, sys.executable, "-m", "chaos_server", *arguments]
            os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    raise ChaosError(
        "no disk can be filled up: this user may mount nothing, not even in a namespace of its "
        "own (unshare --user --map-root-user --mount); run it as root or on a machine that "
        "allows user namespaces, or give --without-full-disk."
    )


def _may_mount(way: tuple[str, ...]) -> bool:
    command = [*way, "mount", "-t", "tmpfs", "chaos", "/tmp"]  # noqa: S108 - in its namespace
    return subprocess.run(command, capture_output=True, timeout=_ALLOWED_S).returncode == 0


class Disk:
    """A small disk in memory.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        """Mount it; it goes with this process's namespace.

        Raises:
            ChaosError: it cannot be mounted.
        """
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "chaos", str(folder)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode != 0:
            raise ChaosError(f"no tmpfs can be mounted: {mounted.stderr.strip()}.")
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self, seconds: float, is_noticed: Callable[[], bool]) -> int:
        """Leave no room for some seconds, and until that is noticed; how many bytes that took.

        Args:
            seconds: how long at least.
            is_noticed: whether anybody was told; waited for half a minute at most.
        """
        begun_at = time.monotonic()
        with self._ballast.open("ab", buffering=0) as file:
            while (taken_s := time.monotonic() - begun_at) < seconds or (
                taken_s < _MOST_S and not is_noticed()
            ):
                for size in _PIECES:
                    _append_all(file.fileno(), bytes(size))
                time.sleep(_AGAIN_S)
            taken = file.tell()
        self._ballast.unlink()
        return taken

    def unmount(self) -> None:
        """Give the memory back."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _append_all(handle: int, piece: bytes) -> None:
    try:
        while os.write(handle, piece):
            continue
    except OSError:
        return  # no more room, which is the purpose
