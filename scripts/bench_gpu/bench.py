"""What the stages of one arm share, and the request that they paint. Knows nothing of timing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench_gpu.sizes import Size
from depthflux.engine.engine import Engine
from depthflux.model.placement import Placement
from depthflux.settings import ResolvedSettings

PROMPT = "a red cube on a green floor, white sky"
SEED = 1


class SkippedError(Exception):
    """A stage cannot be measured here, and that is no failure; the message says why."""


@dataclass
class Bench:
    """One arm while it runs.

    Attributes:
        folder: that `make` wrote.
        size: of the model.
        settings: of the engine, as they were resolved.
        placement: where it runs.
        engine: once the stage `load` is over.
    """

    folder: Path
    size: Size
    settings: ResolvedSettings
    placement: Placement
    engine: Engine | None = field(default=None)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.placement.device

    @property
    def loaded(self) -> Engine:
        """The engine."""
        if self.engine is None:
            raise RuntimeError("nothing is loaded; the stage load must have gone before.")
        return self.engine

    def request(self, picture: str, **others: Any) -> dict[str, Any]:
        """A request for a size, from a supplied depth map and without the safety checker."""
        return {
            "prompt": PROMPT,
            "control_image": depth_map(),
            "preprocess_depth": False,
            "control_scale": 1.0,
            "size": picture,
            "seed": SEED,
            "num_inference_steps": self.size.steps,
            "enable_safety_checker": False,
        } | others


def depth_map() -> np.ndarray:
    """A supplied depth map, uint8 [1024, 1024]: near at the bottom, a near square in the middle."""
    depth = np.tile(np.linspace(0, 200, 1024)[:, None], (1, 1024))
    depth[360:660, 360:660] = 255
    return depth.astype(np.uint8)
