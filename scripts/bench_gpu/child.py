"""The process that measures, from its first moment on: it ends when the one that started it does.

    python -m bench_gpu.child '{"folder": …}'

Its standard input is a pipe that nothing is written to; the system closes it whenever the starting
process is gone, in whatever way. Knows nothing of what is measured.
"""

import os
import sys
import threading


def end_with_the_starter() -> None:
    """Wait in the background for the end of standard input, and then end at once."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_the_starter()
    # Not before: torch takes seconds to import.
    from bench_gpu.measuring import main

    main()
