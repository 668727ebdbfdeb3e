"""Two sides' recordings → every pair of pictures, judged, and figures by case.

Pairs are the same picture of the same task on both sides. What a pair lacks leaves it out of that
measure alone, and is counted with its reason. Knows nothing of intervals and verdicts, and of
measures only who judges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from depthflux.bench.document import PictureFigures
from depthflux.bench.hosted.judging import Apart, Judged, Judges
from depthflux.bench.hosted.measures import Recorded
from depthflux.bench.hosted.outcomes import Picture
from depthflux.bench.hosted.plan import Task
from depthflux.bench.quality.figures import Measured
from depthflux.contract import SEED_COUNT

EQUAL_PICTURES = "equal pictures have none"


class Sides(NamedTuple):
    """Both sides, in the document's order."""

    first: Recorded
    second: Recorded

    @property
    def is_hosted(self) -> bool:
        """Whether the first is another stack, of which nobody here knows how it works."""
        return not self.first.facts.profile

    @property
    def share_noise(self) -> bool:
        """Whether a seed means the same noise on both: two profiles of one model draw alike."""
        models = {side.facts.model for side in self}
        return all(side.facts.profile for side in self) and len(models) == 1 and "" not in models


@dataclass
class Figures:
    """Figures by measure and case as they are found, and why pairs are left out.

    Attributes:
        of_first: of the first side's picture of each pair.
        of_second: likewise.
        of_pairs: of two pictures together.
        left_out: by measure, how many pairs for which reason.
        pairs: that were compared.
        flagged_pairs: that were not, since a side calls a picture not safe for work.
    """

    of_first: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    of_second: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    of_pairs: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    pairs: int = 0
    flagged_pairs: int = 0

    def add_both(self, name: str, case: str, first: Measured, second: Measured) -> None:
        """A figure of both pictures of a pair; of one alone there is nothing to compare."""
        if first.value is None or second.value is None:
            self._leave_out(name, first.missing or second.missing)
            return
        self.of_first.setdefault(name, defaultdict(list))[case].append(first.value)
        self.of_second.setdefault(name, defaultdict(list))[case].append(second.value)

    def add_pair(self, name: str, case: str, value: float | None, missing: str) -> None:
        """A figure of a pair."""
        if value is None:
            self._leave_out(name, missing)
        else:
            self.of_pairs.setdefault(name, defaultdict(list))[case].append(value)

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out.setdefault(name, Counter())[reason] += 1


def judge_pairs(
    tasks: Iterable[Task], sides: Sides, judges: Judges, figures: Figures, *, counts: bool
) -> list[PictureFigures]:
    """Every picture of some tasks that at least one side has completed.

    Args:
        tasks: of one case, in order.
        sides: what both answered.
        judges: the same for both sides.
        figures: where they are added to.
        counts: whether the case is one that can be compared; else its pictures are only shown.
    """
    return [
        _judge(task, index, given, judges, figures, counts=counts)
        for task in tasks
        for index in range(task.pictures)
        if (given := _given(task, index, sides))
    ]


def _given(task: Task, index: int, sides: Sides) -> dict[str, Picture]:
    """A task's picture by all sides that completed it, in the sides' order."""
    outcomes = {side.facts.name: side.outcomes.get(task.key) for side in sides}
    return {
        name: outcome.pictures[index]
        for name, outcome in outcomes.items()
        if outcome is not None
        # Pictures of one that failed are those that came, so their places say nothing.
        and outcome.status == "completed"
        and index < len(outcome.pictures)
    }


def _judge(
    task: Task,
    index: int,
    given: Mapping[str, Picture],
    judges: Judges,
    figures: Figures,
    *,
    counts: bool,
) -> PictureFigures:
    pixels = {name: judges.pixels(picture.file) for name, picture in given.items()}
    judged = {
        name: judges.judge(task, picture.file, pixels[name], is_flagged=picture.flagged is True)
        for name, picture in given.items()
    }
    apart = None
    if counts and len(given) == 2:
        if any(picture.flagged for picture in given.values()):
            figures.flagged_pairs += 1
        else:
            apart = judges.compare(*pixels.values())
            _note_pair(task.case.name, list(judged.values()), apart, figures)
    # Of a case that is only shown, no figure may look as if it counted.
    counted = judged if counts else {}
    return PictureFigures(
        task=task.key,
        index=index,
        seed=(int(task.fields["seed"]) + index) % SEED_COUNT,
        files={name: picture.file for name, picture in given.items()},
        depth_files={name: one.depth_file for name, one in judged.items() if one.depth_file},
        structure=_values({name: one.structure for name, one in counted.items()}),
        prompt_agreement=_values({name: one.prompt_agreement for name, one in counted.items()}),
        ssim=apart.closeness.ssim if apart else None,
        psnr_db=apart.closeness.psnr_db if apart else None,
        lpips=apart.lpips.value if apart else None,
        is_equal=apart.closeness.is_equal if apart else None,
        flagged={
            name: picture.flagged for name, picture in given.items() if picture.flagged is not None
        },
    )


def _note_pair(case: str, judged: Sequence[Judged], apart: Apart, figures: Figures) -> None:
    first, second = judged
    figures.pairs += 1
    figures.add_both("structure", case, first.structure, second.structure)
    figures.add_both("prompt_agreement", case, first.prompt_agreement, second.prompt_agreement)
    close = apart.closeness
    figures.add_pair("ssim", case, close.ssim, close.missing)
    figures.add_pair("psnr", case, close.psnr_db, close.missing or EQUAL_PICTURES)
    figures.add_pair("lpips", case, *apart.lpips)
    equal = None if close.is_equal is None else float(close.is_equal)
    figures.add_pair("equal_pictures", case, equal, close.missing)


def _values(given: Mapping[str, Measured]) -> dict[str, float]:
    return {name: one.value for name, one in given.items() if one.value is not None}
