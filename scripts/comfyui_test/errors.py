"""What ends a check, and what ends all of them."""

from __future__ import annotations


class CheckFailedError(Exception):
    """What came is not what should have; one line."""


class CannotRunError(Exception):
    """There is nothing to check in: no ComfyUI, or it does not start; one line."""
