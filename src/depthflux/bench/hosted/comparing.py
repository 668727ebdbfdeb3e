"""Two sides' recordings → what may be said of them: measures over cases, and every pair.

Repetitions and pictures of a case are no cases of their own, so intervals stand on case means.
What is left out is counted, in a note where it is left out of all measures, and else beside the
measure. What a verdict cannot be read without stands beside it, too.

Knows nothing of how sides were asked, and of measures only who judges.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from depthflux.bench.document import Bounded, CaseFigures, Compared, Verdict
from depthflux.bench.hosted.controls import control_file
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.measures import Recorded
from depthflux.bench.hosted.outcomes import Times
from depthflux.bench.hosted.pairing import Figures, Sides, judge_pairs
from depthflux.bench.hosted.running import Say
from depthflux.bench.hosted.suites import OWN_FIELDS, Case, Suite
from depthflux.bench.quality import statistics as intervals
from depthflux.bench.quality.structure import ESTIMATOR_BIAS, HOSTED_DEPTH_UNKNOWN
from depthflux.bench.wording import count, which

#: A figure by case.
ByCase = dict[str, float]

NO_PAIRS = "no case has a pair of pictures for it"
#: Of what could not be judged here; the judges' own words name their models.
HOW_STRUCTURE = "Spearman's rank correlation between a picture's depth and its control image's."
HOW_PROMPTS = "CLIP score of a picture and its prompt."
HOW_EQUAL = "The share of pairs whose every pixel is equal."
HOW_TOTAL = (
    "Seconds from sending a task until its last picture was here; the median of a case's "
    "repetitions, second side over first; of each side the geometric mean over the same cases."
)
HOW_INFERENCE = (
    "Seconds of inference as each side reports them; the median of a case's repetitions, second "
    "side over first; of each side the geometric mean over the same cases."
)
ONE_AFTER_THE_OTHER = (
    "The sides ran one after the other, so what changed meanwhile, such as heat or other programs "
    "at work, is part of the ratio."
)
#: More reasons than these are one more.
_MOST_REASONS = 3


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        speed: measures of time.
        quality: of which one side may be better.
        difference: between two pictures.
        cases: every pair.
        same_noise: whether a seed means the same noise on both sides.
        notes: what was left out, one sentence each.
    """

    speed: list[Compared]
    quality: list[Compared]
    difference: list[Compared]
    cases: list[CaseFigures]
    same_noise: bool
    notes: list[str]


def compare(
    suite: Suite,
    sides: tuple[Recorded, Recorded],
    folder: RunFolder,
    judges: Judges,
    *,
    say: Say,
) -> Comparison:
    """Judge all pictures and compare.

    Args:
        suite: what was asked for.
        sides: what both answered.
        folder: the run's; depth maps are written into it.
        judges: the same for both sides.
        say: told of every case.

    Raises:
        UnreadableImageError: a picture of the folder is none.
        NonFiniteError: a model that judges produced NaN or infinity.
    """
    both, figures, cases = Sides(*sides), Figures(), []
    for number, case in enumerate(suite.cases, start=1):
        say(f"judging {case.name} ({number} of {len(suite.cases)})")
        cases.append(_case(case, both, folder, judges, figures))
    return Comparison(
        speed=_speed(both),
        quality=_quality(both, figures, judges),
        difference=_difference(figures, judges, same_noise=both.share_noise),
        cases=cases,
        same_noise=both.share_noise,
        notes=list(_notes(suite, both, figures, judges)),
    )


def _case(
    case: Case, sides: Sides, folder: RunFolder, judges: Judges, figures: Figures
) -> CaseFigures:
    """Every pair of a case."""
    tasks = [task for task in sides.first.tasks if task.case.name == case.name]
    totals = {side.facts.name: _medians(side, lambda times: times.total_seconds) for side in sides}
    return CaseFigures(
        name=case.name,
        fields=case.fields,
        control_file=control_file(folder, case),
        depth_file=judges.draw_control_depth(case),
        pictures=judge_pairs(tasks, sides, judges, figures, counts=_counts(case, sides)),
        total_seconds={name: of[case.name] for name, of in totals.items() if case.name in of},
    )


def _counts(case: Case, sides: Sides) -> bool:
    """Whether both sides were asked for the same by a case."""
    return not (sides.is_hosted and any(name in case.fields for name in OWN_FIELDS))


# Measures over cases -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measure:
    """A measure as it is called and explained; see `Compared` for its parts."""

    name: str
    unit: str
    how: str
    missing: str
    caveats: Sequence[str] = ()


