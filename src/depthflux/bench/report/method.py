"""How it was measured, what was run with, and the result in sentences: the page's prose.

Knows nothing of HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from depthflux.bench.document import Compared, Document, Side
from depthflux.bench.quality.statistics import (
    INTERVAL_OF_MEANS,
    INTERVAL_OF_QUANTILES,
    MIN_CASES,
)
from depthflux.bench.quality.structure import HOSTED_DEPTH_UNKNOWN
from depthflux.bench.report.words import (
    NOTHING,
    as_line,
    dollars,
    how_asked,
    labels,
    name_of,
    sentence,
)
from depthflux.bench.wording import count

#: What is said of a verdict by a sign beside its words.
SIGNS = {
    "better": "▲",
    "worse": "▼",
    "no difference shown": "=",
    "unknown": "?",
    "not comparable": "?",
}
#: The measure of speed that a summary names; the others are in the table.
_HEADLINE_TIME = "total_time"


def summary(document: Document) -> list[tuple[str, str]]:
    """The result in sentences, each with its sign: quality, the total time, troubles, money."""
    said = [
        (_sign(compared), _as_title(sentence(compared, document.sides)))
        for compared in (*document.quality, *_headline_times(document))
    ]
    return said + [("·", text) for text in (*_troubles(document), *_money(document))]


def method(document: Document) -> list[tuple[str, str]]:
    """Name and explanation of everything that a reader needs to judge the figures."""
    return list(_method(document))


def provenance(document: Document) -> list[tuple[str, str]]:
    """Name and value of what the run can be repeated with."""
    plan, rows = document.plan, []
    rows.append(("command", as_line(document.command)))
    rows.append(("date", as_line(document.date)))
    rows.append(("commit", as_line(document.commit or "outside a repository")))
    rows.append(("suite", f"{as_line(plan.suite)}, sha256 {as_line(plan.suite_sha256)}"))
    rows += [(as_line(name), as_line(_text(value))) for name, value in document.versions.items()]
    rows += [(f"host, {as_line(name)}", as_line(_text(of))) for name, of in document.host.items()]
    rows += [
        (f"estimator, {as_line(name)}", as_line(of)) for name, of in document.estimator.items()
    ]
    for label, side in zip(labels(document.sides), document.sides, strict=True):
        rows += [(f"{label}, GPU, {as_line(name)}", as_line(of)) for name, of in side.gpu.items()]
    return rows


def settings(document: Document) -> list[tuple[str, str, str]]:
    """Every effective setting with both sides' values; of a hosted side none is known."""
    names = sorted({name for side in document.sides for name in side.settings})
    first, second = document.sides
    return [(as_line(name), _setting(first, name), _setting(second, name)) for name in names]


def _sign(compared: Compared) -> str:
    return SIGNS["unknown"] if compared.difference is None else SIGNS[compared.verdict]


def _headline_times(document: Document) -> list[Compared]:
    named = [compared for compared in document.speed if compared.name == _HEADLINE_TIME]
    return named[:1] or document.speed[:1]


def _troubles(document: Document) -> Iterator[str]:
    for label, side in zip(labels(document.sides), document.sides, strict=True):
        counts = side.counts
        text = f"{label}: {counts.completed} of {count(counts.tasks, 'task')} completed"
        for number, what in (
            (counts.failed, "failed"),
            (counts.lost, "lost"),
            (counts.not_run, "not run"),
        ):
            text += f", {number} {what}" if number else ""
        if counts.exact_size < counts.pictures:
            missed = counts.pictures - counts.exact_size
            text += f"; {count(missed, 'picture')} not of the asked size"
        yield f"{text}."


def _money(document: Document) -> Iterator[str]:
    for label, side in zip(labels(document.sides), document.sides, strict=True):
        if side.cost.usd_per_picture is None:
            yield f"What a picture costs with {label} is not known. {as_line(side.cost.how)}"
        else:
            price = f"{dollars(side.cost.usd_per_picture)} USD"
            yield f"A picture costs {price} with {label}. {as_line(side.cost.how)}"


