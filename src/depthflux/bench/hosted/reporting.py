"""All that a run found, as its document, with the notes that its reader needs.

Knows nothing of how anything was asked or measured, nor of how a document is shown.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from depthflux.bench.host import commit_here, describe_host
from depthflux.bench.hosted import document
from depthflux.bench.hosted.comparing import Comparison
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.measures import Prices, Recorded, describe_side
from depthflux.bench.hosted.plan import ContestPlan
from depthflux.bench.hosted.replaying import Replayed
from depthflux.bench.quality.statistics import MIN_CASES
from depthflux.bench.quality.structure import ESTIMATOR_BIAS, LAYOUT_COUNTS

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
    price = price_of(plan, replayed)
    prices = Prices(price, plan.electricity_usd, plan.watts)
    first, second = sides
    return document.Document(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_here(),
        commit=commit_here(),
        versions=_versions(),
        host=describe_host(),
        estimator=_estimator(judges),
        plan=_plan(plan, price),
        sides=[
            describe_side(first, prices, is_recorded=replayed is not None),
            describe_side(second, prices, is_recorded=False),
        ],
        speed=comparison.speed,
        quality=comparison.quality,
        difference=comparison.difference,
        same_noise=comparison.same_noise,
        cases=comparison.cases,
        notes=[*_notes(plan, sides, comparison, judges), *_notes_of_replay(plan, replayed)],
    )


def price_of(plan: ContestPlan, replayed: Replayed | None) -> float | None:
    """The price of a hosted picture: as given, else as the replayed run was given it."""
    if plan.price_usd is None and replayed is not None:
        return replayed.plan.price_usd
    return plan.price_usd


def command_here() -> str:
    """The command line of this process; it holds no secret, since no option takes one."""
    return shlex.join(["depthflux", *sys.argv[1:]])


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


def _plan(plan: ContestPlan, price: float | None) -> document.Plan:
    return document.Plan(
        suite=plan.suite.name,
        suite_sha256=plan.suite.sha256,
        repeat=plan.repeat,
        concurrency=plan.concurrency,
        sync_mode=plan.sync_mode,
        poll_interval_seconds=plan.poll_interval_s,
        price_usd_per_picture=price,
        electricity_usd_per_kwh=plan.electricity_usd,
        max_cost_usd=plan.max_cost_usd,
    )


def _notes(
    plan: ContestPlan,
    sides: tuple[Recorded, Recorded],
    comparison: Comparison,
    judges: Judges,
) -> Iterator[str]:
    """What a reader has to know, each only where it applies."""
    yield from comparison.notes
    if not comparison.same_noise:
        yield (
            "A seed means other noise on each side, so the difference between two pictures says "
            "how far they lie apart and nothing of quality."
        )
    if not plan.sync_mode:
        yield (
            f"A task's state was asked for every {plan.poll_interval_s:g} s, so queue and total "
            "hold up to that much in which it was done already, on both sides alike."
        )
    if judges.structure is not None:
        if plan.estimator is None:
            yield ESTIMATOR_BIAS
        yield LAYOUT_COUNTS
    if 0 < len(comparison.cases) < MIN_CASES:
        yield (
            f"{len(comparison.cases)} cases cannot show a difference: no verdict is given below "
            f"{MIN_CASES}."
        )
    formats = [{picture.media_type for picture in _pictures(side)} for side in sides]
    if all(formats) and formats[0] != formats[1]:
        names = " and ".join(", ".join(sorted(of)) for of in formats)
        yield (
            f"Pictures came as {names}: JPEG loses a little of a picture, which is part of every "
            "figure of it."
        )
    for side in sides:
        yield from _notes_of_side(side)


def _notes_of_side(side: Recorded) -> Iterator[str]:
    label = side.facts.label
    if not side.facts.profile and all(picture.flagged is None for picture in _pictures(side)):
        yield f"{label} does not say of its pictures whether they are safe for work."
    if side.polled_on:
        yield (
            f"{len(side.polled_on)} tasks of {label} were seen to their end by a later run: their "
            "pictures count, their times do not."
        )
    if retries := sum(outcome.retries for outcome in side.outcomes.values()):
        yield (
            f"{retries} requests to {label} were sent anew, after 429 or an error; the waiting "
            "before a submission that was taken is in no task's time."
        )
    if side.facts.profile and side.facts.load_seconds is not None:
        yield (
            f"{label} was loaded and warm before its first task (after "
            f"{side.facts.load_seconds:.0f} s), as a hosted service is; prompts and depths that "
            "it met before may be remembered."
        )


def _notes_of_replay(plan: ContestPlan, replayed: Replayed | None) -> Iterator[str]:
    if replayed is None:
        return
    then = replayed.plan
    if replayed.missing:
        yield (f"The recording lacks {replayed.missing} tasks of this run, which count as not run.")
    if (then.concurrency, then.poll_interval_s, then.sync_mode) != (
        plan.concurrency,
        plan.poll_interval_s,
        plan.sync_mode,
    ):
        how = "in sync mode" if then.sync_mode else f"with polls every {then.poll_interval_s:g} s"
        yield (
            f"The recording was made with {then.concurrency} tasks at a time, {how}, other than "
            "this run: times of the two sides compare no more than that allows."
        )


def _pictures(side: Recorded) -> list[Any]:
    return [picture for _, outcome in side.completed() for picture in outcome.pictures]
