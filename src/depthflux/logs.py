"""Log records as lines that nobody can forge: one line a message, nothing a terminal acts on.

What is logged may hold a prompt, a file's name or another library's words, which come from anyone.
A line break in them would begin a line that looks like one of ours, and an escape sequence would
paint over others. So everything but printable characters is spelt out; the lines of a traceback
stand below their message, each behind a bar that no message of ours begins with.

Knows nothing of what is said, or of where it is written.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

#: What stands before each line of a traceback.
BAR = "  | "

#: From which level on a logger is heard. Of libraries, such as uvicorn and asyncio, only what is
#: wrong: httpx would tell addresses, which hold secrets. What is wrong with a form goes into its
#: answer; here anybody could fill the log with it.
_HEARD = {"": logging.WARNING, "python_multipart": logging.ERROR}


class OneLineFormatter(logging.Formatter):
    """`warning: …`, and a traceback behind bars below it."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line, or as several where it has a traceback."""
        lines = [f"{record.levelname.lower()}: {one_line(record.getMessage())}"]
        if record.exc_info and record.exc_info[1] is not None:
            pieces = traceback.format_exception(record.exc_info[1])
            lines += [BAR + plain(line) for line in "".join(pieces).splitlines()]
        return "\n".join(lines)


@contextmanager
def log_to_standard_error(level: int = logging.INFO) -> Iterator[None]:
    """Show what a server's process logs on standard error, libraries' words too, until it ends.

    Args:
        level: of the messages of ours that are shown.
    """
    root, handler = logging.getLogger(), logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    heard = {logging.getLogger(name): least for name, least in _HEARD.items()}
    heard[logging.getLogger("depthflux")] = level
    before = {logger: logger.level for logger in heard}
    root.addHandler(handler)
    for logger, least in heard.items():
        logger.setLevel(least)
    # Python's own warnings would take two lines each.
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, least in before.items():
            logger.setLevel(least)
        root.removeHandler(handler)


def one_line(text: str) -> str:
    """The same words on one line, with nothing in them that a terminal would act on.

    File names, records and request files come from anyone; escape sequences and characters that
    turn the writing direction are spelt out.
    """
    return plain(" ".join(text.split()))


def plain(text: str) -> str:
    """The same text with everything spelt out that is not printable."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
