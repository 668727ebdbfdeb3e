"""The seconds of one task, from the moments at which it was seen.

Knows nothing of how it is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthflux.bench.hosted.outcomes import Times

#: No picture is painted in less; what claims it counts in another unit, or not at all.
LEAST_INFERENCE_S = 0.001


@dataclass(frozen=True)
class Begun:
    """When a task was sent.

    Attributes:
        at: seconds since 1970, of the first attempt.
        on_clock: when the attempt was sent that was taken; None where that was not seen.
        submit_s: from then until its answer was here; None in sync mode.
    """

    at: float
    on_clock: float | None = None
    submit_s: float | None = None


def is_possible(begun: Begun, seen: float, inference: float) -> bool:
    """Whether a side can have painted for so long: no longer than from sending until seen.

    Args:
        begun: when the task was sent; where that was not seen, only the least is known.
        seen: when it was seen completed, by the same clock.
        inference: seconds that the side reports.
    """
    if inference < LEAST_INFERENCE_S:
        return False
    return begun.on_clock is None or inference <= seen - begun.on_clock


def times_of(begun: Begun, seen: float, done: float, inference: float | None) -> Times | None:
    """A completed task's seconds; None where it was not seen from its begin.

    Args:
        begun: when it was sent.
        seen: when it was seen completed, by the same clock.
        done: when its last picture was here.
        inference: seconds that the side reports; None where it does not, or they are not possible.
    """
    if begun.on_clock is None:
        return None
    queue = None
    if begun.submit_s is not None and inference is not None:
        queue = max(0.0, seen - begun.on_clock - begun.submit_s - inference)
    return Times(
        submit_seconds=begun.submit_s,
        queue_seconds=queue,
        inference_seconds=inference,
        download_seconds=done - seen,
        total_seconds=done - begun.on_clock,
    )
