"""How far a transfer is: a bar on a terminal, a line every ten seconds elsewhere; standard error.

Knows nothing of what the bytes are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from depthflux.cli.messages import say
from depthflux.cli.progress import LINE_INTERVAL_S
from depthflux.logs import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


#: Characters of a file's name beside the bar; with it the line fits into 80 columns.
NAME_WIDTH = 24


class BytesProgress:
    """Shows the progress of one transfer; use it as a context manager.

    Args:
        clock: tells seconds; another one for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_line = clock()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = _bar(console)
            self._bar.start()
            self._bar.add_task("asking the Hub", total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_bytes(self, name: str, done: int, total: int) -> None:
        """Take note of how many bytes there are by now, of all; `name` is the present file's."""
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], description=_end_of(name), completed=done, total=total
            )
        elif self._clock() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = self._clock()
            say(f"{name}: {in_words(done)} of {in_words(total)}")


def in_words(count: int) -> str:
    """A number of bytes, such as `1.24 GB`; decimal units, as disks and the Hub count."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


def _end_of(name: str) -> str:
    """A name's end, where shards differ."""
    name = one_line(name)
    return name if len(name) <= NAME_WIDTH else "…" + name[1 - NAME_WIDTH :]


def _bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        # Not as markup: names may hold brackets.
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    )
