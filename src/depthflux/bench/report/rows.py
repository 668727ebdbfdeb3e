"""The charts' rows: a strip, and beside it in words what it shows.

Knows nothing of where the rows stand on the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from depthflux.bench.document import (
    CaseFigures,
    Compared,
    Document,
    PictureFigures,
    Quantiles,
)
from depthflux.bench.report.charts import (
    axis_strip,
    forest_strip,
    pair_strip,
    quantile_strip,
    scale_of,
)
from depthflux.bench.report.table import why_no_time
from depthflux.bench.report.words import (
    NOTHING,
    as_line,
    difference,
    figure,
    labels,
    name_of,
    verdict_words,
    why_missing,
    with_interval,
)

#: What a phase is, in the order of the page.
PHASES = {
    "total": "from sending the request until the last picture was here",
    "submit": "until the request was answered as taken",
    "queue": "taken and not yet seen completed, less inference: others' turns, and up to one "
    "interval between two polls",
    "inference": "as the side itself reports it",
    "download": "fetching all pictures of a task",
}


@dataclass(frozen=True)
class Difference:
    """A row of the forest; `missing` says why it has no figures."""

    name: str
    unit: str
    verdict: str
    strip: Markup | None
    figures: str
    cases: int
    missing: str


@dataclass(frozen=True)
class Timing:
    """A side's row in a phase; `missing` says why it has no figures."""

    label: str
    side: int
    strip: Markup | None
    p50: str
    p95: str
    count: int
    missing: str


@dataclass(frozen=True)
class Phase:
    """One phase of a task on one axis."""

    name: str
    meaning: str
    axis: Markup
    rows: list[Timing]


@dataclass(frozen=True)
class CasePair:
    """Both sides' values of one case."""

    name: str
    strip: Markup
    first: str
    second: str


@dataclass(frozen=True)
class CaseChart:
    """One measure over the cases on one axis."""

    title: str
    unit: str
    reading: str
    axis: Markup
    rows: list[CasePair]


def differences(document: Document) -> list[Difference]:
    """The measures of which one side may be better, quality before speed."""
    return [_difference(compared) for compared in (*document.quality, *document.speed)]


def _difference(compared: Compared) -> Difference:
    return Difference(
        name=name_of(compared),
        unit="ratio" if compared.is_ratio else as_line(compared.unit),
        verdict=verdict_words(compared),
        strip=forest_strip(compared),
        figures=difference(compared),
        cases=compared.cases,
        missing="" if compared.difference is not None else why_missing(compared),
    )


def phases(document: Document) -> list[Phase]:
    """Every phase that at least one side has times of."""
    return [phase for name in PHASES if (phase := _phase(document, name)) is not None]


def _phase(document: Document, name: str) -> Phase | None:
    measured: list[Quantiles | None] = [getattr(side.seconds, name) for side in document.sides]
    scale = scale_of(
        [
            end
            for quantiles in measured
            if quantiles is not None
            for part in (quantiles.p50, quantiles.p95)
            for end in (part.value, part.high)
        ],
        from_zero=True,
    )
    if scale is None:
        return None
    rows = []
    for number, (label, quantiles) in enumerate(zip(labels(document.sides), measured, strict=True)):
        if quantiles is None:
            why = why_no_time(document.sides[number], name)
            rows.append(Timing(label, number, None, NOTHING, NOTHING, 0, why))
            continue
        strip = quantile_strip(quantiles, scale, number)
        p50, p95 = with_interval(quantiles.p50), with_interval(quantiles.p95)
        rows.append(Timing(label, number, strip, p50, p95, quantiles.count, ""))
    return Phase(name, PHASES[name], axis_strip(scale), rows)


def time_by_case(document: Document) -> CaseChart | None:
    """The median total of each case; None where no side has one."""
    return _case_chart(
        document,
        ("Total time by case", "s", "Median over repetitions. Further left is quicker."),
        lambda case, side: case.total_seconds.get(side),
        from_zero=True,
    )


def quality_by_case(document: Document) -> list[CaseChart]:
    """Each measure of single pictures by case, where there is one."""
    charts = [
        _case_chart(
            document,
            (
                "Structure by case",
                "Spearman's rho",
                "Depth in the picture against the control image's. Further right is closer.",
            ),
            lambda case, side: _mean(case, lambda pair: pair.structure.get(side)),
        ),
        _case_chart(
            document,
            (
                "Prompt agreement by case",
                "CLIP score",
                "Picture against prompt. Further right agrees more.",
            ),
            lambda case, side: _mean(case, lambda pair: pair.prompt_agreement.get(side)),
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _case_chart(
    document: Document,
    words: tuple[str, str, str],
    value_of: Callable[[CaseFigures, str], float | None],
    *,
    from_zero: bool = False,
) -> CaseChart | None:
    first, second = (side.name for side in document.sides)
    values = [(case, value_of(case, first), value_of(case, second)) for case in document.cases]
    scale = scale_of([value for _, *both in values for value in both], from_zero=from_zero)
    if scale is None:
        return None
    rows = [
        CasePair(as_line(case.name), pair_strip(one, other, scale), _written(one), _written(other))
        for case, one, other in values
    ]
    return CaseChart(*words, axis=axis_strip(scale), rows=rows)


def _mean(case: CaseFigures, value_of: Callable[[PictureFigures], float | None]) -> float | None:
    values = [value for pair in case.pictures if (value := value_of(pair)) is not None]
    return fmean(values) if values else None


def _written(value: float | None) -> str:
    return NOTHING if value is None else figure(value)