def _quality(sides: Sides, figures: Figures, judges: Judges) -> list[Compared]:
    structure = judges.structure.how if judges.structure is not None else HOW_STRUCTURE
    prompts = judges.prompts.how if judges.prompts is not None else HOW_PROMPTS
    rows: tuple[tuple[str, str, str, list[str]], ...] = (
        ("structure", "Spearman's rho", structure, _caveats_of_structure(sides, judges)),
        ("prompt_agreement", "CLIP score", prompts, []),
    )
    compared = []
    for name, unit, how, caveats in rows:
        first, second = (_means(of.get(name, {})) for of in (figures.of_first, figures.of_second))
        missing, left_out = _missing(name, figures, judges), _left_out(name, figures)
        measure = _Measure(name, unit, how, missing, [*caveats, *left_out])
        difference, cases = intervals.paired_difference(first, second)
        verdict = intervals.verdict(difference, cases, higher_is_better=True, neutral=0.0)
        compared.append(
            _compared(
                measure,
                difference,
                cases,
                means=(_mean(first), _mean(second)),
                higher_is_better=True,
                verdict=verdict,
            )
        )
    return compared


def _speed(sides: Sides) -> list[Compared]:
    rows: tuple[tuple[str, str, Callable[[Times], float | None]], ...] = (
        ("total_time", HOW_TOTAL, lambda times: times.total_seconds),
        ("inference_time", HOW_INFERENCE, lambda times: times.inference_seconds),
    )
    caveats, unlike = _caveats_of_speed(sides), _asked_unlike(sides)
    compared = []
    for name, how, read in rows:
        missing = "no case has this time on both sides"
        measure = _Measure(name, "seconds", how, missing, [*unlike, *caveats])
        first, second = _with_ratio(*(_medians(side, read) for side in sides))
        difference, cases = intervals.paired_ratio(first, second)
        verdict = intervals.verdict(difference, cases, higher_is_better=False, neutral=1.0)
        compared.append(
            _compared(
                measure,
                difference,
                cases,
                means=(_geometric_mean(first), _geometric_mean(second)),
                higher_is_better=False,
                is_ratio=True,
                verdict="not comparable" if unlike and difference is not None else verdict,
            )
        )
    return compared


def _difference(figures: Figures, judges: Judges, *, same_noise: bool) -> list[Compared]:
    from depthflux.bench.quality.closeness import HOW_LPIPS, HOW_PSNR, HOW_SSIM

    # With the ends of its range, where it has any.
    rows: list[tuple[str, str, str, float | None, float | None]] = [
        ("ssim", "SSIM", HOW_SSIM, -1.0, 1.0),
        ("psnr", "dB", HOW_PSNR, None, None),
        ("lpips", "LPIPS", HOW_LPIPS, 0.0, None),
    ]
    if same_noise:
        rows.insert(0, ("equal_pictures", "share", HOW_EQUAL, 0.0, 1.0))
    compared = []
    for name, unit, how, least, most in rows:
        values = _means(figures.of_pairs.get(name, {}))
        missing, left_out = _missing(name, figures, judges), _left_out(name, figures)
        mean = intervals.mean([values[case] for case in sorted(values)])
        mean = None if mean is None else intervals.cut(mean, least, most)
        compared.append(_compared(_Measure(name, unit, how, missing, left_out), mean, len(values)))
    return compared


def _compared(
    measure: _Measure,
    difference: Bounded | None,
    cases: int,
    *,
    means: tuple[float | None, float | None] = (None, None),
    higher_is_better: bool | None = None,
    is_ratio: bool = False,
    verdict: Verdict = "unknown",
) -> Compared:
    """A measure's row; of two pictures together it has neither means nor a better side."""
    return Compared(
        name=measure.name,
        unit=measure.unit,
        how=measure.how,
        higher_is_better=higher_is_better,
        first=None if difference is None else means[0],
        second=None if difference is None else means[1],
        difference=difference,
        is_ratio=is_ratio,
        cases=cases,
        verdict=verdict,
        missing="" if difference is not None else measure.missing,
        caveats=list(measure.caveats),
    )


def _means(by_case: Mapping[str, Sequence[float]]) -> ByCase:
    return {case: statistics.fmean(values) for case, values in by_case.items()}


def _mean(by_case: ByCase) -> float | None:
    """Of a side; both have figures of the same cases here."""
    return statistics.fmean(by_case[case] for case in sorted(by_case)) if by_case else None


