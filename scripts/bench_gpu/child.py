"""The process that measures, from its first moment on: it ends when the one that started it does.

    python -m bench_gpu.child '{"folder": …}'     stages of the model from files
    python -m bench_gpu.child '{"kind": …}'       a part of the contest against diffusers

Its standard input is a pipe that nothing is written to; the system closes it whenever the starting
process is gone, in whatever way. Knows nothing of what is measured.
"""

import json
import os
import sys
import threading
from typing import Any, TextIO


class Teller:
    """Says what happens, a JSON object a line."""

    def __init__(self) -> None:
        # Libraries may print; what they print must not stand between the lines.
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, **message: Any) -> None:
        """Say one thing."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


def end_with_the_starter() -> None:
    """Wait in the background for the end of standard input, and then end at once."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_the_starter()
    told = json.loads(sys.argv[1])
    # Not before: torch takes seconds to import.
    if "kind" in told:
        from bench_gpu.contest import main
    else:
        from bench_gpu.measuring import main

    main(told, Teller())
