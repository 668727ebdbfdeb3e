"""The real engine as a worker's painter: the only room of the server that imports torch.

Knows nothing of the store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from depthflux.contract import GenerationRequest, Prediction
from depthflux.engine.engine import Engine
from depthflux.engine.loading import load
from depthflux.engine.warmup import warm_up
from depthflux.images import ReadLimits
from depthflux.server.messages import Start
from depthflux.server.worker import Painter


class EnginePainter:
    """An engine, see `Painter`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model = engine.model.id
        self.device = str(engine.model.placement.device)
        is_cuda = engine.model.placement.device.type == "cuda"
        self.device_count = torch.cuda.device_count() if is_cuda else 1
        # A caller of the server must not read its disk.
        self.limits = dataclasses.replace(
            ReadLimits.from_settings(engine.settings.values), allow_files=False
        )

    def paint(
        self,
        request: GenerationRequest,
        on_step: Callable[[int, int], None],
        on_begin: Callable[[], None],
    ) -> Prediction:
        """Make the pictures of a request; the engine lets one thread paint at a time."""
        return self._engine.generate(request, on_step=on_step, on_begin=on_begin)

    def is_broken_by(self, error: Exception) -> bool:
        """Ask the device: after a kernel's error CUDA refuses every call, whoever has met it first.

        The error itself says little: Triton, cuDNN and torch.compile each wrap it in their own way.
        """
        del error
        device = self._engine.model.placement.device
        if device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            return True
        return False


def load_painter(start: Start) -> Painter:
    """Load the engine that the server asks for, and compile what its requests can need.

    Raises:
        DepthFluxError: as `depthflux.load`.
    """
    engine = load(start.target, **start.settings)
    if engine.compilation.applied:
        warm_up(engine)
    return EnginePainter(engine)
