"""Decoding in a process of its own: whatever a picture does to its decoder stays in there.

Decoders are C code that reads what strangers send. Here they run in a child (`decoding_process`)
without descriptors, environment or rights, with bounded memory and time. What it answers is
believed only in so far as it has the form that the header asks for, so a decoder that was taken
over can give wrong pixels and keep a core busy for a while. It runs as the same user all the same.

Knows nothing of formats, nor of who wants the pixels.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from depthflux.errors import SetupError
from depthflux.images.container import Header, PictureProblemError
from depthflux.images.decoding import Pixels, upright_size
from depthflux.images.decoding_words import (
    EXIT_MEMORY,
    LONGEST_LINE_BYTES,
    Answer,
    Job,
    Ready,
    memory_for,
)
from depthflux.images.limits import ReadLimits
from depthflux.logs import one_line

logger = logging.getLogger("depthflux")

#: How a decoder is started. It looks for packages where this process does and nowhere else: not in
#: the current folder, nor, of its own accord, among the user's.
COMMAND = (sys.executable, "-P", "-s", "-m", "depthflux.images.decoding_process")
#: Longest time for one picture, in seconds; 67 megapixels took 3, and 14 on cores that fifteen
#: other processes wanted, too.
TIMEOUT_S = 30.0
#: Longest time for a decoder to start, which is no picture's fault; 0.5 s were measured.
START_S = 60.0
#: So many pictures are decoded by one process, lest it keeps what one of them has done to it.
PICTURES = 300
#: Beyond this a second idle decoder costs more memory than the 0.5 s that it saves.
_MOST_IDLE = 1
#: How much of a pipe the kernel keeps: fewer turns between the processes. Linux's most for all.
_PIPE_BYTES = 2**20

_ADVICE = "download or export it again, or make it smaller"


class NoDecoderError(SetupError):
    """No decoder's process starts, as when memory or processes are used up; it may pass."""


class _BrokenError(Exception):
    """A decoder is of no use any more; the message says why, in words about the picture.

    Attributes:
        at_start: the same of a decoder that starts, and has no picture yet.
    """

    def __init__(self, message: str, at_start: str = "it is another program") -> None:
        super().__init__(message)
        self.at_start = at_start


