"""All that a run found, as its document, with the notes that its reader needs.

Knows nothing of how anything was asked or measured, nor of how a document is shown.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from depthflux.bench import document
from depthflux.bench.host import commit_here, describe_host
from depthflux.bench.hosted.comparing import Comparison
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.measures import Prices, Recorded, describe_side
from depthflux.bench.hosted.plan import ContestPlan
from depthflux.bench.hosted.plan_file import command_here
from depthflux.bench.hosted.replaying import Replayed
from depthflux.bench.quality.statistics import MIN_CASES
from depthflux.bench.quality.structure import LAYOUT_COUNTS
from depthflux.bench.wording import count, which

#: Libraries of the measures, beside those that compute pictures.
_LIBRARIES = ("scipy", "torchmetrics")


def describe_contest(
    plan: ContestPlan,
    sides: tuple[Recorded, Recorded],
    comparison: Comparison,
    judges: Judges,
    replayed: Replayed | None,
) -> document.Document:
    """The document of a run.

    Args:
        plan: what was asked for.
        sides: what both answered.
        comparison: what was found.
        judges: who judged.
        replayed: where the first side's answers are an earlier run's; else None.
    """
    prices = Prices(plan.price_usd, plan.electricity_usd, plan.watts)
    first, second = sides
    return document.Document(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_here(),
        commit=commit_here(),
        versions=_versions(),
        host=describe_host(),
        estimator=_estimator(judges),
        plan=_plan(plan),
        sides=[
            describe_side(first, prices, is_recorded=replayed is not None),
            describe_side(second, prices, is_recorded=False),
        ],
        speed=comparison.speed,
        quality=comparison.quality,
        difference=comparison.difference,
        same_noise=comparison.same_noise,
        cases=comparison.cases,
        notes=[*_notes(sides, comparison, judges), *_notes_of_replay(replayed)],
    )


def _versions() -> dict[str, Any]:
    # It imports all that computes pictures, which a run that is refused early must not pay.
    from depthflux.engine.provenance import describe_versions

    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {**describe_versions(), **libraries}


def _estimator(judges: Judges) -> dict[str, str]:
    if judges.structure is None:
        return {}
    card = judges.structure.card
    return {"name": card.name, "licence": card.licence, "source": card.source}


def _plan(plan: ContestPlan) -> document.Plan:
    return document.Plan(
        suite=plan.suite.name,
        suite_sha256=plan.suite.sha256,
        repeat=plan.repeat,
        concurrency=plan.concurrency,
        sync_mode=plan.sync_mode,
        poll_interval_seconds=plan.poll_interval_s,
        price_usd_per_picture=plan.price_usd,
        electricity_usd_per_kwh=plan.electricity_usd,
        max_cost_usd=plan.max_cost_usd,
    )


def _notes(
    sides: tuple[Recorded, Recorded],
    comparison: Comparison,
    judges: Judges,
) -> Iterator[str]:
    """What a reader has to know, each only where it applies."""
    yield from comparison.notes
    if not comparison.same_noise:
        yield (
            "A seed may mean other noise on each side, so the difference between two pictures says "
            "how far they lie apart and nothing of quality."
        )
    if not all(side.facts.sync_mode for side in sides):
        yield (
            "Where a task's state was asked for at an interval, its queue and total may be up to "
            "that much too long."
        )
    if judges.structure is not None:
        yield LAYOUT_COUNTS
    if 0 < len(comparison.cases) < MIN_CASES:
        yield (
            f"No verdict is given below {MIN_CASES} cases, since so few cannot show a difference; "
            f"here {which(len(comparison.cases), 'is', 'are')} {len(comparison.cases)}."
        )
    formats = [{picture.media_type for picture in _pictures(side)} for side in sides]
    if all(formats) and formats[0] != formats[1]:
        names = " and ".join(", ".join(sorted(of)) for of in formats)
        yield (
            f"Pictures came as {names}: JPEG loses a little of a picture, which is part of every "
            "figure of it."
        )
    for side in sides:
        yield from notes_of_side(side)


def notes_of_side(side: Recorded) -> Iterator[str]:
    """What a reader has to know of one side, each only where it applies."""
    label = side.facts.label
    if side.facts.unread:
        yield (
            f"Answers of {label} held something else than the API has as "
            f"{', '.join(side.facts.unread)}, which counts as not told."
        )
    if wrong := side.facts.impossible_inferences:
        yield (
            f"{label} reported an inference of {count(wrong, 'task')} that cannot be, under a "
            "millisecond or longer than the whole task; it counts as not told."
        )
    flags = [picture.flagged for picture in _pictures(side)]
    if flags and not side.facts.profile and all(flag is None for flag in flags):
        yield f"{label} does not say of its pictures whether they are safe for work."
    if side.polled_on:
        were, their = which(of := len(side.polled_on), "was", "were"), which(of, "its", "their")
        yield (
            f"{count(of, 'task')} of {label} {were} not seen from {their} beginning, as where a "
            f"later run polls on: {their} pictures count, {their} times do not."
        )
    if retries := sum(outcome.retries for outcome in side.outcomes.values()):
        yield (
            f"{count(retries, 'request')} to {label} {which(retries, 'was', 'were')} sent anew, "
            "after 429 or an error; the waiting before a submission that was taken is in no task's "
            "time, but in the pictures a minute."
        )
    yield from _notes_of_warmth(side)
    if side.facts.profile and (remembers := side.facts.settings.get("remember", "none")) != "none":
        yield (
            f"{label} was set to remember={remembers}, so prompts and control images that it "
            "met before may have cost it no time, as in a second repetition."
        )


def _notes_of_warmth(side: Recorded) -> Iterator[str]:
    if not side.facts.profile or side.facts.load_seconds is None:
        return
    loaded = f"{side.facts.label} was loaded (in {side.facts.load_seconds:.0f} s) and asked for"
    if why := side.facts.not_warmed:
        yield (
            f"{loaded} one picture that counts nowhere before its first task, which was not "
            f"painted ({why}), so times of its first tasks may hold the device's start."
        )
    else:
        yield (
            f"{loaded} one picture that counts nowhere before its first task, since a hosted "
            "service is warm, too."
        )


def _notes_of_replay(replayed: Replayed | None) -> Iterator[str]:
    if replayed is None:
        return
    if replayed.missing:
        missing = count(replayed.missing, "task")
        do = which(replayed.missing, "counts", "count")
        yield f"The recording lacks {missing} of this run, which {do} as not run."


def _pictures(side: Recorded) -> list[Any]:
    return [picture for _, outcome in side.completed() for picture in outcome.pictures]
