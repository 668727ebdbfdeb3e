"""Outcomes → the figures of one side: counts, times, throughput, money.

Knows nothing of how a side is asked, and nothing of the other side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from depthflux.bench import document
from depthflux.bench.gpu_samples import merged
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.money import POWER_UNKNOWN, hosted_cost, local_cost
from depthflux.bench.hosted.outcomes import Outcome, Picture, Times
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.run_files import SideFacts
from depthflux.bench.quality.statistics import quantiles
from depthflux.contract.request import parse_size


@dataclass(frozen=True)
class Recorded:
    """All that a run's folder says of one side.

    Attributes:
        facts: of the side.
        tasks: that were to be asked, in the plan's order.
        outcomes: by the task's key, those that there are.
        polled_on: keys of tasks that were not seen from their beginning, such as those that a later
            run saw to their end, so that times say nothing.
    """

    facts: SideFacts
    tasks: tuple[Task, ...]
    outcomes: dict[str, Outcome]
    polled_on: frozenset[str]

    def completed(self) -> list[tuple[Task, Outcome]]:
        """Tasks with all their pictures."""
        return [
            (task, outcome)
            for task in self.tasks
            if (outcome := self.outcomes.get(task.key)) and outcome.status == "completed"
        ]

    def timed(self) -> list[tuple[Task, Outcome, Times]]:
        """Completed tasks whose times were seen."""
        return [
            (task, outcome, outcome.times)
            for task, outcome in self.completed()
            if outcome.times is not None
        ]


@dataclass(frozen=True)
class Prices:
    """What money is computed with; None of each where it is not known.

    Attributes:
        picture_usd: price of a hosted picture.
        electricity_usd: price of a kWh.
        watts: what a local side draws, where that is not measured.
    """

    picture_usd: float | None
    electricity_usd: float | None
    watts: float | None


def read_side(folder: RunFolder, name: str, tasks: Sequence[Task]) -> Recorded | None:
    """What a folder says of a side; None where it was not begun.

    Raises:
        InvalidParameterError: a file of it is not what a run writes.
    """
    facts = folder.side(name)
    if facts is None:
        return None
    outcomes: dict[str, Outcome] = {}
    polled_on: set[str] = set()
    for task in tasks:
        taken = folder.task(name, task.key)
        if taken.state != "ended":
            continue
        outcomes[task.key] = taken.outcome()
        submission = taken.submission()
        if submission is not None and submission.polled_on:
            polled_on.add(task.key)
    return Recorded(facts, tuple(tasks), outcomes, frozenset(polled_on))


def busy_spans(recorded: Recorded) -> list[tuple[float, float]]:
    """When tasks were under way, each moment once, without a resumed run's pauses.

    Returns:
        Begins and ends in seconds since 1970.
    """
    return merged(
        (outcome.began_at, outcome.ended_at)
        for key, outcome in recorded.outcomes.items()
        if key not in recorded.polled_on and outcome.ended_at > outcome.began_at
    )


def describe_side(recorded: Recorded, prices: Prices, *, is_recorded: bool) -> document.Side:
    """A side's part of the document.

    Args:
        recorded: what was written of it.
        prices: for its cost.
        is_recorded: whether its answers are an earlier run's.
    """
    facts = recorded.facts
    spans = busy_spans(recorded)
    wall = sum(end - start for start, end in spans)
    timed = sum(len(outcome.pictures) for _, outcome, _ in recorded.timed())
    pictures = [picture for _, outcome in recorded.completed() for picture in outcome.pictures]
    return document.Side(
        name=facts.name,
        label=facts.label,
        address=facts.address,
        model=facts.model,
        profile=facts.profile,
        settings=facts.settings,
        device=facts.device,
        gpu=facts.gpu,
        concurrency=facts.concurrency,
        poll_interval_seconds=facts.poll_interval_seconds,
        sync_mode=facts.sync_mode,
        recorded_at=facts.recorded_at if is_recorded else "",
        counts=_counts(recorded),
        failures=_failures(recorded),
        seconds=_seconds(recorded),
        wall_seconds=wall or None,
        pictures_per_minute=60 * timed / wall if wall and timed else None,
        upload_seconds=quantiles(list(facts.upload_seconds.values())),
        cost=_cost(recorded, prices, wall, len(pictures)),
        formats=dict(sorted(Counter(picture.media_type for picture in pictures).items())),
    )


def _counts(recorded: Recorded) -> document.Counts:
    statuses = Counter(outcome.status for outcome in recorded.outcomes.values())
    pictures = [
        (task, picture) for task, outcome in recorded.completed() for picture in outcome.pictures
    ]
    flags = [picture.flagged for _, picture in pictures if picture.flagged is not None]
    return document.Counts(
        tasks=len(recorded.tasks),
        completed=statuses["completed"],
        failed=statuses["failed"],
        lost=statuses["lost"],
        timed=len(recorded.timed()),
        not_run=len(recorded.tasks) - len(recorded.outcomes),
        pictures=len(pictures),
        exact_size=sum(is_exact(task, picture) for task, picture in pictures),
        told_safety=len(flags),
        flagged=sum(flags) if flags else None,
    )


def is_exact(task: Task, picture: Picture) -> bool:
    """Whether a picture has the size that was asked for."""
    return (picture.width, picture.height) == parse_size(str(task.fields["size"]))


def _failures(recorded: Recorded) -> list[document.Failure]:
    return [
        document.Failure(
            task=task.key, status=outcome.status, code=outcome.code, error=outcome.error
        )
        for task in recorded.tasks
        if (outcome := recorded.outcomes.get(task.key)) is not None
        and outcome.status != "completed"
    ]


def _seconds(recorded: Recorded) -> document.TimeQuantiles:
    times = [times for _, _, times in recorded.timed()]

    def of(read: Callable[[Times], float | None]) -> document.Quantiles | None:
        return quantiles([value for one in times if (value := read(one)) is not None])

    return document.TimeQuantiles(
        submit=of(lambda one: one.submit_seconds),
        queue=of(lambda one: one.queue_seconds),
        inference=of(lambda one: one.inference_seconds),
        download=of(lambda one: one.download_seconds),
        total=of(lambda one: one.total_seconds),
    )


def _cost(recorded: Recorded, prices: Prices, wall: float, received_pictures: int) -> document.Cost:
    facts = recorded.facts
    if not facts.profile:
        charged = sum(
            task.pictures
            for task in recorded.tasks
            if (outcome := recorded.outcomes.get(task.key)) and outcome.is_charged
        )
        return hosted_cost(
            charged_pictures=charged,
            received_pictures=received_pictures,
            price_usd=prices.picture_usd,
        )
    joules, seconds, source = _power(recorded, prices, wall, received_pictures)
    return local_cost(
        joules=joules,
        busy_seconds=seconds,
        pictures=received_pictures,
        usd_per_kwh=prices.electricity_usd,
        source=source,
    )


def _power(
    recorded: Recorded, prices: Prices, wall: float, pictures: int
) -> tuple[float | None, float, str]:
    """Joules for all pictures, the seconds they were drawn in, and where they come from."""
    energy = recorded.facts.energy
    if energy is not None and energy.pictures:
        # Of a run that was killed and gone on with, a part may not have been measured.
        share = pictures / energy.pictures
        source = (
            "Power as the GPU's own sensor told it (nvidia-smi) while tasks were under way, idle "
            "power included; the rest of the computer is not in it."
        )
        if share != 1:
            source += f" It was measured for {energy.pictures} of {pictures} pictures."
        return energy.joules * share, energy.seconds * share, source
    if prices.watts is not None:
        source = f"Power as given, {prices.watts:g} watts while tasks were under way."
        return prices.watts * wall, wall, source
    missing = recorded.facts.energy_missing
    return (
        None,
        wall,
        f"Power was not measured: {missing}; --watts gives it." if missing else (POWER_UNKNOWN),
    )
