"""Two sides' recordings → what may be said of them: measures over cases, and every pair.

Pairs are the same picture of the same task on both sides. Repetitions and pictures of a case are
no cases of their own, so intervals stand on case means. Failed tasks and flagged pictures have no
pair and are counted in the notes.

Knows nothing of how sides were asked, and of measures only who judges.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from depthflux.bench.hosted.controls import control_file
from depthflux.bench.hosted.document import (
    Bounded,
    CaseFigures,
    Compared,
    PictureFigures,
)
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.judging import Judged, Judges
from depthflux.bench.hosted.measures import Recorded
from depthflux.bench.hosted.outcomes import Picture, Times
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.suites import Case, Suite
from depthflux.bench.quality import statistics as intervals
from depthflux.contract import SEED_COUNT

Say = Callable[[str], None]
#: A figure by case.
ByCase = dict[str, float]

NO_PAIRS = "no case has a pair of pictures for it"
#: Of what could not be judged here; the judges' own words name their models.
HOW_STRUCTURE = "Spearman's rank correlation between a picture's depth and its control image's."
HOW_PROMPTS = "CLIP score of a picture and its prompt."
HOW_EQUAL = "The share of pairs whose every pixel is equal."
HOW_TOTAL = (
    "Seconds from sending a task until its last picture was here; the median of a case's "
    "repetitions, second side over first."
)
HOW_INFERENCE = (
    "Seconds of inference as each side reports them; the median of a case's repetitions, second "
    "side over first."
)


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


@dataclass
class _Found:
    """Figures by case as they are found, and why some are missing."""

    of_first: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    of_second: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    of_pairs: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    flagged_pairs: int = 0
    cut_prompts: int = 0

    def add_both(self, name: str, case: str, first: float | None, second: float | None) -> None:
        """A figure of both pictures of a pair; of one alone there is nothing to compare."""
        if first is not None and second is not None:
            self.of_first.setdefault(name, defaultdict(list))[case].append(first)
            self.of_second.setdefault(name, defaultdict(list))[case].append(second)

    def add_pair(self, name: str, case: str, value: float | None, missing: str = "") -> None:
        """A figure of a pair."""
        if value is not None:
            self.of_pairs.setdefault(name, defaultdict(list))[case].append(value)
        elif missing:
            self.missing.setdefault(name, missing)


def compare(
    suite: Suite,
    sides: tuple[Recorded, Recorded],
    folder: RunFolder,
    judges: Judges,
    *,
    same_noise: bool,
    say: Say,
) -> Comparison:
    """Judge all pictures and compare.

    Args:
        suite: what was asked for.
        sides: what both answered.
        folder: the run's; depth maps are written into it.
        judges: the same for both sides.
        same_noise: whether a seed means the same noise on both sides.
        say: told of every case.

    Raises:
        UnreadableImageError: a picture of the folder is none.
        NonFiniteError: a model that judges produced NaN or infinity.
    """
    found = _Found(missing=dict(judges.missing))
    cases = []
    for number, case in enumerate(suite.cases, start=1):
        say(f"judging {case.name} ({number} of {len(suite.cases)})")
        cases.append(_case(case, sides, folder, judges, found))
    return Comparison(
        speed=_speed(sides),
        quality=_quality(found, judges),
        difference=_difference(found, same_noise=same_noise),
        cases=cases,
        same_noise=same_noise,
        notes=list(_notes(sides, found)),
    )


def _case(
    case: Case,
    sides: tuple[Recorded, Recorded],
    folder: RunFolder,
    judges: Judges,
    found: _Found,
) -> CaseFigures:
    """Every pair of a case."""
    tasks = [task for task in sides[0].tasks if task.case.name == case.name]
    pictures = [pair for task in tasks for pair in _pairs(task, sides, judges, found)]
    if judges.prompts is not None and judges.prompts.is_cut(str(case.fields["prompt"])):
        found.cut_prompts += 1
    totals = {side.facts.name: _medians(side, lambda times: times.total) for side in sides}
    return CaseFigures(
        name=case.name,
        fields=case.fields,
        control_file=control_file(folder, case),
        depth_file=judges.draw_control_depth(case),
        pictures=pictures,
        total_seconds={name: of[case.name] for name, of in totals.items() if case.name in of},
    )


# Pairs -------------------------------------------------------------------------------------------


def _pairs(
    task: Task, sides: tuple[Recorded, Recorded], judges: Judges, found: _Found
) -> Iterable[PictureFigures]:
    """Every picture of a task that at least one side has."""
    outcomes = [side.outcomes.get(task.key) for side in sides]
    for index in range(task.pictures):
        given = {
            side.facts.name: outcome.pictures[index]
            for side, outcome in zip(sides, outcomes, strict=True)
            if outcome is not None and index < len(outcome.pictures)
        }
        if given:
            yield _pair(task, index, given, judges, found)


def _pair(
    task: Task, index: int, given: Mapping[str, Picture], judges: Judges, found: _Found
) -> PictureFigures:
    """One picture of one task by all sides that have it, in the sides' order."""
    pixels = {name: judges.pixels(picture.file) for name, picture in given.items()}
    judged = {
        name: judges.judge(task, picture.file, pixels[name], is_flagged=picture.flagged is True)
        for name, picture in given.items()
    }
    is_flagged = any(picture.flagged for picture in given.values())
    apart = None
    if len(given) == 2:
        found.flagged_pairs += is_flagged
        if not is_flagged:
            apart = judges.compare(*pixels.values())
            _note_pair(task.case.name, list(judged.values()), found)
            close = apart.closeness
            for name, value in (("ssim", close.ssim), ("psnr", close.psnr_db)):
                found.add_pair(name, task.case.name, value, close.missing)
            found.add_pair("lpips", task.case.name, apart.lpips.value, apart.lpips.missing)
            equal = None if close.is_equal is None else float(close.is_equal)
            found.add_pair("equal_pictures", task.case.name, equal, close.missing)
    return PictureFigures(
        task=task.key,
        index=index,
        seed=(int(task.fields["seed"]) + index) % SEED_COUNT,
        files={name: picture.file for name, picture in given.items()},
        depth_files={name: one.depth_file for name, one in judged.items() if one.depth_file},
        structure=_values({name: one.structure.value for name, one in judged.items()}),
        prompt_agreement=_values(
            {name: one.prompt_agreement.value for name, one in judged.items()}
        ),
        ssim=apart.closeness.ssim if apart else None,
        psnr_db=apart.closeness.psnr_db if apart else None,
        lpips=apart.lpips.value if apart else None,
        is_equal=apart.closeness.is_equal if apart else None,
        flagged={
            name: picture.flagged for name, picture in given.items() if picture.flagged is not None
        },
    )