def _method(document: Document) -> Iterator[tuple[str, str]]:
    yield "Alike for both", " ".join(_how_alike(document))
    yield "Times", _how_times(document)
    yield (
        "Intervals",
        f"{INTERVAL_OF_MEANS} {INTERVAL_OF_QUANTILES} A dash is a bound that so few values do "
        "not give. A side is called better or worse only where the interval does not hold the "
        "neutral value, and never below "
        f"{MIN_CASES} cases. Several measures are judged here and each may err one time in "
        "twenty, and more often where a few cases differ far more than the rest, so one verdict "
        "alone is weak.",
    )
    for compared in (*document.quality, *document.difference, *document.speed):
        text = as_line(compared.how)
        yield _as_title(name_of(compared)), text if text.endswith(".") else f"{text}."
    yield from _how_depth(document)
    yield "Cost", " ".join(_how_cost(document))
    yield (
        "What this cannot say",
        "Which picture a person would like better; how other prompts, other control images or "
        "another day would come out. The suite's cases are few and chosen, and a hosted service "
        "may be busier or changed tomorrow."
        + ("" if document.sides[0].profile else f" {HOSTED_DEPTH_UNKNOWN}"),
    )
    yield (
        "Pictures on this page",
        "They are made smaller and compressed anew, as WebP of at most 896 pixels and 110 kB, to "
        "be part of this one file. All figures were taken of the originals, which lie beside this "
        "file and are linked. Pictures that a side calls not safe for work are only linked.",
    )


def _how_alike(document: Document) -> Iterator[str]:
    repeat, cases = document.plan.repeat, len(document.cases)
    yield (
        "Both sides are HTTP servers that speak the hosted API, asked by one and the same client "
        f"for the same {'case' if cases == 1 else f'{cases} cases'}, "
        f"{'once' if repeat == 1 else f'{repeat} times'} each."
    )
    yield (
        "A local profile is served on this machine, so its times hold no way through the internet."
    )
    local = [side.settings.get("remember") for side in document.sides if side.profile]
    if local and set(local) == {"none"}:
        yield (
            "A local server remembers nothing between requests (remember=none), so that each "
            "repetition is all of the work."
        )
    yield (
        "The sides ran one after the other and never at a time, so whatever changed meanwhile, "
        "such as heat, load or the hour, is part of what is compared."
    )


def _how_times(document: Document) -> str:
    said = ["By a clock of this machine."]
    for label, side in zip(labels(document.sides), document.sides, strict=True):
        said.append(f"{label}: {how_asked(side)}.")
    if any(side.sync_mode for side in document.sides):
        said.append(
            "In sync mode the answer was awaited in the submission itself, so there is no time of "
            "submitting or queueing apart from the total."
        )
    if not all(side.sync_mode for side in document.sides):
        said.append(
            "Where a task's state was asked for at an interval, its total may be up to that much "
            "too long."
        )
    said.append(
        "Inference is what the side itself reports. It cannot be checked, but where it is less "
        "than a millisecond or longer than its task took, it counts as not told."
    )
    return " ".join(said)


def _how_depth(document: Document) -> Iterator[tuple[str, str]]:
    if not document.estimator:
        return
    named = ", ".join(f"{as_line(name)}: {as_line(of)}" for name, of in document.estimator.items())
    yield (
        "Depth estimator",
        f"{named}. One estimator judges both sides.",
    )


def _how_cost(document: Document) -> Iterator[str]:
    if not all(side.profile for side in document.sides):
        yield (
            "A hosted picture costs what was charged over the pictures that were received, so what "
            "was paid for nothing is in it."
        )
    for label, side in zip(labels(document.sides), document.sides, strict=True):
        yield f"{label}: {as_line(side.cost.how)}"


def _as_title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _setting(side: Side, name: str) -> str:
    return as_line(_text(side.settings[name])) if name in side.settings else NOTHING


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
