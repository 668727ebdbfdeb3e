"""Depth maps: estimated from a picture or supplied, then normalised.

    estimator.py       what an estimator is, and what it declares about itself
    depth_anything.py  Depth Anything through transformers (imports torch; import it late)
    normalization.py   minmax, percentile, bfl_raw
    supplied.py        a depth map that the caller gives

Everywhere in here depth is float32 [H, W], larger = nearer. Knows nothing of the size asked for.
"""

from depthflux.depth.estimator import DepthEstimator, EstimatorCard, Gives
from depthflux.depth.normalization import far_value, is_quantized, normalize
from depthflux.depth.supplied import SuppliedDepth, normalize_supplied, read_supplied
from depthflux.quiet import quiet_imports

__all__ = [
    "DepthEstimator",
    "EstimatorCard",
    "Gives",
    "SuppliedDepth",
    "far_value",
    "is_quantized",
    "normalize",
    "normalize_supplied",
    "read_supplied",
]

quiet_imports()