def _note_pair(case: str, judged: Sequence[Judged], found: _Found) -> None:
    first, second = judged
    found.add_both("structure", case, first.structure.value, second.structure.value)
    found.add_both(
        "prompt_agreement", case, first.prompt_agreement.value, second.prompt_agreement.value
    )
    for name in ("structure", "prompt_agreement"):
        for one in judged:
            if reason := getattr(one, name).missing:
                found.missing.setdefault(name, reason)


def _values(given: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in given.items() if value is not None}


# Measures over cases -----------------------------------------------------------------------------


def _quality(found: _Found, judges: Judges) -> list[Compared]:
    structure = judges.structure.how if judges.structure is not None else HOW_STRUCTURE
    prompts = judges.prompts.how if judges.prompts is not None else HOW_PROMPTS
    rows = (
        ("structure", "Spearman's rho", structure),
        ("prompt_agreement", "CLIP score", prompts),
    )
    return [
        _of_sides(
            name,
            unit,
            how,
            _means(found.of_first.get(name, {})),
            _means(found.of_second.get(name, {})),
            higher_is_better=True,
            missing=found.missing.get(name, NO_PAIRS),
        )
        for name, unit, how in rows
    ]


def _difference(found: _Found, *, same_noise: bool) -> list[Compared]:
    from depthflux.bench.quality.closeness import HOW_LPIPS, HOW_PSNR, HOW_SSIM

    rows = [
        ("ssim", "SSIM", HOW_SSIM),
        ("psnr", "dB", HOW_PSNR),
        ("lpips", "LPIPS", HOW_LPIPS),
    ]
    if same_noise:
        rows.insert(0, ("equal_pictures", "share", HOW_EQUAL))
    equal = [value for of in found.of_pairs.get("equal_pictures", {}).values() for value in of]
    if equal and all(equal):
        found.missing.setdefault("psnr", "all pairs are equal, and equal pictures have none")
    return [
        _of_pairs(
            name, unit, how, _means(found.of_pairs.get(name, {})), found.missing.get(name, NO_PAIRS)
        )
        for name, unit, how in rows
    ]


