"""Whether a run produced numbers, looked at once after it.

Knows nothing of what was computed.
"""

from __future__ import annotations

import torch

from depthflux.errors import NonFiniteError


def check_finite(flags: torch.Tensor) -> None:
    """One look at the whole run's flags; looking at each step would wait for the device.

    Args:
        flags: bool [steps], whether all numbers were finite after each step.

    Raises:
        NonFiniteError: one is false; the message names the step.
    """
    finite = flags.tolist()
    if not all(finite):
        step = finite.index(False) + 1
        raise NonFiniteError(
            f"denoising step {step} of {len(finite)} produced NaN or infinity; "
            "check the weights (depthflux doctor) or use a float32 profile.",
            step=step,
        )
