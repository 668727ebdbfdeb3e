"""A comparison as tables of words, for a terminal of 100 columns.

Knows nothing of terminals, nor of how anything was measured. Labels, errors and notes come from
outside; they are made printable here, and whoever prints them must not read markup into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from depthflux.bench.document import Bounded, Compared, Document, Quantiles, Side
from depthflux.bench.report.words import (
    NOTHING,
    as_line,
    caveat_lines,
    difference,
    dollars,
    figure,
    how_asked,
    labels,
    name_of,
    verdict_words,
    why_missing,
    with_interval,
    with_unit,
)
from depthflux.bench.wording import count

#: A side's name as a heading; two of them and the figures' names fit into 100 columns.
_LABEL_CHARACTERS = 36
#: Beside more columns; `depthflux reference` is whole.
_SHORT_LABEL_CHARACTERS = 20
#: More failures than these are counted; the document has them all.
_MOST_FAILURES = 20
_ERROR_CHARACTERS = 200


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: one line.
        headings: of the columns.
        rows: as many texts each as there are headings, each one line.
        lines: what has to be said below it, such as why a figure is missing.
    """

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    lines: list[str]


class Footnotes:
    """Reasons below a table, each said once and numbered in the order of its first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def missing(self, reason: str) -> str:
        """What stands in the cell: a dash, and the number of the reason."""
        number = self._numbers.setdefault(reason, len(self._numbers) + 1)
        return f"{NOTHING} ({number})"

    def lines(self) -> list[str]:
        """The reasons with their numbers."""
        return [f"({number}) {reason}" for reason, number in self._numbers.items()]


def tables(document: Document) -> list[Table]:
    """The comparison as tables; those without rows are left out."""
    made = [
        _sides(document),
        _measures(document, "Speed", document.speed),
        quality_table(document),
        differences_table(document),
        failures_table(document),
        Table("Notes", ("",), [(as_line(note),) for note in document.notes], []),
    ]
    return [table for table in made if table.rows]


def side_rows(document: Document, notes: Footnotes) -> Iterator[tuple[str, str, str]]:
    """What is known of both sides, a row a figure: its name, the first side's, the second's."""
    first, second = document.sides
    for name, cell in _cells(notes):
        cells = cell(first), cell(second)
        if any(cells):
            yield name, cells[0] or NOTHING, cells[1] or NOTHING


def _sides(document: Document) -> Table:
    notes = Footnotes()
    rows: list[tuple[str, ...]] = list(side_rows(document, notes))
    date, suite = as_line(document.date), as_line(document.plan.suite)
    lines = [*notes.lines(), *lines_on_tasks(document)]
    lines.append(
        "s: seconds; in brackets the interval of 95 %; p50: the median; p95: 95 of 100 tasks took "
        "no longer."
    )
    headings = ("", *labels(document.sides, _LABEL_CHARACTERS))
    return Table(f"Suite {suite}, {date}", headings, rows, lines)


def _cells(notes: Footnotes) -> Iterator[tuple[str, Callable[[Side], str]]]:
    yield "model", lambda side: as_line(side.model, _LABEL_CHARACTERS)
    yield "device", lambda side: as_line(side.device, _LABEL_CHARACTERS)
    yield "recorded before, at", lambda side: as_line(side.recorded_at, _LABEL_CHARACTERS)
    yield "asked", how_asked
    yield "tasks completed", lambda side: f"{side.counts.completed} of {side.counts.tasks}"
    yield "failed, lost, not run", _trouble
    for phase in ("total", "submit", "queue", "inference", "download"):
        for part in ("p50", "p95"):
            if part == "p50" or phase in ("total", "inference"):
                yield f"{phase}, {part}, s", _time_cell(notes, phase, part)
    yield "upload, p50, s", lambda side: _upload(side, notes)
    yield "pictures a minute", lambda side: _rate(side, notes)
    yield "USD a picture", lambda side: _money(side, notes)
    yield "USD in all", lambda side: dollars(side.cost.usd_total)
    yield "mean power, W", lambda side: _optional(side.cost.mean_watts)
    yield "energy a picture, J", lambda side: _optional(side.cost.joules_per_picture)
    yield "pictures of exact size", _exact
    yield "called not safe", lambda side: _flagged(side, notes)
    yield "formats", _formats


def lines_on_tasks(document: Document) -> list[str]:
    """What has to be said of both sides' times, where they are not of the same tasks."""
    first, second = (
        {pair.task for case in document.cases for pair in case.pictures if side.name in pair.files}
        for side in document.sides
    )
    are_all_timed = all(side.counts.timed == side.counts.completed for side in document.sides)
    if first == second and are_all_timed:
        return []
    return [
        "The times and pictures a minute of the two sides are not of the same tasks, so they "
        "compare less well than the ratios of speed, which are of cases that both have."
    ]


def why_no_time(side: Side, phase: str) -> str:
    """Why a side has no times of a phase, in words."""
    if not side.counts.completed:
        return "no task was completed."
    if not side.counts.timed:
        return "no task was seen from its beginning, as where a later run polls on."
    if side.sync_mode and phase in ("submit", "queue"):
        return "awaited in the submission itself, so there is only the total."
    if phase == "queue":
        return "without a reported inference, waiting cannot be told from it."
    if phase == "inference":
        return "the side did not report it."
    return "not measured."