def _speed(sides: tuple[Recorded, Recorded]) -> list[Compared]:
    rows: tuple[tuple[str, str, Callable[[Times], float | None]], ...] = (
        ("total_time", HOW_TOTAL, lambda times: times.total),
        ("inference_time", HOW_INFERENCE, lambda times: times.inference),
    )
    return [
        _of_sides(
            name,
            "seconds",
            how,
            _medians(sides[0], read),
            _medians(sides[1], read),
            higher_is_better=False,
            missing="no case has this time on both sides",
            is_ratio=True,
        )
        for name, how, read in rows
    ]


def _of_sides(
    name: str,
    unit: str,
    how: str,
    first: ByCase,
    second: ByCase,
    *,
    higher_is_better: bool,
    missing: str,
    is_ratio: bool = False,
) -> Compared:
    """A measure of each side's, paired by case."""
    pairing = intervals.paired_ratio if is_ratio else intervals.paired_difference
    difference, cases = pairing(first, second)
    paired = first.keys() & second.keys()
    return Compared(
        name=name,
        unit=unit,
        how=how,
        higher_is_better=higher_is_better,
        first=statistics.fmean(first[case] for case in sorted(paired)) if paired else None,
        second=statistics.fmean(second[case] for case in sorted(paired)) if paired else None,
        difference=difference,
        is_ratio=is_ratio,
        cases=cases,
        verdict=intervals.verdict(
            difference,
            cases,
            higher_is_better=higher_is_better,
            neutral=1.0 if is_ratio else 0.0,
        ),
        missing="" if difference is not None else missing,
    )


def _of_pairs(name: str, unit: str, how: str, values: ByCase, missing: str) -> Compared:
    """A measure of two pictures; neither side is better by it."""
    difference: Bounded | None = intervals.mean([values[case] for case in sorted(values)])
    return Compared(
        name=name,
        unit=unit,
        how=how,
        higher_is_better=None,
        first=None,
        second=None,
        difference=difference,
        is_ratio=False,
        cases=len(values),
        verdict="unknown",
        missing="" if difference is not None else missing,
    )


def _means(by_case: Mapping[str, Sequence[float]]) -> ByCase:
    return {case: statistics.fmean(values) for case, values in by_case.items()}


def _medians(side: Recorded, read: Callable[[Times], float | None]) -> ByCase:
    """A time of each case, the median over its repetitions."""
    values: dict[str, list[float]] = defaultdict(list)
    for task, _, times in side.timed():
        if (value := read(times)) is not None:
            values[task.case.name].append(value)
    return {case: statistics.median(of) for case, of in values.items()}


# Notes -------------------------------------------------------------------------------------------


def _notes(sides: tuple[Recorded, Recorded], found: _Found) -> Iterable[str]:
    tasks = sides[0].tasks
    completed = [{task.key for task, _ in side.completed()} for side in sides]
    if alone := len(tasks) - len(completed[0] & completed[1]):
        yield (
            f"{alone} of {len(tasks)} tasks lack pictures of at least one side, and are left out "
            "of quality and difference."
        )
    if found.flagged_pairs:
        yield (
            f"{found.flagged_pairs} pairs have a picture that its side calls not safe for work, "
            "and are left out of quality and difference."
        )
    if found.cut_prompts:
        yield (
            f"The prompts of {found.cut_prompts} cases are longer than CLIP reads and were cut for "
            "prompt agreement, alike for both sides."
        )
