"""A decoder's process: takes pictures on standard input, gives pixels on standard output.

`isolated` starts it and speaks to it. Before it takes the first byte from outside it gives up what
decoding does not need: it can open no file and no socket, write no file, start no process and gain
no rights; memory and time are bounded by each picture's `Job`. It ends when its starter does, in
the middle of a picture, too.

Knows nothing of what is accepted, or of what the pixels are for.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import io
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image

from depthflux.images.container import Header, PictureFormat, PictureProblemError
from depthflux.images.decoding import MemoryProblemError, Pixels, decode
from depthflux.images.decoding_words import EXIT_MEMORY, LONGEST_LINE_BYTES, Answer, Job, Ready

#: What Pillow imports when it first meets a picture that needs it; later nothing can be.
_LATE_MODULES = ("ImagePalette", "TiffImagePlugin", "WebPImagePlugin")
#: Pictures of every kind, to be decoded before the first from outside.
_KINDS: tuple[tuple[str, PictureFormat], ...] = (
    ("L", "png"),
    ("P", "png"),
    ("RGBA", "png"),
    ("I;16", "png"),
    ("RGB", "jpeg"),
    ("CMYK", "jpeg"),
    ("RGBA", "webp"),
)
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Decode pictures until standard input ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # A service manager may send it to every process; ending is the starter's business.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    source, target = os.fdopen(0, "rb"), io.FileIO(os.dup(1), "wb")
    _rehearse()
    # From here on what is printed would be a picture's words: into the log they must not come.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    _give_up_rights()
    _send(target, Ready().line())
    while line := source.readline(LONGEST_LINE_BYTES):
        job = Job.model_validate_json(line)
        _bound(job)
        data = source.read(job.size)
        if len(data) < job.size:
            return
        _answer(target, data, job.header)


def _answer(target: IO[bytes], data: bytes, header: Header) -> None:
    try:
        with _ending_with_the_starter():
            pixels = decode(data, header)
    except MemoryProblemError:
        # What is left of it may be in any state, and may not suffice for an answer.
        os._exit(EXIT_MEMORY)
    except PictureProblemError as problem:
        _send(target, Answer(problem=str(problem)[:1000], advice=problem.advice[:1000]).line())
    else:
        _send_pixels(target, pixels)


def _send_pixels(target: IO[bytes], pixels: Pixels) -> None:
    _send(target, Answer(has_grey16=pixels.grey16 is not None).line())
    _send(target, pixels.rgb.data.cast("B"))
    if pixels.grey16 is not None:
        _send(target, pixels.grey16.data.cast("B"))


def _send(target: IO[bytes], data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[target.write(left) :]


def _rehearse() -> None:
    """Decode a small picture of every kind, so that whatever is loaded late is loaded now."""
    for name in _LATE_MODULES:
        importlib.import_module(f"PIL.{name}")
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, kind in _KINDS:
        buffer = io.BytesIO()
        Image.new(mode, (2, 2)).save(buffer, format=kind.upper(), exif=exif)
        header = Header(format=kind, width=2, height=2, frames=1, orientation=6)
        decode(buffer.getvalue(), header)


def _give_up_rights() -> None:
    """Give up, for good, what decoding does not need."""
    for what in (
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_CORE,
        resource.RLIMIT_NPROC,
        # Those that are open stay open; no file, socket or pipe can be added.
        resource.RLIMIT_NOFILE,
    ):
        resource.setrlimit(what, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _bound(job: Job) -> None:
    """Bound memory for good, to the least that was ever said, and time for this picture."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or job.memory_bytes < most:
        resource.setrlimit(resource.RLIMIT_AS, (job.memory_bytes, job.memory_bytes))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    seconds = int(usage.ru_utime + usage.ru_stime) + 1 + job.cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))


@contextmanager
def _ending_with_the_starter() -> Iterator[None]:
    """End at once when standard input does; a decoder in C looks at nothing for seconds.

    The kernel sends SIGIO, which ends a process, when the other end of a pipe is closed. Its signal
    for a parent's death would come as soon as the thread ends that has started this process.
    """
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        os._exit(0)  # it was closed just before
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)


if __name__ == "__main__":
    main()
