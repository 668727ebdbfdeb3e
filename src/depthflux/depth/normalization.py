"""From relative inverse depth of any range to the values the control LoRA was trained on.

Three ways, one word each in the request's `depth_normalization`:

    minmax      the map's own smallest and largest value become 0 and 1
    percentile  its 2nd and 98th percentile do; what lies beyond is clipped
    bfl_raw     predicted_depth / 127.5 - 1, nothing else, kept as floats up to the VAE

Knows nothing of estimators or pictures; a supplied depth map takes `supplied.py` instead.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from depthflux.contract import DepthNormalization
from depthflux.errors import NonFiniteError

#: What `percentile` maps to 0 and 1. They ignore a sky at infinity or a few stray pixels, which
#: under `minmax` squeeze everything else into a sliver of grey.
#: Source: Ke et al. 2024, "Repurposing Diffusion-Based Image Generators for Monocular Depth
#: Estimation" (Marigold), equation 3, which normalises its training depth by the same two.
PERCENTILES = (2.0, 98.0)

#: A map that varies by less than this part of its largest value is flat: it is a few units in the
#: last place of float32, and stretching it would paint rounding errors from black to white.
FLAT_RELATIVE_RANGE = 1e-6

#: What a flat map becomes: mid-grey, neither near nor far. 0 would say "all infinitely far",
#: 1 "all touching the lens"; a flat map says neither.
FLAT_VALUE = 0.5


def normalize(depth: NDArray[np.float32], mode: DepthNormalization) -> NDArray[np.float32]:
    """Bring relative inverse depth into the range that the control image is made from.

    Args:
        depth: float32 [H, W], relative inverse depth, larger = nearer, unbounded.
        mode: `minmax`, `percentile` or `bfl_raw`.

    Returns:
        float32 [H, W], larger = nearer: in [0, 1] for `minmax` and `percentile` (all 0.5 for a flat
        map), unbounded around [-1, 1] for `bfl_raw`.

    Raises:
        NonFiniteError: the map holds NaN or infinity.

    Source: bfl_raw is the scale and offset of DepthImageEncoder in Black Forest Labs' flux
    repository (image_embedders.py), meant for depth-anything-large. That code resizes the
    prediction once, bicubic, to the picture; here it passes the source's size first, so values
    agree only up to resampling.
    """
    refuse_non_finite(depth)
    match mode:
        case "bfl_raw":
            return depth.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
        case "minmax":
            return _stretch(depth, None)
        case "percentile":
            return _stretch(depth, PERCENTILES)
        case _:
            assert_never(mode)


def far_value(mode: DepthNormalization) -> float:
    """What the farthest depth is after `normalize`: black, for filling what has no depth."""
    return -1.0 if mode == "bfl_raw" else 0.0


def is_quantized(mode: DepthNormalization) -> bool:
    """Whether the control image of a mode has 256 levels, like a saved picture, or stays float."""
    return mode != "bfl_raw"


def refuse_non_finite(depth: NDArray[np.float32]) -> None:
    """Stop before NaN or infinity reaches the model, where they would end as a black picture.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    bad = int(depth.size - np.count_nonzero(np.isfinite(depth)))
    if bad:
        raise NonFiniteError(
            f"the depth map has {bad} of {depth.size} values that are NaN or infinite; only finite "
            "depth can be used; try the estimator in float32, or another control image."
        )


def _stretch(
    depth: NDArray[np.float32], percentiles: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Extremes or two percentiles to 0 and 1, clipped.

    float64 inside, as a range may exceed float32's.
    """
    wide = depth.astype(np.float64)
    low, high = lowest, highest = float(wide.min()), float(wide.max())
    if percentiles is not None:
        low, high = (float(value) for value in np.percentile(wide, percentiles))
    # More than 96 % of one value, such as a small object before an empty sky: the percentiles
    # meet, and only the extremes still tell near from far.
    if _is_flat(low, high):
        low, high = lowest, highest
    if _is_flat(low, high):
        return np.full(depth.shape, FLAT_VALUE, dtype=np.float32)
    return np.clip((wide - low) / (high - low), 0.0, 1.0).astype(np.float32)


def _is_flat(low: float, high: float) -> bool:
    return high - low <= FLAT_RELATIVE_RANGE * max(abs(low), abs(high))
