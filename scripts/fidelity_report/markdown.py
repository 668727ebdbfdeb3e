"""Figures as Markdown: paragraphs, tables, cells. Knows nothing of what they mean."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

WIDTH = 110


def prose(text: str) -> str:
    """A paragraph, wrapped; how the source wraps it does not matter."""
    return wrapped(text, indent="") + "\n\n"


def listed(items: Iterable[str]) -> str:
    """A list, one item a paragraph."""
    return "\n".join("- " + wrapped(item, indent="  ") for item in items) + "\n\n"


def wrapped(text: str, indent: str) -> str:
    """Lines of at most WIDTH, the later ones indented."""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH - len(indent),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table and the empty line behind it."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n\n"


def ranged(spread: Mapping[str, float]) -> str:
    """Such as `0.89 [0.84, 0.94]`."""
    if spread["max"] < 0.001:
        return number(spread["median"])
    return f"{spread['median']:.2f} [{spread['min']:.2f}, {spread['max']:.2f}]"


def number(value: float) -> str:
    """Two digits, small ones as a power of ten."""
    return "0" if value == 0 else f"{value:.2g}"


def percent(share: float) -> str:
    """Two digits of a percentage."""
    return "0 %" if share == 0 else f"{100 * share:.2g} %"


def megabytes(count: int) -> str:
    """Millions of bytes."""
    return f"{count / 1e6:.1f} MB" if count else "none"


def kept(truth: bool) -> str:
    """Whether a promise was kept."""
    return "yes" if truth else "**no**"


def names(tests: Iterable[str]) -> str:
    """Test names, each as code."""
    return ", ".join(f"`{name}`" for name in tests)
