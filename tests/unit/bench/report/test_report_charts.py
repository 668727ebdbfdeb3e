"""Strips of SVG: where marks stand, and what is missing."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from depthflux.bench.document import Bounded, Compared, Quantiles
from depthflux.bench.report.charts import (
    Scale,
    axis_strip,
    forest_strip,
    pair_strip,
    quantile_strip,
    scale_of,
)


def compared(value: float, low: float | None, high: float | None, **given: object) -> Compared:
    values: dict[str, object] = {
        "name": "structure",
        "unit": "rho",
        "how": "",
        "higher_is_better": True,
        "first": None,
        "second": None,
        "difference": Bounded(value=value, low=low, high=high),
        "is_ratio": False,
        "cases": 12,
        "verdict": "unknown",
        "missing": "",
        "caveats": [],
    }
    return Compared.model_validate({**values, **given})


def parsed(strip: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(strip))  # noqa: S314 - our own SVG


def mark_x(strip: object, name: str) -> float:
    """Where a side's mark stands, in percent: of the ring its centre, of the diamond its corner."""
    tree = parsed(strip)
    if name == "ring":
        return float(tree.find(".//circle").attrib["cx"].rstrip("%"))  # type: ignore[union-attr]
    return float(tree.find(".//svg").attrib["x"].rstrip("%"))  # type: ignore[union-attr]


def test_a_scale_holds_all_values_and_has_few_round_ticks() -> None:
    scale = scale_of([4.1, 9.3, None, math.inf])

    assert scale is not None
    assert scale.low < 4.1
    assert scale.high > 9.3
    assert scale.ticks() == [4.0, 6.0, 8.0] or scale.ticks() == [5.0, 6.0, 7.0, 8.0, 9.0]


def test_a_scale_of_one_value_has_a_width() -> None:
    for value in (0.0, 1e-9, 0.93, -5.0, 1e12):
        scale = scale_of([value, value])

        assert scale is not None
        assert scale.low < value < scale.high
        assert 1 <= len(scale.ticks()) <= 6


def test_a_scale_of_nothing_is_none() -> None:
    assert scale_of([None, math.nan]) is None


def test_values_beyond_a_scale_stand_at_its_end() -> None:
    scale = Scale(0.0, 1.0)

    assert scale.at(7.0) == scale.at(1.0) == 95.0
    assert scale.at(-7.0) == scale.at(0.0) == 5.0


def test_a_pair_s_marks_stand_in_the_order_of_their_values() -> None:
    strip = pair_strip(8.0, 4.0, Scale(0.0, 10.0))

    assert mark_x(strip, "diamond") < mark_x(strip, "ring")
    assert 'class="join"' in strip


def test_a_pair_with_one_value_has_one_mark_and_no_line_between() -> None:
    strip = pair_strip(None, 4.0, Scale(0.0, 10.0))

    assert "diamond" in strip
    assert "ring" not in strip
    assert 'class="join"' not in strip


def test_a_better_second_side_stands_right_of_the_neutral_line() -> None:
    assert mark_x(forest_strip(compared(0.02, 0.01, 0.03)), "diamond") > 50
    assert mark_x(forest_strip(compared(-0.02, -0.03, -0.01)), "diamond") < 50


def test_a_quicker_second_side_stands_right_of_the_neutral_line_too() -> None:
    quicker = compared(0.5, 0.4, 0.6, is_ratio=True, higher_is_better=False)
    slower = compared(2.0, 1.8, 2.2, is_ratio=True, higher_is_better=False)

    right, left = (mark_x(forest_strip(one), "diamond") for one in (quicker, slower))

    assert right > 50 > left


def test_a_ratio_and_its_inverse_stand_equally_far_from_the_neutral_line() -> None:
    there, back = (
        forest_strip(compared(value, value / 1.2, value * 1.2, is_ratio=True))
        for value in (0.5, 2.0)
    )

    assert 50 - mark_x(there, "diamond") == pytest.approx(mark_x(back, "diamond") - 50)


@pytest.mark.parametrize(
    "one",
    [
        compared(0.02, 0.01, 0.03, higher_is_better=None),
        compared(0.02, 0.01, 0.03, difference=None),
        compared(math.nan, None, None),
        compared(0.0, 0.0, 0.0, is_ratio=True),
    ],
    ids=["no better", "no difference", "no number", "no logarithm"],
)
def test_what_cannot_be_drawn_has_no_strip(one: Compared) -> None:
    assert forest_strip(one) is None


def test_a_missing_bound_is_a_dashed_line_to_the_end() -> None:
    measured = Quantiles(
        count=24,
        p50=Bounded(value=4.0, low=3.5, high=4.5),
        p95=Bounded(value=6.0, low=5.0, high=None),
    )

    strip = parsed(quantile_strip(measured, Scale(0.0, 10.0), 0))

    dashed = [line for line in strip.iter("line") if "open" in line.attrib["class"].split()]
    assert [(line.attrib["x1"], line.attrib["x2"]) for line in dashed] == [("59%", "95%")]


def test_strips_are_well_formed_without_inline_style_and_hidden_from_readers() -> None:
    measured = Quantiles(
        count=1,
        p50=Bounded(value=4.0, low=None, high=None),
        p95=Bounded(value=4.0, low=None, high=None),
    )
    scale = Scale(3.0, 5.0)

    for strip in (
        axis_strip(scale),
        quantile_strip(measured, scale, 1),
        pair_strip(3.1, 4.4, scale),
        forest_strip(compared(0.0, 0.0, 0.0)),
    ):
        assert parsed(strip).attrib["aria-hidden"] == "true"
        assert re.search(r"\b(style|href|on\w+)=|nan|inf", str(strip)) is None
