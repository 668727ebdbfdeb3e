"""How far a run is: a bar on a terminal, a line every ten seconds elsewhere; standard error only.

Knows nothing of what the steps are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from depthflux.cli.messages import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

#: Seconds between two lines where there is no terminal; quick runs stay silent.
LINE_INTERVAL_S = 10.0


class StepProgress:
    """Shows the progress of one run; use it as a context manager.

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
            self._bar.add_task("loading", total=None, count="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def phase(self, name: str) -> None:
        """Say what is being done now, in a word or two; the interval of lines begins anew."""
        self._last_line = self._clock()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=name)

    def on_step(self, step: int, total: int) -> None:
        """Take note of a finished denoising step; what `Engine.generate` calls."""
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                description="denoising" if step < total else "decoding",
                completed=step,
                total=total,
                count=f"{step}/{total}",
            )
        elif self._clock() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = self._clock()
            say(f"step {step} of {total}")


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=40),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=console,
        # Afterwards the results alone are of interest.
        transient=True,
    )