def _time_cell(notes: Footnotes, phase: str, part: str) -> Callable[[Side], str]:
    def cell(side: Side) -> str:
        measured: Quantiles | None = getattr(side.seconds, phase)
        if measured is None:
            why = why_no_time(side, phase)
            return notes.missing(f"{phase}: {why}" if side.counts.completed else why)
        return _quantile(measured, part, notes)

    return cell


def _quantile(measured: Quantiles, part: str, notes: Footnotes) -> str:
    bounded: Bounded = getattr(measured, part)
    text = with_interval(bounded)
    if bounded.low is None or bounded.high is None:
        reason = f"too few for the bounds that are missing: {count(measured.count, 'value')}."
        text += notes.missing(reason).removeprefix(NOTHING)
    return text


def _upload(side: Side, notes: Footnotes) -> str:
    return "" if side.upload_seconds is None else _quantile(side.upload_seconds, "p50", notes)


def _optional(value: float | None) -> str:
    return "" if value is None else figure(value)


def _trouble(side: Side) -> str:
    counts = side.counts
    return f"{counts.failed}, {counts.lost}, {counts.not_run}"


def _rate(side: Side, notes: Footnotes) -> str:
    if side.pictures_per_minute is None:
        why = why_no_time(side, "total")
        return notes.missing(f"pictures a minute: {why}" if side.counts.completed else why)
    return figure(side.pictures_per_minute)


def _money(side: Side, notes: Footnotes) -> str:
    if side.cost.usd_per_picture is None:
        return notes.missing(f"USD a picture: {as_line(side.cost.how)}")
    return dollars(side.cost.usd_per_picture)


def _exact(side: Side) -> str:
    return f"{side.counts.exact_size} of {side.counts.pictures}"


def _flagged(side: Side, notes: Footnotes) -> str:
    if side.counts.flagged is None:
        return notes.missing("called not safe: the side does not say.")
    return f"{side.counts.flagged} of {side.counts.told_safety}"


def _formats(side: Side) -> str:
    return as_line(", ".join(f"{number} {kind}" for kind, number in side.formats.items()))


def quality_table(document: Document) -> Table:
    """The measures of which one side may be better; without rows where there are none."""
    return _measures(document, "Quality", document.quality)


def _measures(document: Document, title: str, measures: list[Compared]) -> Table:
    notes = Footnotes()
    rows: list[tuple[str, ...]] = []
    for compared in measures:
        missing = compared.difference is None and notes.missing(_why_missing(compared))
        rows.append(
            (
                with_unit(compared),
                *(_written(value) for value in (compared.first, compared.second)),
                missing or difference(compared),
                str(compared.cases),
                verdict_words(compared),
            )
        )
    first, second = labels(document.sides, _SHORT_LABEL_CHARACTERS)
    lines = notes.lines()
    if any(compared.is_ratio for compared in measures):
        lines.append(f"×: how many times as long {second} takes.")
    if any(not compared.is_ratio for compared in measures):
        lines.append(f"difference: {second} less {first}, paired by case.")
    lines.append(f"The verdict is on {second}. Within the interval nothing is called better.")
    lines += caveat_lines(measures)
    headings = ("measure", first, second, "difference [95 %]", "cases", "verdict")
    return Table(title, headings, rows, lines)


def differences_table(document: Document) -> Table:
    """How far the pictures lie apart, and what that says."""
    notes = Footnotes()
    rows: list[tuple[str, ...]] = [
        (
            with_unit(compared),
            notes.missing(_why_missing(compared))
            if compared.difference is None
            else with_interval(compared.difference),
            str(compared.cases),
        )
        for compared in document.difference
    ]
    meaning = meaning_of_differences(document)
    headings = ("measure", "mean [95 %]", "cases")
    return Table(
        "Difference" if document.same_noise else "Difference, which is no quality",
        headings,
        rows,
        [*notes.lines(), *caveat_lines(document.difference), meaning],
    )


def meaning_of_differences(document: Document) -> str:
    """What the distance of two pictures says, and what it does not."""
    if document.same_noise:
        return (
            "Both sides start from the same noise, so pictures of the same seed should be alike: "
            "what differs is what the profiles change."
        )
    return (
        "A seed may mean other noise on each side, and then its pictures are different pictures: "
        "these figures say how far apart they lie, and nothing of which is better."
    )


def failures_table(document: Document, most: int = _MOST_FAILURES) -> Table:
    """The first tasks that were not completed, and how many more there are."""
    rows: list[tuple[str, ...]] = list(_failure_rows(document))
    left_out = len(rows) - most
    lines = [f"And {left_out} more, in report.json."] if left_out > 0 else []
    headings = ("side", "task", "status", "code", "error")
    return Table("Tasks not completed", headings, rows[:most], lines)


def _failure_rows(document: Document) -> list[tuple[str, str, str, str, str]]:
    """Side, task, status, code and error of every task that was not completed."""
    names = labels(document.sides, _SHORT_LABEL_CHARACTERS)
    return [
        (
            name,
            as_line(failure.task),
            failure.status,
            NOTHING if failure.code is None else str(failure.code),
            as_line(failure.error, _ERROR_CHARACTERS),
        )
        for name, side in zip(names, document.sides, strict=True)
        for failure in side.failures
    ]


def _why_missing(compared: Compared) -> str:
    return f"{name_of(compared)}: {why_missing(compared)}"


def _written(value: float | None) -> str:
    return NOTHING if value is None else figure(value)
