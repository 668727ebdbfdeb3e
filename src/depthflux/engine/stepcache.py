"""Steps that are not computed: a fixed mask, and the velocity extrapolated where it says so.

Along a run the velocity changes slowly once the layout stands, and the depth map fixes the layout
early. So the first steps and the last are computed, and of those between as many as are wanted,
evenly spread; each of the others takes the straight line through the two velocities computed last,
over the noise level. The mask depends on the number of steps alone: nothing is read back from the
device, no graph changes, and the same request gives the same picture. An approximation, opt-in.

Sources: the idea of a fixed mask is that of arXiv:2407.01425 (FORA), extrapolating instead of
repeating that of arXiv:2503.06923 (TaylorSeer), here on the velocity itself and to first order.

Knows nothing of tensors or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Share of the steps that are computed at the beginning and at the end, where there is room:
#: 8 and 2 of 28. Measured on the miniature, docs/experiments.md.
FIRST_SHARE, LAST_SHARE = 0.28, 0.08
#: Two velocities make the first line; the last step leaves nothing to mend its error.
LEAST_FIRST, LEAST_LAST = 2, 1


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        change: of the noise level, negative.
        weight: None where the velocity is computed; else how far it lies on the line from the
            velocity before the last computed one, at 0, to the last computed one, at 1.
    """

    change: float
    weight: float | None


def plan_steps(
    levels: Sequence[float], changes: Sequence[float], skipped_share: float
) -> list[Step]:
    """The steps of a run.

    Args:
        levels: noise levels before each step and after the last, falling to 0.
        changes: of the noise level over each step, negative, as the scheduler rounds them.
        skipped_share: 0 to 0.6 of the steps are extrapolated; of few steps fewer are.
    """
    steps: list[Step] = []
    computed: list[float] = []
    mask = computed_steps(len(changes), skipped_share)
    for level, change, is_computed in zip(levels[:-1], changes, mask, strict=True):
        weight = None
        if is_computed:
            computed.append(level)
        else:
            older, newest = computed[-2:]
            weight = (level - older) / (newest - older)
        steps.append(Step(change, weight))
    return steps


def computed_steps(steps: int, skipped_share: float) -> list[bool]:
    """Which steps are computed.

    Args:
        steps: of the run, 1 or more.
        skipped_share: 0 to 0.6 of them are not, rounded down.
    """
    # Rounded first: 50 * 0.58 is 28.999999999999996.
    skipped = int(round(steps * skipped_share, 6))
    first = max(LEAST_FIRST, round(steps * FIRST_SHARE))
    last = max(LEAST_LAST, round(steps * LAST_SHARE))
    # Many to skip: the beginning gives up some of its own, then the end.
    first = max(LEAST_FIRST, min(first, steps - last - skipped))
    last = max(LEAST_LAST, min(last, steps - first - skipped))
    between = max(0, steps - first - last)
    skipped = min(skipped, between)
    mask = [True] * steps
    for i in range(skipped):
        # The middles of equal parts: evenly spread, and the first step between is skipped last.
        mask[first + (2 * i + 1) * between // (2 * skipped)] = False
    return mask
