"""What is shown on a node: one line of ours.

Knows nothing of ComfyUI, which shows the message of whatever a node raises.
"""

from __future__ import annotations

#: How much of a stranger's value a message repeats.
_MOST_SHOWN = 60
#: How much of a server's own message it repeats.
_MOST_TOLD = 600


class NodeError(Exception):
    """What is wrong, what is allowed, and what to do, in one line."""


class NoAnswerError(NodeError):
    """A server gave no answer, or none just now; it may give one in a moment."""


def show(value: object) -> str:
    """A value as a message repeats it: its `repr`, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def tell(text: object) -> str:
    """A server's own words as a message repeats them: one line of printable characters, cut."""
    words = " ".join(str(text)[: 4 * _MOST_TOLD].split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    return printable if len(printable) <= _MOST_TOLD else printable[: _MOST_TOLD - 1] + "…"
