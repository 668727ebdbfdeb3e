"""A clock of the server's own that can be made to jump; its processes preload clock.c.

Only they see it: this machine's clock is nobody's to change. Knows nothing of when it jumps.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import time
from pathlib import Path

from chaos_server.errors import ChaosError

SOURCE = Path(__file__).with_name("clock.c")
#: As many jumps as clock.c has room for, each two numbers of 64 bits.
_JUMPS, _JUMP = 64, struct.Struct("=qq")


class Clock:
    """A clock that shows the real time until it jumps.

    Attributes:
        environment: the variables under which a process lives by it.
        ahead_s: by how much it is ahead of the real one, in seconds.
    """

    def __init__(self, folder: Path) -> None:
        """Build the library.

        Args:
            folder: where it is put, with the file of jumps.

        Raises:
            ChaosError: there is no C compiler, or it refuses.
        """
        library, jumps = folder / "clock.so", folder / "clock"
        compiler = shutil.which("cc")
        if compiler is None:
            raise ChaosError(
                "the server's clock cannot be made to jump without a C compiler: there is no cc; "
                "install one (such as the package gcc), or give --without-clock."
            )
        built = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"],
            capture_output=True,
            text=True,
        )
        if built.returncode != 0:
            first = (built.stderr.strip() or "no reason").splitlines()[0]
            raise ChaosError(f"{SOURCE.name} cannot be built: {first}; or give --without-clock.")
        jumps.write_bytes(bytes(_JUMPS * _JUMP.size))
        with jumps.open("r+b") as file:
            self._jumps = mmap.mmap(file.fileno(), 0)
        self._count, self.ahead_s = 0, 0.0
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(jumps)}

    def jump(self, seconds: float) -> None:
        """Jump ahead, or back with less than 0."""
        self.ahead_s += seconds
        at = self._count * _JUMP.size
        since, ahead = time.time_ns(), round(self.ahead_s * 1e9)
        # By how much first: a jump without a time is none yet.
        self._jumps[at + 8 : at + 16] = struct.pack("=q", ahead)
        self._jumps[at : at + 8] = struct.pack("=q", since)
        self._count += 1