class IsolatedDecoder:
    """Decodes pictures in processes of their own; several threads may call at a time."""

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        timeout_s: float = TIMEOUT_S,
        pictures: int = PICTURES,
    ) -> None:
        """Start nothing yet.

        Args:
            command: how a decoder is started.
            timeout_s: longest time for one picture.
            pictures: how many are decoded by one process.
        """
        self._command, self._timeout_s, self._pictures = command, timeout_s, pictures
        self._changing = threading.Lock()
        self._idle: list[_Child] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start a decoder without waiting for it, so that the first picture need not.

        Where none can be started it is in the log, and the first picture tries it again.
        """
        with suppress(NoDecoderError):
            self._give_back(_Child(self._command))

    def close(self) -> None:
        """End the decoders that are idle."""
        with self._changing:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def decode(self, data: bytes, header: Header, limits: ReadLimits) -> Pixels:
        """Decode a picture; see `decoding.decode`.

        Args:
            data: a file without metadata.
            header: what it says of itself, its size judged.
            limits: how large pictures may be, which says how much memory one may take.

        Raises:
            PictureProblemError: it is damaged, or takes too much memory or time.
            NoDecoderError: none can be started.
        """
        child = self._take()
        try:
            child.wait_until_ready()
            pixels = child.decode(data, header, limits, self._timeout_s)
        except _BrokenError as error:
            child.end()
            logger.warning("a picture of %s %s", _shown(header), error)
            raise PictureProblemError(str(error), _ADVICE) from error
        except PictureProblemError:
            self._give_back(child)
            raise
        except BaseException:
            child.end()
            raise
        self._give_back(child)
        return pixels

    def _take(self) -> _Child:
        with self._changing:
            while self._idle:
                child = self._idle.pop()
                if child.is_usable:
                    return child
                child.end()
        return _Child(self._command)

    def _give_back(self, child: _Child) -> None:
        with self._changing:
            if child.count < self._pictures and len(self._idle) < _MOST_IDLE:
                self._idle.append(child)
                return
        child.end()


class _Child:
    """One decoder's process.

    Attributes:
        count: how many pictures it has decoded.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.count = 0
        self._command = command
        self._is_ready = False
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                cwd="/",
                close_fds=True,
                start_new_session=True,
            )
        except OSError as error:
            raise _not_started(str(error.strerror), command) from error
        if self._process.stdin is None or self._process.stdout is None:
            raise _not_started("it has no pipes", command)
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        for end in (self._input, self._output):
            os.set_blocking(end, False)
            _widen(end)

    @property
    def is_usable(self) -> bool:
        """Whether it lives and, once it is ready, is silent, as one is that nobody has asked."""
        if self._process.poll() is not None:
            return False
        return not (self._is_ready and self._is_speaking())

    def wait_until_ready(self) -> None:
        """Wait for its word that it takes pictures.

        Raises:
            NoDecoderError: it does not come.
        """
        if self._is_ready:
            return
        try:
            Ready.model_validate_json(self._receive_line(time.monotonic() + START_S))
        except _BrokenError as error:
            raise _not_started(error.at_start, self._command) from error
        except ValidationError as error:
            raise _not_started("it is another program", self._command) from error
        self._is_ready = True

    def decode(self, data: bytes, header: Header, limits: ReadLimits, timeout_s: float) -> Pixels:
        """Have a picture decoded, and believe only what has the right form."""
        self.count += 1
        ends_at = time.monotonic() + timeout_s
        job = Job(
            format=header.format,
            width=header.width,
            height=header.height,
            orientation=header.orientation,
            size=len(data),
            memory_bytes=memory_for(limits),
            cpu_s=int(timeout_s) + 1,
        )
        self._send(job.line(), ends_at)
        self._send(data, ends_at)
        try:
            answer = Answer.model_validate_json(self._receive_line(ends_at))
        except ValidationError as error:
            raise _BrokenError("makes its decoder answer what is no answer") from error
        if answer.problem:
            self._require_silence()
            raise PictureProblemError(one_line(answer.problem), one_line(answer.advice))
        width, height = upright_size(header)
        rgb = np.empty((height, width, 3), np.uint8)
        grey = np.empty((height, width), np.uint16) if answer.has_grey16 else None
        for plane in (rgb,) if grey is None else (rgb, grey):
            self._receive(plane, ends_at)
        self._require_silence()
        return Pixels(rgb, grey)

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _send(self, data: bytes, ends_at: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(ends_at, writing=True)
            try:
                left = left[os.write(self._input, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._death() from None

    def _receive_line(self, ends_at: float) -> bytes:
        """A line; read byte by byte, since what follows it belongs to the pixels."""
        line = bytearray()
        while not line.endswith(b"\n"):
            if len(line) >= LONGEST_LINE_BYTES:
                raise _BrokenError("makes its decoder answer what is no answer")
            line += self._read_into(memoryview(bytearray(1)), ends_at)
        return bytes(line)

    def _receive(self, plane: NDArray[np.uint8] | NDArray[np.uint16], ends_at: float) -> None:
        left = plane.data.cast("B")
        while left:
            left = left[len(self._read_into(left, ends_at)) :]

    def _read_into(self, room: memoryview, ends_at: float) -> memoryview:
        """Something of what it says, and not nothing."""
        while True:
            self._wait(ends_at, writing=False)
            with suppress(BlockingIOError):
                count = os.readv(self._output, [room])
                if count == 0:
                    raise self._death()
                return room[:count]

    def _wait(self, ends_at: float, *, writing: bool) -> None:
        """Wait until it listens or says something."""
        wanted = (self._input, select.POLLOUT) if writing else (self._output, select.POLLIN)
        if not _is_open_for(*wanted, max(ends_at - time.monotonic(), 0)):
            raise _BrokenError("takes too long to decode", "it takes too long")

    def _is_speaking(self) -> bool:
        return _is_open_for(self._output, select.POLLIN, 0)

    def _require_silence(self) -> None:
        if self._is_speaking():
            raise _BrokenError("makes its decoder say more than it was asked")

    def _death(self) -> _BrokenError:
        """Why it has ended, or closed its pipes, which comes to the same."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return _BrokenError("makes its decoder close its pipes", "it closes its pipes")
        if code == EXIT_MEMORY:
            return _BrokenError(
                "takes more memory to decode than a picture may", "it takes more memory than it may"
            )
        if code == -signal.SIGXCPU:
            return _BrokenError("takes too long to decode", "it takes too long")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return _BrokenError(f"ends its decoder by {how}", f"it ends by {how}")


def _environment() -> dict[str, str]:
    """What it needs to find the same packages; no key or token of this process's."""
    kept = {"PYTHONPATH": os.pathsep.join(_import_path())}
    if "LD_LIBRARY_PATH" in os.environ:
        kept["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    # A thread for each core would take 8 MiB of addresses each, and none is ever used.
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _import_path() -> list[str]:
    """Where this process finds its packages, the user's among them, but for the current folder.

    Python has made the entries of PYTHONPATH absolute, which the decoder, elsewhere, could not.
    """
    here = None
    # Whose folder was removed under it, as an old release's, has none to pass over.
    with suppress(FileNotFoundError):
        here = os.path.realpath(os.curdir)
    found = [
        entry
        for entry in sys.path
        if os.path.isabs(entry)
        and os.path.exists(entry)
        and os.path.realpath(entry) != here
        # No way to write it is known to PYTHONPATH.
        and os.pathsep not in entry
    ]
    # An import hook may have found this package, as one of editable installations does; and it may
    # lie in the current folder.
    own = str(Path(__file__).resolve().parents[2])
    return found if own in found else [*found, own]


def _is_open_for(end: int, event: int, timeout_s: float) -> bool:
    """Whether a pipe can be read or written, or has been closed, before some seconds are over."""
    # Not `select`, which knows no descriptor above 1023.
    waiting = select.poll()
    waiting.register(end, event)
    return bool(waiting.poll(1000 * timeout_s))


def _widen(pipe: int) -> None:
    """Let a pipe hold more; where the kernel grants no more, it works all the same."""
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _shown(header: Header) -> str:
    return f"{header.width}x{header.height} ({header.format})"


def _not_started(why: str, command: Sequence[str]) -> NoDecoderError:
    """The error, whose words a client may be told; which program it is, is for the log alone."""
    logger.warning("a decoder does not start (%s): %s", command[0], why)
    return NoDecoderError(
        f"pictures cannot be decoded: the decoder's process does not start: {why}.",
        fix="See the log, and whether memory and processes are left.",
    )
