"""Figures, intervals and verdicts in words, the same on the terminal and on the page.

Every text that came from outside (a label, an error, a note) passes through `plain` here, so that
nothing in it can act on a terminal or turn the reading direction. Knows nothing of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from depthflux.bench.hosted.document import Bounded, Compared, Side, Verdict
from depthflux.logs import one_line

#: What stands where a figure could not be measured.
NOTHING = "-"
#: Digits that count: of times between two machines the third is noise already.
DIGITS = 3
#: More decimals than these say nothing of any measure here.
_MOST_DECIMALS = 6
#: What a measure's name need not say, where its unit does.
_UNITS_IN_NAMES = {"seconds": "seconds", "s": "seconds", "dB": "db"}
_ABBREVIATIONS = ("ssim", "psnr", "lpips", "clip")

#: Said of the second side against the first.
VERDICTS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "no difference shown": "no difference shown",
    "unknown": "too few cases to say",
}


def plain(text: str, most: int = 2000) -> str:
    """A text from outside as one line of printable characters, cut where it is endless."""
    line = one_line(text[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


def figure(value: float, digits: int = DIGITS) -> str:
    """A number with so many digits that count, such as `0.0412`; below a millionth as `4e-08`.

    Whole digits are never cut: 1234 stays 1234.
    """
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


def with_interval(bounded: Bounded, *, signed: bool = False) -> str:
    """A figure and its interval of 95 %, such as `4.2 [3.9, 4.6]`.

    Two digits of the interval's width are written, since the interval says how many count; a dash
    stands for a bound that there is none of.
    """
    decimals = _decimals(bounded)
    value, low, high = (
        _written(number, decimals, signed=signed)
        for number in (bounded.value, bounded.low, bounded.high)
    )
    return f"{value} [{low}, {high}]"


def difference(compared: Compared) -> str:
    """The difference with its interval: a ratio with a cross, else with its sign."""
    if compared.difference is None:
        return NOTHING
    if compared.is_ratio:
        return f"× {with_interval(compared.difference)}"
    return with_interval(compared.difference, signed=compared.higher_is_better is not None)


def name_of(compared: Compared) -> str:
    """The measure's name as a reader would write it: `prompt agreement`, `SSIM`, `total`."""
    words = plain(compared.name).split("_")
    if compared.unit in _UNITS_IN_NAMES and words[-1].lower() == _UNITS_IN_NAMES[compared.unit]:
        words = words[:-1] or words
    return " ".join(word.upper() if word in _ABBREVIATIONS else word for word in words)


def with_unit(compared: Compared) -> str:
    """The measure's name and unit, such as `structure, Spearman's rho`; once where they agree."""
    name, unit = name_of(compared), plain(compared.unit)
    return name if name.lower() == unit.lower() else f"{name}, {unit}"


def why_missing(compared: Compared) -> str:
    """Why a measure has no figure, without the measure's name, which stands beside it anyway."""
    said, middle, reason = plain(compared.missing).partition(" is not measured: ")
    return (
        reason if middle and said.lower() == name_of(compared).lower() else said + middle + reason
    )


def verdict(compared: Compared) -> str:
    """The verdict on the second side in words; for times `quicker` and `slower`."""
    if compared.difference is None:
        return "not measured"
    if compared.is_ratio and compared.higher_is_better is False:
        quick: dict[Verdict, str] = {"better": "quicker", "worse": "slower"}
        return quick.get(compared.verdict, VERDICTS[compared.verdict])
    return VERDICTS[compared.verdict]


def sentence(compared: Compared, sides: Sequence[Side]) -> str:
    """A measure's result as one sentence that nobody can read as more than it is."""
    name, (first, second) = name_of(compared), labels(sides)
    if compared.difference is None:
        return f"{name}: not measured ({why_missing(compared).rstrip('.')})."
    said = verdict(compared)
    if compared.verdict in ("better", "worse"):
        said = f"{second} is {said}"
    if compared.is_ratio:
        figures = f"{with_interval(compared.difference)} times as long as {first}"
    else:
        difference = with_interval(compared.difference, signed=True)
        figures = f"{difference} {plain(compared.unit)} against {first}"
    return f"{name}: {said} ({figures}, over {count(compared.cases, 'case')})."


def labels(sides: Sequence[Side], most: int = 80) -> tuple[str, str]:
    """Both sides' names for people; with `(1)` and `(2)` where they read the same."""
    first, second = (plain(side.label, most) for side in sides)
    return (f"{first} (1)", f"{second} (2)") if first == second else (first, second)


def count(number: int, thing: str) -> str:
    """`1 case`, `12 cases`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _decimals(bounded: Bounded) -> int | None:
    """So many that the interval's width has two digits; None where it has no width."""
    ends = [end for end in (bounded.low, bounded.value, bounded.high) if end is not None]
    width = max(ends) - min(ends)
    if not 0 < width < math.inf:
        return None
    return min(max(1 - math.floor(math.log10(width)), 0), _MOST_DECIMALS)


def _written(value: float | None, decimals: int | None, *, signed: bool) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    # A true minus, since a hyphen also stands for what is missing.
    text = figure(abs(value)) if decimals is None else f"{abs(value):.{decimals}f}"
    if value < 0 and float(text) != 0:
        return f"−{text}"
    return f"+{text}" if signed and float(text) != 0 else text
