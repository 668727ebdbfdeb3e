"""Numbers that sum up measurements. Knows nothing of models."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

import torch

Spread = dict[str, float]
Tensors = Mapping[str, torch.Tensor]


def rounded(value: float) -> float:
    """Four digits: more would differ between machines and tell nothing."""
    return float(f"{value:.4g}")


def spread(values: Iterable[float]) -> Spread:
    """Median, minimum and maximum."""
    values = list(values)
    return {
        "median": rounded(statistics.median(values)),
        "min": rounded(min(values)),
        "max": rounded(max(values)),
    }


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm of what was wanted, in float64."""
    wanted = wanted.double()
    return float((got.double() - wanted).norm() / wanted.norm())


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Cosine of the angle between two tensors taken as vectors."""
    return float(torch.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


def share_different(one: Tensors, other: Tensors) -> float:
    """Share of the numbers in tensors of equal names that are not the same."""
    different = sum(int((one[name] != other[name]).sum()) for name in one)
    return rounded(different / sum(tensor.numel() for tensor in one.values()))
