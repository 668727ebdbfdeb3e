"""Figures as strips of SVG, one a row of a table: an interval, a distribution, a pair of values.

A strip is as wide as its cell: positions are percent of the width and heights pixels, so nothing
is distorted or unreadable on a narrow screen. Colours come from the page's classes, and the first
side's marks are round and hollow, the second's filled diamonds, so that none is told by its colour
alone. What a strip shows is written beside it, so that readers of the page may skip it. Knows
nothing of where figures come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from depthflux.bench.document import Bounded, Compared, Quantiles
from depthflux.bench.report.words import figure

#: Room at both ends, in percent: half a mark, and half a number under the last tick.
_EDGE_PERCENT = 5.0
_STRIP_PIXELS, _AXIS_PIXELS, _FOREST_PIXELS = 24, 22, 44
_MIDDLE = _STRIP_PIXELS // 2
#: How far a forest's strip reaches beyond the farthest end of its interval.
_FOREST_ROOM = 1.15
#: Steps between ticks are one of these times a power of ten.
_STEPS = (1.0, 2.0, 5.0, 10.0)
_MOST_TICKS = 5


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`, both finite, `low` below `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value stands, in percent of the width; beyond the ends, at the end."""
        share = (value - self.low) / (self.high - self.low)
        return _EDGE_PERCENT + min(max(share, 0.0), 1.0) * (100.0 - 2 * _EDGE_PERCENT)

    def ticks(self) -> list[float]:
        """At most five round values within the axis."""
        rough = (self.high - self.low) / _MOST_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((step for step in _STEPS if step * power >= rough), _STEPS[-1]) * power
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def scale_of(values: Sequence[float | None], *, from_zero: bool = False) -> Scale | None:
    """An axis that holds all values with a little room; None where there is none to hold."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    low, high = (0.0 if from_zero else min(finite)), max(finite)
    # Equal values get an axis around them.
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return Scale(0.0 if from_zero else low - room, high + room)


def axis_strip(scale: Scale) -> Markup:
    """The ticks of an axis with their numbers."""
    parts = []
    for tick in scale.ticks():
        x = scale.at(tick)
        parts.append(_line(x, x, 0, 5, "tick"))
        parts.append(_text(x, 18, "0" if abs(tick) < 1e-12 else _tick(tick), "middle"))
    return _strip(_AXIS_PIXELS, parts)


def quantile_strip(measured: Quantiles, scale: Scale, side: int) -> Markup:
    """A side's p50 as its mark and p95 as a bar, each on its interval; `side` is 0 or 1."""
    at_95 = scale.at(measured.p95.value)
    parts = [
        _grid(scale, _STRIP_PIXELS),
        _interval_line(measured.p95, scale, f"thin side-{side}"),
        _line(at_95, at_95, _MIDDLE - 7, _MIDDLE + 7, f"bar side-{side}"),
        _interval_line(measured.p50, scale, f"thick side-{side}"),
        mark(scale.at(measured.p50.value), _MIDDLE, side),
    ]
    return _strip(_STRIP_PIXELS, parts)


def pair_strip(first: float | None, second: float | None, scale: Scale) -> Markup:
    """Both sides' values of one case, joined by a line; one alone where the other is missing."""
    parts = [_grid(scale, _STRIP_PIXELS)]
    if first is not None and second is not None:
        parts.append(_line(scale.at(first), scale.at(second), _MIDDLE, _MIDDLE, "join"))
    parts += [
        mark(scale.at(value), _MIDDLE, side)
        for side, value in enumerate((first, second))
        if value is not None
    ]
    return _strip(_STRIP_PIXELS, parts)


