"""`python -m depthflux.bench.hosted.tied PARENT WORDS…`: depthflux, ended when its parent dies.

A server that outlives who started it would keep the GPU's memory. Where the parent is killed it
can end nothing itself, so the kernel does: Linux sends the signal, once the parent's thread that
started this process is gone. Elsewhere the server has to be ended by hand then.

Knows nothing of what the words mean.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

#: Source: prctl(2), linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, and be depthflux."""
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    # It may have died before the kernel was asked.
    if os.getppid() != int(parent):
        sys.exit(1)
    sys.argv = ["depthflux", *words]
    runpy.run_module("depthflux", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
