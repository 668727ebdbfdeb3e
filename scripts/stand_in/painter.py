"""The stand-in painter, and a worker's process around it.

A prompt's first word says what it does:

    paint              paints a plain picture whose grey is the control image's mean
    slow SECONDS       takes so long instead of the usual time
    flagged            paints, and flags every picture
    memory             raises OutOfMemoryError
    bug                raises what nobody meant
    cuda               raises as CUDA does after a kernel's error
    cuda-once FILE     the same until the file is there, which it makes; then paints
    crash              ends the process at once, as a segmentation fault does
    crash-once FILE    the same until the file is there
    hang               stops the process, which then says nothing more
    hang-once FILE     the same until the file is there

STAND_IN in the environment holds a JSON object: `seconds` a picture takes (0.05), `devices` that
this machine claims to have (1), `load_seconds` (0), `refuse` a reason not to load ("").
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from PIL import Image

from depthflux.contract import GenerationRequest, OutputFile, Prediction
from depthflux.errors import OutOfMemoryError, WeightsMissingError
from depthflux.images import EXTENSIONS, MEDIA_TYPES, ReadLimits
from depthflux.server.messages import Start
from depthflux.server.worker import Painter, end, run_worker

MODEL = "depthflux/stand-in"


class StandIn:
    """A painter that computes nothing; see the module."""

    def __init__(self, start: Start, options: dict[str, float]) -> None:
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

    def paint(self, request: GenerationRequest, on_step: Callable[[int, int], None]) -> Prediction:
        """Do what the prompt's first word says, then paint."""
        with self._painting:
            return self._paint(request, on_step)

    def _paint(self, request: GenerationRequest, on_step: Callable[[int, int], None]) -> Prediction:
        word, _, rest = request.prompt.partition(" ")
        seconds = float(rest) if word == "slow" else self._seconds
        _misbehave(word, rest)
        started = time.perf_counter()
        steps = request.num_inference_steps * request.num_images
        for step in range(1, steps + 1):
            left = seconds * step / steps - (time.perf_counter() - started)
            time.sleep(max(left, 0))
            on_step(step, steps)
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
        files=[file] * request.num_images,
        has_nsfw_contents=[flagged] * request.num_images,
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
    options = json.loads(os.environ.get("STAND_IN", "{}"))
    time.sleep(options.get("load_seconds", 0))
    if options.get("refuse"):
        raise WeightsMissingError(options["refuse"])
    return StandIn(start, options)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    end(run_worker(load))
