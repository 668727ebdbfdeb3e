"""What a worker hears from its server, and how it ends: told to, or because the server is dead.

Knows nothing of predictions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from typing import IO, NoReturn, Protocol

from depthflux.scratch import remove_scratch
from depthflux.server.messages import Drain, FromServer, read_from_server

#: Exit codes beside those of depthflux.errors. The server only logs them, but at the last it counts
#: no attempt.
EXIT_ORPHANED, EXIT_BROKEN, EXIT_HUNG, EXIT_NO_DECODER = 70, 75, 76, 77


class Obedient(Protocol):
    """Who does what the server says."""

    def obey(self, message: FromServer) -> None:
        """Do what the server says."""


class Orders:
    """Hears the server from the first moment on, while the model loads, too.

    While there is no worker yet, an order to end is obeyed at once. When the server is dead the
    process ends, and all that it has started with it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._changed = threading.Lock()
        self._worker: Obedient | None = None
        threading.Thread(target=self._hear, name="orders", daemon=True).start()

    def give_to(self, worker: Obedient) -> None:
        """Give orders to a worker from now on; it looks by itself for what it has missed."""
        with self._changed:
            self._worker = worker

    def _hear(self) -> None:
        while (message := read_from_server(self._stream)) is not None:
            with self._changed:
                if self._worker is not None:
                    self._worker.obey(message)
                elif isinstance(message, Drain):
                    end(0)
        _end_orphaned()


def end(code: int) -> NoReturn:
    """End the process at once: some threads listen for ever, and a step may take long."""
    try:
        remove_scratch()
        logging.shutdown()
        sys.stderr.flush()
    finally:
        # Whatever stands in the way, such as standard error that nobody reads any more.
        os._exit(code)


def _end_orphaned() -> NoReturn:
    """End the process and all that it has started; a living server would do that.

    A child that was forked holds the worker's place, and the next worker would wait for it.
    """
    if os.getpgrp() == os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_ORPHANED)
