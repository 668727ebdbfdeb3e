"""Figures, intervals and verdicts in words, the same on the terminal and on the page.

Every text that came from outside (a label, an error, a note) passes through `as_line` here, so that
nothing in it can act on a terminal or turn the reading direction. Knows nothing of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from depthflux.bench.document import Bounded, Compared, Side, Verdict
from depthflux.bench.wording import count
from depthflux.logs import one_line

#: What stands where a figure could not be measured.
NOTHING = "-"
#: Digits that count: of times between two machines the third is noise already.
DIGITS = 3
#: More decimals than these say nothing of any measure here.
_MOST_DECIMALS = 6
_ABBREVIATIONS = ("ssim", "psnr", "lpips", "clip")

#: Said of the second side against the first.
VERDICTS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "no difference shown": "no difference shown",
    "unknown": "too few cases to say",
    "not comparable": "not comparable",
}


def as_line(text: str, most: int = 2000) -> str:
    """A text from outside as one line of printable characters, cut where it is endless."""
    line = one_line(text[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


def figure(value: float, digits: int = DIGITS, *, not_as: float | None = None) -> str:
    """A number with so many digits that count, such as `0.0412`; below a millionth as `4e-08`.

    Whole digits are never cut: 1234 stays 1234. With `not_as` there are so many more that it does
    not read as that number, unless it is that number.
    """
    if not_as is not None and value != not_as and float(figure(value, digits)) == not_as:
        return _apart(value, not_as)
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) < 10**-_MOST_DECIMALS:
        return f"{value:.0e}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), _MOST_DECIMALS)}f}"


def seconds(value: float) -> str:
    """A time such as `4.21 s`."""
    return f"{figure(value)} s"


def dollars(value: float | None) -> str:
    """An amount of USD with two decimals or more, such as `0.03` or `0.000204`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = figure(value)
    if "." not in text or "e" in text:
        return text
    whole, decimals = text.split(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def with_interval(bounded: Bounded, *, signed: bool = False, neutral: float | None = None) -> str:
    """A figure and its interval of 95 %, such as `4.2 [3.9, 4.6]`.

    Two digits of the interval's width are written, since the interval says how many count; a dash
    stands for a bound that there is none of. Where the interval leaves out a neutral value, no end
    of it is rounded to that: `1.8 [1.004, 3.8]`.
    """
    decimals = _decimals(bounded)
    not_as = neutral if neutral is not None and _leaves_out(bounded, neutral) else None
    value, low, high = (
        _written(number, decimals, signed=signed, not_as=not_as)
        for number in (bounded.value, bounded.low, bounded.high)
    )
    return f"{value} [{low}, {high}]"


def difference(compared: Compared) -> str:
    """The difference with its interval: a ratio with a cross, else with its sign."""
    if compared.difference is None:
        return NOTHING
    if compared.is_ratio:
        return f"× {with_interval(compared.difference, neutral=1.0)}"
    if compared.higher_is_better is None:
        return with_interval(compared.difference)
    return with_interval(compared.difference, signed=True, neutral=0.0)


def name_of(compared: Compared) -> str:
    """The measure's name as a reader would write it: `prompt agreement`, `SSIM`, `total time`."""
    words = as_line(compared.name).split("_")
    return " ".join(word.upper() if word in _ABBREVIATIONS else word for word in words)


def with_unit(compared: Compared) -> str:
    """The measure's name and unit, such as `structure, Spearman's rho`; once where they agree."""
    name, unit = name_of(compared), as_line(compared.unit)
    return name if name.lower() == unit.lower() else f"{name}, {unit}"


def why_missing(compared: Compared) -> str:
    """Why a measure has no figure, without the measure's name, which stands beside it anyway."""
    said, middle, reason = as_line(compared.missing).partition(" is not measured: ")
    return (
        reason if middle and said.lower() == name_of(compared).lower() else said + middle + reason
    )


def verdict_words(compared: Compared) -> str:
    """The verdict on the second side in words; for times `quicker` and `slower`."""
    if compared.difference is None:
        return "not measured"
    if compared.is_ratio and compared.higher_is_better is False:
        quick: dict[Verdict, str] = {"better": "quicker", "worse": "slower"}
        return quick.get(compared.verdict, VERDICTS[compared.verdict])
    return VERDICTS[compared.verdict]


def sentence(compared: Compared, sides: Sequence[Side]) -> str:
    """A measure's result that nobody can read as more than it is: one sentence, and its caveats."""
    name, (first, second) = name_of(compared), labels(sides)
    if compared.difference is None:
        return f"{name}: not measured ({why_missing(compared).rstrip('.')})."
    said = verdict_words(compared)
    if compared.verdict in ("better", "worse"):
        said = f"{second} is {said}"
    if compared.is_ratio:
        figures = f"{difference(compared).removeprefix('× ')} times as long as {first}"
    else:
        figures = f"{difference(compared)} {as_line(compared.unit)} against {first}"
    result = f"{name}: {said} ({figures}, over {count(compared.cases, 'case')})."
    return " ".join([result, *map(as_line, compared.caveats)])


def labels(sides: Sequence[Side], most: int = 80) -> tuple[str, str]:
    """Both sides' names for people; with `(1)` and `(2)` where they read the same."""
    first, second = (as_line(side.label, most) for side in sides)
    return (f"{first} (1)", f"{second} (2)") if first == second else (first, second)


def how_asked(side: Side) -> str:
    """How a side was asked, such as `2 at a time, polls every 0.5 s`."""
    way = "sync mode" if side.sync_mode else f"polls every {side.poll_interval_seconds:g} s"
    return f"{side.concurrency} at a time, {way}"


def caveat_lines(measures: Sequence[Compared]) -> list[str]:
    """What has to be read together with some measures, each said once and of which it is."""
    names: dict[str, list[str]] = {}
    for compared in measures:
        for caveat in compared.caveats:
            names.setdefault(as_line(caveat), []).append(name_of(compared))
    return [f"{', '.join(of)}: {caveat}" for caveat, of in names.items()]


def _decimals(bounded: Bounded) -> int | None:
    """So many that the interval's width has two digits; None where it has no width."""
    ends = [end for end in (bounded.low, bounded.value, bounded.high) if end is not None]
    width = max(ends) - min(ends)
    if not 0 < width < math.inf:
        return None
    return min(max(1 - math.floor(math.log10(width)), 0), _MOST_DECIMALS)


def _leaves_out(bounded: Bounded, neutral: float) -> bool:
    return (bounded.low is not None and bounded.low > neutral) or (
        bounded.high is not None and bounded.high < neutral
    )


def _apart(value: float, other: float) -> str:
    """A number with so few decimals that it does not read as the other one."""
    for decimals in range(_MOST_DECIMALS + 1):
        text = f"{value:.{decimals}f}"
        if float(text) != other:
            return text
    return f"{'>' if value > other else '<'}{other:g}"


def _written(
    value: float | None, decimals: int | None, *, signed: bool, not_as: float | None
) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    # A true minus, since a hyphen also stands for what is missing.
    text = figure(abs(value)) if decimals is None else f"{abs(value):.{decimals}f}"
    if not_as is not None and float(text) == not_as:
        text = _apart(value, not_as).removeprefix("-")
        if not text[0].isdigit():
            return text
    if value < 0 and float(text) != 0:
        return f"−{text}"
    return f"+{text}" if signed and float(text) != 0 else text
