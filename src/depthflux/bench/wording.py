"""Numbers of things in words, the same in notes, reports and lines on the way.

Knows nothing of what is counted.
"""

from __future__ import annotations


def count(number: int, thing: str) -> str:
    """`1 case`, `12 cases`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def which(number: int, one: str, many: str) -> str:
    """The word that goes with a number: `lacks` with 1, else `lack`."""
    return one if number == 1 else many
