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
    """A server gave no answer, or none just now; it may give one in a moment.

    Attributes:
        was_sent: whether the request may have arrived.
        wait_s: how long the server asks to be left alone, in seconds; 0 where it does not say.
    """

    def __init__(self, message: str, *, was_sent: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.was_sent, self.wait_s = was_sent, wait_s


def show(value: object) -> str:
    """A value as a message repeats it: its `repr`, in one line, cut after 60 characters."""
    text = " ".join(repr(value).split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_SHOWN])
    return printable if len(text) <= _MOST_SHOWN else printable[:-1] + "…"


def tell(text: object) -> str:
    """A server's own words as a message repeats them: one line of printable characters, cut."""
    words = " ".join(str(text)[: 4 * _MOST_TOLD].split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    return printable if len(printable) <= _MOST_TOLD else printable[: _MOST_TOLD - 1] + "…"


def tell_sentence(text: object) -> str:
    """A server's own words with a full stop; that it said nothing, where it did."""
    words = tell(text) if text else "without a word"
    return words if words.endswith((".", "…", "!", "?")) else f"{words}."
