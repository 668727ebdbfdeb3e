"""The stand-in painter, and a worker's process around it.

A prompt's first word says what it does:

    paint              paints a plain picture whose grey is the control image's mean
    slow SECONDS       takes so long instead of the usual time
    stuck SECONDS      sleeps so long without a step, and heeds no stop meanwhile; then paints
    stuck-once FILE    sleeps for an hour until the file is there
    flagged            paints, and flags every picture
    memory             raises OutOfMemoryError
    bug                raises what nobody meant
    quote TEXT         the same, with this text as the error's own words
    cuda               raises as CUDA does after a kernel's error
    cuda-once FILE     the same until the file is there, which it makes; then paints
    crash              ends the process at once, as a segmentation fault does
    crash-once FILE    the same until the file is there
    hang               stops the process, which then says nothing more
    hang-once FILE     the same until the file is there

STAND_IN in the environment holds a JSON object: `seconds` a picture takes (0.05), `devices` that
this machine claims to have (1), `load_seconds` (0), `refuse` a reason not to load (""), `journal` a
file that gets a line for every painting's begin and end: which, process, when that was begun, seed,
when, both in seconds of the monotonic clock; `grace_seconds` that one may take to stop, at least
(180), `picture_seconds` that decoding a picture may take (30).
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from depthflux.contract import GenerationRequest, OutputFile, Prediction
from depthflux.errors import OutOfMemoryError, WeightsMissingError
from depthflux.images import EXTENSIONS, MEDIA_TYPES, IsolatedDecoder, ReadLimits
from depthflux.images.isolated import TIMEOUT_S as DECODING_S
from depthflux.logs import log_to_standard_error
from depthflux.server.messages import Start
from depthflux.server.overtime import GRACE_S
from depthflux.server.worker import Painter, end, run_worker

MODEL = "depthflux/stand-in"


class StandIn:
    """A painter that computes nothing; see the module."""

    def __init__(self, start: Start, options: dict[str, Any]) -> None:
        self.model = MODEL
        self.device_count = int(options.get("devices", 1))
        kind = "cuda" if self.device_count > 1 else "cpu"
        self.device = str(start.settings.get("device", f"{kind}:0"))
        self.limits = ReadLimits(
            allow_files=False,
            allow_private_addresses=start.settings.get("allow_private_addresses") == "true",
        )
        self._seconds = options.get("seconds", 0.05)
        self._painting = threading.Lock()
        self._journal = options.get("journal", "")
        # A process's number may come again; with this beside it, it is known by both.
        self._process = f"{os.getpid()},{time.monotonic():.6f}"

    def paint(
        self,
        request: GenerationRequest,
        on_step: Callable[[int, int], None],
        on_begin: Callable[[], None],
    ) -> Prediction:
        """Do what the prompt's first word says, then paint."""
        with self._painting:
            on_begin()
            with self._noted(request.seed):
                return self._paint(request, on_step)

    @contextmanager
    def _noted(self, seed: int) -> Iterator[None]:
        """Note begin and end; of a process that dies in between there is no end."""
        word = "broken off"
        self._note("begin", seed)
        try:
            yield
            word = "end"
        finally:
            self._note(word, seed)

    def _note(self, word: str, seed: int) -> None:
        if self._journal:
            # One write at the end of the file: lines of several processes do not mix.
            line = f"{word},{self._process},{seed},{time.monotonic():.6f}\n"
            with open(self._journal, "ab", buffering=0) as file:
                file.write(line.encode())

    def _paint(self, request: GenerationRequest, on_step: Callable[[int, int], None]) -> Prediction:
        word, _, rest = request.prompt.partition(" ")
        seconds = float(rest) if word == "slow" else self._seconds
        _misbehave(word, rest)
        started = time.perf_counter()
        steps = 0 if request.only_depth_map else request.num_inference_steps * request.num_images
        for step in range(1, steps + 1):
            left = seconds * step / steps - (time.perf_counter() - started)
            time.sleep(max(left, 0))
            on_step(step, steps)
        if not steps:
            time.sleep(seconds)
        return _prediction(request, flagged=word == "flagged", milliseconds=round(1000 * seconds))

    def is_broken_by(self, error: Exception) -> bool:
        """As the real one."""
        return "CUDA error" in str(error)


def _misbehave(word: str, rest: str) -> None:
    kind, _, once = word.partition("-")
    if once and Path(rest).exists():
        return
    if once:
        Path(rest).touch()
    if kind == "memory":
        raise OutOfMemoryError("memory ran out: this stand-in has none; lower size.")
    if kind == "bug":
        raise KeyError("a secret detail of the inside")
    if kind == "stuck":
        time.sleep(3600 if once else float(rest))
    if kind == "quote":
        raise RuntimeError(rest)
    if kind == "cuda":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if kind == "crash":
        os._exit(139)
    if kind == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)


def _prediction(request: GenerationRequest, *, flagged: bool, milliseconds: int) -> Prediction:
    grey = int(request.control_image.rgb.mean())
    format = request.output_format
    data = _encoded(tuple(request.dimensions), grey, format)
    file = OutputFile(data=data, media_type=MEDIA_TYPES[format], extension=EXTENSIONS[format])
    return Prediction(
        request=request,
        model=MODEL,
        images=[],
        depth_map=Image.new("L", (1, 1)),
        files=[file] * request.picture_count,
        has_nsfw_contents=[flagged] * request.picture_count,
        timings={"inference": milliseconds},
        record={},
    )


@lru_cache(maxsize=64)
def _encoded(size: tuple[int, int], grey: int, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(buffer, format=format.upper())
    return buffer.getvalue()


def load(start: Start) -> Painter:
    """Load the stand-in as its options say.

    Raises:
        WeightsMissingError: they say so.
    """
    options = _options()
    time.sleep(options.get("load_seconds", 0))
    if options.get("refuse"):
        raise WeightsMissingError(options["refuse"])
    return StandIn(start, options)


def _options() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ.get("STAND_IN", "{}"))
    return found


def main() -> None:
    """Be a worker with this painter."""
    options = _options()
    decoder = IsolatedDecoder(timeout_s=options.get("picture_seconds", DECODING_S))
    with log_to_standard_error():
        end(run_worker(load, decoder=decoder, grace_s=options.get("grace_seconds", GRACE_S)))


if __name__ == "__main__":
    main()
