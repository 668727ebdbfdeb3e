"""A depth map that the caller supplies instead of having it estimated (`preprocess_depth=false`).

It is used as it is: 0 stays black, the largest value of its bit depth stays white. Someone who
supplies a map has decided what near and far are, and FluxControlPipeline takes it the same way.
Stretching it again would change a map that rightly uses part of the range (a far-away scene).
So the request's default normalisation, `minmax`, does nothing here; `percentile` stretches.

Knows nothing of files and estimators. It cannot see a wrong polarity: a map that is dark where
near looks like any other, which is what `invert_depth` is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthflux.contract import DepthNormalization
from depthflux.depth.normalization import normalize

#: A supplied map that uses less of its range than this is said to be faint. Maps in millimetres in
#: 16 bits (0..10000 of 65535) fall below it, maps that somebody normalised do not.
FAINT_RANGE = 0.2


@dataclass(frozen=True)
class SuppliedDepth:
    """A supplied depth map and what should be said about it.

    Attributes:
        depth: float32 [H, W], in [0, 1], larger = nearer.
        warnings: one line each, for the log and the record; empty where nothing is odd.
    """

    depth: NDArray[np.float32]
    warnings: tuple[str, ...]


def read_supplied(
    rgb: NDArray[np.uint8],
    grey16: NDArray[np.uint16] | None = None,
    *,
    is_coloured: bool,
    invert: bool = False,
) -> SuppliedDepth:
    """A picture's values as depth.

    Args:
        rgb: uint8 [H, W, 3]; a grey picture has three equal channels and comes through exactly.
        grey16: uint16 [H, W] where the picture has 16 bits; it is then used instead of `rgb`.
        is_coloured: whether the channels differ. Colours are no depth: the map's luminance is used
            and a warning says so, since a palette such as turbo or viridis is not undone.
        invert: the map is dark where near; turn it round.

    Returns:
        The depth and the warnings.
    """
    if grey16 is not None:
        depth = grey16.astype(np.float32) / np.float32(65535.0)
    else:
        depth = _luminance(rgb).astype(np.float32) / np.float32(255.0)
    warnings = []
    if is_coloured:
        warnings.append(
            "the supplied depth map is coloured; its luminance is taken for depth, which is wrong "
            "for a colour palette: supply a grey map (near = white), or let the depth be estimated "
            "with preprocess_depth=true."
        )
    low, high = float(depth.min()), float(depth.max())
    if high - low < FAINT_RANGE:
        warnings.append(
            f"the supplied depth map uses only {low:.3f} to {high:.3f} of its range 0 to 1 and "
            "will guide weakly; depth_normalization=percentile stretches it."
        )
    return SuppliedDepth(np.float32(1.0) - depth if invert else depth, tuple(warnings))


def normalize_supplied(depth: NDArray[np.float32], mode: DepthNormalization) -> NDArray[np.float32]:
    """Bring a supplied map into the range that the control image is made from.

    Args:
        depth: float32 [H, W], in [0, 1], larger = nearer, as `read_supplied` returns it.
        mode: `minmax` (the request's default) leaves the map as it is; `percentile` stretches its
            2nd to 98th percentile; `bfl_raw` takes [0, 1] to [-1, 1] without rounding to 256
            levels, so that all 16 bits of a map reach the VAE.

    Returns:
        float32 [H, W] in the range of `normalize`.
    """
    if mode == "minmax":
        return depth
    # 255 takes the map to the scale of predicted_depth, so that white is 1 after bfl_raw.
    return normalize(depth * np.float32(255.0), mode)


def _luminance(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey of a colour picture, uint8 [H, W]; equal channels come through exactly.

    Source: ITU-R BT.601 luma in 16-bit fractions that sum to 65536, as PIL's mode "L" uses it.
    """
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)
    grey: NDArray[np.uint8] = ((rgb.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)
    return grey
