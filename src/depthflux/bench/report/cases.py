"""The cases as the page shows them: both sides' pictures, depth, figures.

Pictures beyond what fits into a page of bounded size are linked. Knows nothing of HTML but the data
URIs of `pictures`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflux.bench.document import CaseFigures, Document, PictureFigures
from depthflux.bench.report.pictures import (
    SMALL_BYTES,
    SMALL_SIDES,
    Shown,
    show_picture,
    withheld,
)
from depthflux.bench.report.words import NOTHING, as_line, figure, labels, seconds

#: Pairs whose pictures are inside the page; a case without any, of which the control image and its
#: depth are shown, counts as one. With all small pictures that is at most
#: 40 * (2 * 110 + 4 * 24) kB, in base64 17 MB.
MOST_PAIRS = 40
#: More of a case are counted; the run's folder has them all.
MOST_LINKED = 50


@dataclass(frozen=True)
class Pair:
    """One pair of pictures.

    Attributes:
        task: its key, and the picture's number where the task has several.
        seed: the picture's own.
        pictures: of the first side and of the second; None where a side has none.
        depths: estimated from them, likewise.
        figures: name and both sides' values in words.
        closeness: name and value in words of what is measured between the two.
        is_shown: whether the pictures are inside the page, and not only linked.
    """

    task: str
    seed: int
    pictures: tuple[Shown | None, Shown | None]
    depths: tuple[Shown | None, Shown | None]
    figures: list[tuple[str, str, str]]
    closeness: list[tuple[str, str]]
    is_shown: bool

    @property
    def can_be_laid_over(self) -> bool:
        """Whether both pictures can be seen, so that one can be drawn over the other."""
        return all(picture is not None and picture.uri for picture in self.pictures)

    @property
    def differ_in_size(self) -> bool:
        """Whether both can be seen and are not of the same size."""
        first, second = self.pictures
        return (
            self.can_be_laid_over
            and first is not None
            and second is not None
            and (first.width, first.height) != (second.width, second.height)
        )


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: the case's.
        prompt: one line.
        fields: the other fields of its request, name and value in words.
        control: the control image; None where the page has no room for the case's pictures.
        depth: its depth, likewise, or where none was estimated.
        pairs: whose pictures are shown.
        linked: whose pictures are only linked, the first of them.
        more: how many others there are.
        seconds: both sides' median of the total in words; empty where there is none.
    """

    name: str
    prompt: str
    fields: list[tuple[str, str]]
    control: Shown | None
    depth: Shown | None
    pairs: list[Pair]
    linked: list[Pair]
    more: int
    seconds: tuple[str, str]


def show_cases(document: Document, folder: Path) -> list[Case]:
    """All cases, with the pictures of the first pairs of each until the page is full."""
    inside = _pairs_inside(document)
    return [_show_case(document, folder, case, inside) for case in document.cases]


def _pairs_inside(document: Document) -> set[tuple[str, str, int]]:
    """The pairs whose pictures the page holds: every case's first before any case's second."""
    in_turn = sorted(
        (turn, place, key)
        for place, case in enumerate(document.cases)
        for turn, key in enumerate(_keys(case))
    )
    return {key for _, _, key in in_turn[:MOST_PAIRS]}


def _keys(case: CaseFigures) -> list[tuple[str, str, int]]:
    """Of every pair; of a case without any, one that stands for the case."""
    return [(case.name, pair.task, pair.index) for pair in case.pictures] or [(case.name, "", 0)]


def _show_case(
    document: Document, folder: Path, case: CaseFigures, inside: set[tuple[str, str, int]]
) -> Case:
    pairs = [
        _show_pair(document, folder, pair, (case.name, pair.task, pair.index) in inside)
        for pair in case.pictures
    ]
    linked = [pair for pair in pairs if not pair.is_shown]
    has_place = not inside.isdisjoint(_keys(case))

    def small(file: str) -> Shown | None:
        return _small(folder, file) if file and has_place else None

    first, second = document.sides
    return Case(
        name=as_line(case.name),
        prompt=as_line(str(case.fields.get("prompt", ""))),
        fields=[
            (as_line(name), _value(of)) for name, of in case.fields.items() if name != "prompt"
        ],
        control=small(case.control_file),
        depth=small(case.depth_file),
        pairs=[pair for pair in pairs if pair.is_shown],
        linked=linked[:MOST_LINKED],
        more=len(linked[MOST_LINKED:]),
        seconds=(
            _seconds_of(case, first.name),
            _seconds_of(case, second.name),
        ),
    )


def _show_pair(document: Document, folder: Path, pair: PictureFigures, is_shown: bool) -> Pair:
    names = labels(document.sides)

    def picture(side: int) -> Shown | None:
        name = document.sides[side].name
        file = pair.files.get(name)
        if file is None:
            return None
        if not is_shown:
            return withheld(file, "not inside this page")
        if pair.flagged.get(name):
            return withheld(file, f"{names[side]} calls it not safe for work")
        return show_picture(folder, file)

    def depth(side: int) -> Shown | None:
        name = document.sides[side].name
        file = pair.depth_files.get(name)
        if file is None or not is_shown or pair.flagged.get(name):
            return None
        return _small(folder, file)

    first, second = document.sides
    return Pair(
        task=as_line(pair.task if pair.index == 0 else f"{pair.task}, picture {pair.index + 1}"),
        seed=pair.seed,
        pictures=(picture(0), picture(1)),
        depths=(depth(0), depth(1)),
        figures=[
            (name, _of(values, first.name), _of(values, second.name))
            for name, values in (
                ("structure, Spearman's rho", pair.structure),
                ("prompt agreement, CLIP score", pair.prompt_agreement),
            )
            if values
        ],
        closeness=_closeness(pair),
        is_shown=is_shown,
    )


def _closeness(pair: PictureFigures) -> list[tuple[str, str]]:
    if pair.is_equal:
        return [("every pixel", "equal")]
    measured: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("SSIM", pair.ssim, lambda value: figure(value, not_as=1.0)),
        ("PSNR", pair.psnr_db, lambda value: f"{figure(value)} dB"),
        ("LPIPS", pair.lpips, figure),
    ]
    return [(name, written(value)) for name, value, written in measured if value is not None]


def _small(folder: Path, file: str) -> Shown:
    return show_picture(folder, file, sides=SMALL_SIDES, most_bytes=SMALL_BYTES)


def _seconds_of(case: CaseFigures, side: str) -> str:
    return seconds(case.total_seconds[side]) if side in case.total_seconds else ""


def _of(values: dict[str, float], side: str) -> str:
    return figure(values[side]) if side in values else NOTHING


def _value(value: Any) -> str:
    return as_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 300)