def forest_strip(compared: Compared) -> Markup | None:
    """A difference on its interval, the neutral value in the middle, the second side's good right.

    Each strip has its own scale, whose ends are written below it; of ratios it is logarithmic.
    None for a measure without a difference, or without a better.
    """
    bounded, higher = compared.difference, compared.higher_is_better
    if bounded is None or higher is None or not _can_be_drawn(bounded, compared.is_ratio):
        return None
    measured = _logarithms(bounded) if compared.is_ratio else bounded
    ends = (measured.value, measured.low, measured.high)
    reach = _FOREST_ROOM * max(abs(end) for end in ends if end is not None) or 1.0
    scale = _Forest(-reach, reach, is_mirrored=not higher)
    middle = 14
    parts = [
        _line(50, 50, 0, 28, "neutral"),
        _interval_line(measured, scale, "thick side-1", middle),
        mark(scale.at(measured.value), middle, 1),
        _text(50, 40, "1" if compared.is_ratio else "0", "middle"),
    ]
    for value in (-reach, reach):
        written = figure(math.exp(value), 2) if compared.is_ratio else _tick(value, 2)
        x = scale.at(value)
        parts.append(_text(x, 40, written, "middle"))
        parts.append(_line(x, x, 24, 28, "tick"))
    return _strip(_FOREST_PIXELS, parts)


def mark(x: float, y: float, side: int) -> Markup:
    """A side's mark: the first's a ring, the second's a diamond."""
    if side == 0:
        return Markup('<circle class="ring side-0" cx="{}%" cy="{}" r="6"/>').format(_short(x), y)
    # A square of its own, turned: polygons know no percent.
    return Markup(
        '<svg class="at" x="{}%" y="{}" overflow="visible">'
        '<path class="diamond side-1" d="M0 -5 L5 0 L0 5 L-5 0 Z"/></svg>'
    ).format(_short(x), y)


def legend_mark(side: int) -> Markup:
    """A side's mark alone, for a legend."""
    return Markup('<svg class="legend" width="16" height="16" aria-hidden="true">{}</svg>').format(
        mark(50, 8, side)
    )


def legend_bar() -> Markup:
    """The bar of the 95th percentile alone, for a legend."""
    bar = _line(50, 50, 1, 15, "bar")
    return Markup('<svg class="legend" width="16" height="16" aria-hidden="true">{}</svg>').format(
        bar
    )


@dataclass(frozen=True)
class _Forest(Scale):
    """An axis around the neutral value, mirrored where less is better."""

    is_mirrored: bool = False

    def at(self, value: float) -> float:
        return super().at(-value if self.is_mirrored else value)


def _can_be_drawn(bounded: Bounded, is_ratio: bool) -> bool:
    values = [end for end in (bounded.value, bounded.low, bounded.high) if end is not None]
    return all(math.isfinite(value) and (value > 0 or not is_ratio) for value in values)


def _logarithms(bounded: Bounded) -> Bounded:
    low, high = (
        None if bound is None else math.log(bound) for bound in (bounded.low, bounded.high)
    )
    return Bounded(value=math.log(bounded.value), low=low, high=high)


def _interval_line(bounded: Bounded, scale: Scale, classes: str, y: int = _MIDDLE) -> Markup:
    """From bound to bound; where one is missing, dashed from the value to the axis' end."""
    parts = []
    for bound, end in ((bounded.low, scale.low), (bounded.high, scale.high)):
        is_open = bound is None
        x = scale.at(end if bound is None else bound)
        parts.append(
            _line(scale.at(bounded.value), x, y, y, f"{classes} open" if is_open else classes)
        )
    return Markup("").join(parts)


def _grid(scale: Scale, height: int) -> Markup:
    lines = [_line(x, x, 0, height, "grid") for x in map(scale.at, scale.ticks())]
    return Markup("").join(lines)


def _line(x1: float, x2: float, y1: float, y2: float, classes: str) -> Markup:
    return Markup('<line class="{}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>').format(
        classes, _short(x1), _short(x2), y1, y2
    )


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{}%" y="{}" text-anchor="{}">{}</text>').format(
        _short(x), y, anchor, words
    )


def _strip(height: int, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="strip" width="100%" height="{}" aria-hidden="true" focusable="false">{}</svg>'
    ).format(height, Markup("").join(escape(part) for part in parts))


def _tick(value: float, digits: int = 2) -> str:
    """A number on an axis: without the zeros that only fill it up."""
    text = figure(abs(value), digits)
    text = text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
    return f"−{text}" if value < 0 else text


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
