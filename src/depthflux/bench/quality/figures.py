"""A figure or why there is none, and a model's folder or why there is none.

What was not measured is no error: a comparison goes on without it and says so. Knows nothing of
any measure.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Measured(NamedTuple):
    """One figure.

    Attributes:
        value: finite; None where it was not measured.
        missing: why not, one line without a full stop; empty where it was.
    """

    value: float | None
    missing: str = ""


class Found(NamedTuple):
    """A model on this machine.

    Attributes:
        path: its folder or file; None where there is none.
        missing: what was looked for and where, one line without a full stop; empty where there is.
    """

    path: Path | None
    missing: str = ""