def _geometric_mean(by_case: ByCase) -> float | None:
    return statistics.geometric_mean(by_case[case] for case in sorted(by_case)) if by_case else None


def _with_ratio(first: ByCase, second: ByCase) -> tuple[ByCase, ByCase]:
    """Both sides' times of the cases that have a ratio, so that means and ratio are of the same."""
    cases = [case for case in first if first[case] > 0 and second.get(case, 0) > 0]
    return {case: first[case] for case in cases}, {case: second[case] for case in cases}


def _medians(side: Recorded, read: Callable[[Times], float | None]) -> ByCase:
    """A time of each case, the median over its repetitions."""
    values: dict[str, list[float]] = defaultdict(list)
    for task, _, times in side.timed():
        if (value := read(times)) is not None:
            values[task.case.name].append(value)
    return {case: statistics.median(of) for case, of in values.items()}


# What a verdict cannot be read without -----------------------------------------------------------


def _caveats_of_structure(sides: Sides, judges: Judges) -> list[str]:
    if not sides.is_hosted:
        return []
    bias = [ESTIMATOR_BIAS] if judges.structure is not None and judges.judge_is_local else []
    return [*bias, HOSTED_DEPTH_UNKNOWN]


def _caveats_of_speed(sides: Sides) -> list[str]:
    return [] if sides.is_hosted else [ONE_AFTER_THE_OTHER]


def _asked_unlike(sides: Sides) -> list[str]:
    """Why times cannot be compared, as of a recording that was made otherwise; empty where not."""
    asked = [
        (side.facts.concurrency, side.facts.poll_interval_seconds, side.facts.sync_mode)
        for side in sides
    ]
    if asked[0] == asked[1]:
        return []
    first, second = (
        f"{side.facts.label} was asked for {count(concurrency, 'task')} at a time, "
        + ("in sync mode" if sync_mode else f"with polls every {interval:g} s")
        for side, (concurrency, interval, sync_mode) in zip(sides, asked, strict=True)
    )
    return [f"There is no verdict, since {first}, and {second}."]


def _missing(name: str, figures: Figures, judges: Judges) -> str:
    """Why there is no figure of a measure, where there is none."""
    if name in judges.missing:
        return judges.missing[name]
    reasons = _reasons(name, figures)
    return f"all pairs are left out: {'; '.join(reasons)}" if reasons else NO_PAIRS


def _left_out(name: str, figures: Figures) -> list[str]:
    """How many pairs a measure leaves out, where others have a figure."""
    left_out = sum(figures.left_out.get(name, {}).values())
    if not 0 < left_out < figures.pairs:
        return []
    are = which(left_out, "is", "are")
    why = "; ".join(_reasons(name, figures))
    return [f"{left_out} of {count(figures.pairs, 'pair')} {are} left out: {why}."]


def _reasons(name: str, figures: Figures) -> list[str]:
    reasons = [reason for reason, _ in figures.left_out.get(name, Counter()).most_common()]
    if len(reasons) > _MOST_REASONS:
        return [*reasons[:_MOST_REASONS], f"{len(reasons) - _MOST_REASONS} other reasons"]
    return reasons


# Notes -------------------------------------------------------------------------------------------


def _notes(suite: Suite, sides: Sides, figures: Figures, judges: Judges) -> Iterator[str]:
    tasks = sides.first.tasks
    completed = [{task.key for task, _ in side.completed()} for side in sides]
    if alone := len(tasks) - len(completed[0] & completed[1]):
        yield (
            f"{alone} of {count(len(tasks), 'task')} {which(alone, 'lacks', 'lack')} pictures of "
            f"at least one side, and {which(alone, 'is', 'are')} left out of quality and "
            "difference."
        )
    if figures.flagged_pairs:
        yield (
            f"{count(figures.flagged_pairs, 'pair')} with a picture that its side calls not safe "
            "for work: left out of quality and difference."
        )
    if unlike := sum(not _counts(case, sides) for case in suite.cases):
        yield (
            f"{count(unlike, 'case')} with {' or '.join(OWN_FIELDS)}, which the hosted API does "
            "not document and passes over: left out of quality and difference."
        )
    prompts = judges.prompts
    if prompts is not None and (
        cut := sum(prompts.is_cut(str(case.fields["prompt"])) for case in suite.cases)
    ):
        yield (
            f"{count(cut, 'prompt')} longer than CLIP reads, cut for prompt agreement, alike for "
            "both sides."
        )
