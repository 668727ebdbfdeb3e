"""What a depth estimator is to the rest of depthflux, whichever model is behind it.

Knows nothing of any particular model, of normalisation, or of the size asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

#: What a model's numbers mean: "disparity" grows with nearness, "depth" with distance.
Gives = Literal["disparity", "depth"]


@dataclass(frozen=True)
class EstimatorCard:
    """What is declared about an estimator, as the record and `doctor` repeat it.

    Attributes:
        name: short, such as `depth-anything-v2-small`.
        source: where its weights come from: a Hugging Face repository, or words.
        licence: of the weights, as SPDX names it; "unknown" where it is not known.
        gives: whether the model's numbers grow with nearness or with distance.
        input_size: the shorter side, in pixels, of what the model looks at.
    """

    name: str
    source: str
    licence: str
    gives: Gives
    input_size: int


class DepthEstimator(Protocol):
    """Anything that estimates depth from one picture."""

    @property
    def card(self) -> EstimatorCard:
        """What is declared about it."""

    @property
    def folder(self) -> Path:
        """Where its weights lie; the record holds the sha256 of the files in it."""

    def estimate(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The depth of a picture.

        Args:
            rgb: uint8 [H, W, 3], 0..255, sRGB.

        Returns:
            float32 [H, W], relative inverse depth, larger = nearer, unbounded.
        """
