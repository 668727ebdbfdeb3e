"""Which precisions of stored weights can be used, and which files were rounded before.

A plain fp8 number is a number: it casts exactly to what the engine computes in, and all that was
lost was lost when the file was made. Numbers that are to be multiplied by a scale of their own, or
that are codes, are refused: read as they stand they would be other weights.

Knows nothing of torch or of any model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from depthflux.model.headers import FLOATING_DTYPES, TensorHeader, listed

#: fp8 in the two forms of the Open Compute Project, with infinities or NaN as torch reads them.
FP8_DTYPES = frozenset({"F8_E4M3", "F8_E5M2"})
#: Names of tensors that belong to other numbers: scales and tables of quantised files.
_QUANTISED = re.compile(
    r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale(_\w+)?|input_scale|comfy_quant|SCB|"
    r"absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+|qweight|wscales)$"
)


def precision_problem(tensors: Mapping[str, TensorHeader]) -> str:
    """Why tensors cannot be used as the numbers they stand for; empty where they can.

    Args:
        tensors: of one component, by their keys in its files.
    """
    scales = sorted(key for key in tensors if _QUANTISED.search(key))
    if scales:
        return f"holds quantised weights with scales of their own ({listed(scales, 3)})"
    odd = sorted({t.dtype for t in tensors.values()} - FLOATING_DTYPES - FP8_DTYPES)
    if odd:
        allowed = ", ".join(sorted(FLOATING_DTYPES | FP8_DTYPES))
        return f"holds tensors of {', '.join(odd)}; only {allowed} can be used"
    return ""


def rounded(tensors: Mapping[str, TensorHeader]) -> str:
    """Which fp8 forms tensors are stored in, such as `F8_E4M3`; empty where in none."""
    return ", ".join(sorted({t.dtype for t in tensors.values()} & FP8_DTYPES))
