"""Why a run cannot be made here. Knows nothing of what a run finds."""

from __future__ import annotations


class ChaosError(Exception):
    """What this machine lacks, or what was asked for and cannot be; one line with what to do."""
