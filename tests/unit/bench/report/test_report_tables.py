"""A comparison's tables of words: what stands in them, and what never does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from unit.bench.report.sample import failed_document, hosted_document, profiles_document

from depthflux.bench.document import Bounded, Compared, Document, TimeQuantiles, Verdict
from depthflux.bench.report.table import Table, tables
from depthflux.bench.report.words import (
    as_line,
    difference,
    figure,
    sentence,
    verdict_words,
    why_missing,
    with_interval,
)

WIDTH = 100


def titled(made: list[Table], beginning: str) -> Table:
    return next(table for table in made if table.title.startswith(beginning))


def cells(table: Table, name: str) -> tuple[str, ...]:
    return next(row[1:] for row in table.rows if row[0] == name)


def compared(
    difference: Bounded | None,
    *,
    said: Verdict = "no difference shown",
    is_ratio: bool = False,
    higher: bool | None = True,
) -> Compared:
    return Compared(
        name="total_time" if is_ratio else "structure",
        unit="seconds" if is_ratio else "rho",
        how="",
        higher_is_better=higher,
        first=1.0,
        second=1.0,
        difference=difference,
        is_ratio=is_ratio,
        cases=12,
        verdict=said,
        missing="" if difference else "no case has a pair",
        caveats=[],
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (4.2, "4.20"),
        (0.04123, "0.0412"),
        (1234.6, "1235"),
        (-3.3, "-3.30"),
        (4.2e-8, "4e-08"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_a_figure_has_three_digits_that_count(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("bounded", "text"),
    [
        (Bounded(value=4.21, low=3.94, high=4.57), "4.21 [3.94, 4.57]"),
        (Bounded(value=8.2, low=7.49, high=8.6), "8.2 [7.5, 8.6]"),
        (Bounded(value=9.24, low=8.93, high=None), "9.24 [8.93, -]"),
        (Bounded(value=9.24, low=None, high=None), "9.24 [-, -]"),
        (Bounded(value=1.0, low=1.0, high=1.0), "1.00 [1.00, 1.00]"),
    ],
    ids=["two digits", "one digit", "no upper bound", "no bound", "no width"],
)
def test_an_interval_says_how_many_digits_count(bounded: Bounded, text: str) -> None:
    assert with_interval(bounded) == text


@pytest.mark.parametrize(
    ("bounded", "neutral", "text"),
    [
        (Bounded(value=1.8, low=1.004, high=3.8), 1.0, "1.8 [1.004, 3.8]"),
        (Bounded(value=0.4, low=0.1, high=0.9996), 1.0, "0.40 [0.10, 0.9996]"),
        (Bounded(value=0.0004, low=0.0001, high=0.03), 0.0, "0.0004 [0.0001, 0.030]"),
        (Bounded(value=1.8, low=1.00000004, high=3.8), 1.0, "1.8 [>1, 3.8]"),
        (Bounded(value=-0.4, low=-0.9, high=-1e-9), 0.0, "−0.40 [−0.90, <0]"),
        (Bounded(value=1.8, low=0.996, high=3.8), 1.0, "1.8 [1.0, 3.8]"),
        (Bounded(value=1.8, low=1.004, high=None), 1.0, "1.80 [1.004, -]"),
    ],
    ids=["above", "below", "value too", "just above", "just below", "within", "one bound"],
)
def test_a_bound_that_rounding_would_put_on_the_neutral_value_has_more_digits(
    bounded: Bounded, neutral: float, text: str
) -> None:
    assert with_interval(bounded, neutral=neutral) == text


def test_no_verdict_contradicts_the_interval_that_stands_beside_it(tmp_path: Path) -> None:
    slower = compared(
        Bounded(value=1.8, low=1.004, high=3.8), said="worse", is_ratio=True, higher=False
    )
    better = compared(Bounded(value=0.2, low=0.003, high=0.4), said="better")

    assert difference(slower) == "× 1.8 [1.004, 3.8]"
    assert difference(better) == "+0.20 [+0.003, +0.40]"
    sides = hosted_document(tmp_path).sides
    assert "(1.8 [1.004, 3.8] times as long" in sentence(slower, sides)
    assert "(+0.20 [+0.003, +0.40] rho" in sentence(better, sides)


def test_a_signed_difference_that_rounds_to_nothing_has_no_sign() -> None:
    bounded = Bounded(value=-0.004, low=-0.7, high=0.6)

    assert with_interval(bounded, signed=True) == "0.0 [−0.7, +0.6]"


@pytest.mark.parametrize(
    ("said", "is_ratio", "words"),
    [
        ("better", False, "better"),
        ("worse", False, "worse"),
        ("better", True, "quicker"),
        ("worse", True, "slower"),
        ("no difference shown", True, "no difference shown"),
        ("unknown", False, "too few cases to say"),
        ("not comparable", True, "not comparable"),
    ],
)
def test_a_verdict_is_put_in_words(said: Verdict, is_ratio: bool, words: str) -> None:
    one = compared(
        Bounded(value=1.0, low=0.5, high=2.0), said=said, is_ratio=is_ratio, higher=not is_ratio
    )

    assert verdict_words(one) == words


def test_a_sentence_calls_nothing_better_within_the_interval(tmp_path: Path) -> None:
    sides = hosted_document(tmp_path).sides
    within = compared(Bounded(value=0.01, low=-0.02, high=0.04))

    text = sentence(within, sides)

    assert "better" not in text
    assert text == (
        "structure: no difference shown (+0.010 [−0.020, +0.040] rho against api.wavespeed.ai, "
        "over 12 cases)."
    )


def test_a_sentence_says_why_nothing_was_measured(tmp_path: Path) -> None:
    sides = hosted_document(tmp_path).sides

    assert sentence(compared(None), sides) == "structure: not measured (no case has a pair)."


def test_the_sides_table_has_times_costs_and_counts(tmp_path: Path) -> None:
    sides = titled(tables(hosted_document(tmp_path)), "Suite standard")

    assert sides.headings == ("", "api.wavespeed.ai", "depthflux exact")
    assert cells(sides, "tasks completed") == ("23 of 24", "24 of 24")
    assert cells(sides, "failed, lost, not run") == ("1, 0, 0", "0, 0, 0")
    assert cells(sides, "USD a picture") == ("0.03", "0.000204")
    assert cells(sides, "called not safe") == ("1 of 23", "0 of 24")
    assert cells(sides, "total, p95, s")[1].endswith(", -] (1)")


def test_each_missing_figure_has_its_reason_once_below(tmp_path: Path) -> None:
    sides = titled(tables(hosted_document(tmp_path)), "Suite standard")

    assert cells(sides, "inference, p50, s")[0] == "- (3)"
    assert [line for line in sides.lines if line.startswith("(3)")] == [
        "(3) inference: the side did not report it."
    ]


def test_tables_of_a_run_in_which_all_failed_say_so() -> None:
    made = tables(failed_document())

    sides = titled(made, "Suite")
    assert cells(sides, "total, p50, s") == ("- (1)", "- (1)")
    assert "(1) no task was completed." in sides.lines
    failures = titled(made, "Tasks not completed")
    assert len(failures.rows) == 20
    assert failures.lines == ["And 4 more, in report.json."]
    assert "Speed" not in [table.title for table in made]


@pytest.mark.parametrize("kind", ["hosted", "profiles"])
def test_differences_of_pictures_say_what_they_mean(kind: str, tmp_path: Path) -> None:
    make = {"hosted": hosted_document, "profiles": profiles_document}[kind]

    apart = titled(tables(make(tmp_path)), "Difference")

    meaning = "nothing of which is better" if kind == "hosted" else "the same noise"
    assert ("no quality" in apart.title) is (kind == "hosted")
    assert meaning in apart.lines[-1]
    assert apart.rows[0] == ("SSIM, 0 to 1", "0.41 [0.36, 0.47]", "12")


def test_every_row_is_as_long_as_its_headings_and_every_cell_is_one_line(tmp_path: Path) -> None:
    hostile = "\x1b[31m red\nnext \u202e turned"
    documents = [
        hosted_document(tmp_path, notes=[hostile]),
        profiles_document(tmp_path),
        failed_document(hostile),
    ]

    for table in (table for document in documents for table in tables(document)):
        for row in [table.headings, *table.rows, tuple(table.lines)]:
            assert all(text == "" or text.isprintable() for text in row)
        assert {len(row) for row in table.rows} == {len(table.headings)}


def test_the_sides_table_fits_into_100_columns(tmp_path: Path) -> None:
    sides = titled(tables(hosted_document(tmp_path)), "Suite")

    widest = [max(len(row[column]) for row in [sides.headings, *sides.rows]) for column in range(3)]

    # A blank at both ends of each.
    assert sum(widest) + 2 * len(widest) <= WIDTH


def test_sides_of_the_same_label_are_told_apart(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    twins = [side.model_copy(update={"label": "depthflux exact"}) for side in document.sides]

    sides = titled(tables(document.model_copy(update={"sides": twins})), "Suite")

    assert sides.headings == ("", "depthflux exact (1)", "depthflux exact (2)")


def test_endless_texts_are_cut() -> None:
    assert len(as_line("x" * 1_000_000, 200)) == 200


def test_the_tables_import_neither_torch_nor_pictures() -> None:
    script = "import sys, depthflux.bench.report.table; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()

    assert {"torch", "scipy", "PIL", "jinja2"}.isdisjoint(loaded)


def test_a_reason_does_not_repeat_what_it_stands_beside() -> None:
    one = compared(None).model_copy(update={"missing": "Structure is not measured: no estimator"})
    other = compared(None).model_copy(update={"missing": "no case is not measured: odd"})

    assert why_missing(one) == "no estimator"
    assert why_missing(other) == "no case is not measured: odd"


def test_a_missing_bound_has_its_reason_below(tmp_path: Path) -> None:
    sides = titled(tables(hosted_document(tmp_path)), "Suite standard")

    assert sides.lines[0] == "(1) too few for the bounds that are missing: 24 values."


def test_labels_of_profiles_are_whole_beside_their_figures(tmp_path: Path) -> None:
    document = with_first(profiles_document(tmp_path), label="depthflux reference")

    table = titled(tables(document), "Quality")

    assert table.headings[1] == "depthflux reference"


def with_first(document: Document, **changed: object) -> Document:
    first, second = document.sides
    return document.model_copy(update={"sides": [first.model_copy(update=changed), second]})


def test_times_that_a_later_run_did_not_see_are_said_to_be_so(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    counts = document.sides[0].counts.model_copy(update={"timed": 0})
    nothing = TimeQuantiles(submit=None, queue=None, inference=None, download=None, total=None)

    sides = titled(
        tables(with_first(document, counts=counts, seconds=nothing, pictures_per_minute=None)),
        "Suite",
    )

    why = "no task was seen from its beginning, as where a later run polls on."
    for phase in ("total", "inference", "pictures a minute"):
        assert any(line.endswith(f"{phase}: {why}") for line in sides.lines)
    assert not any("did not report" in line or "not measured" in line for line in sides.lines)


def test_flagged_pictures_are_a_share_of_those_that_the_side_speaks_of(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    counts = document.sides[0].counts.model_copy(update={"told_safety": 20})

    sides = titled(tables(with_first(document, counts=counts)), "Suite")

    assert cells(sides, "called not safe")[0] == "1 of 20"


def test_each_side_says_how_it_was_asked(tmp_path: Path) -> None:
    recorded = with_first(hosted_document(tmp_path), concurrency=8, poll_interval_seconds=2.0)

    sides = titled(tables(recorded), "Suite")
    in_sync = titled(tables(with_first(recorded, sync_mode=True)), "Suite")

    assert cells(sides, "asked") == (
        "8 at a time, polls every 2 s",
        "2 at a time, polls every 0.5 s",
    )
    assert cells(in_sync, "asked")[0] == "8 at a time, sync mode"


def test_times_of_other_tasks_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    one_failed, all_there = hosted_document(tmp_path), profiles_document(tmp_path / "profiles")

    lines = [titled(tables(document), "Suite").lines for document in (one_failed, all_there)]

    said = ["not of the same tasks" in " ".join(of) for of in lines]
    assert said == [True, False]


def test_caveats_stand_below_the_table_once_and_name_their_measures(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    speed = [one.model_copy(update={"caveats": ["It was hot."]}) for one in document.speed]

    lines = titled(tables(document.model_copy(update={"speed": speed})), "Speed").lines

    assert lines.count("total time, inference time: It was hot.") == 1


def test_a_sentence_holds_what_it_cannot_be_read_without(tmp_path: Path) -> None:
    sides = hosted_document(tmp_path).sides
    better = compared(Bounded(value=0.1, low=0.02, high=0.2), said="better")

    text = sentence(better.model_copy(update={"caveats": ["The judge is its own."]}), sides)

    assert text.endswith("over 12 cases). The judge is its own.")
