"""The `depthflux` log on standard error, one line a message: `warning: …`, with -v also `info: …`.

Knows nothing of what is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import click

from depthflux.logs import OneLineFormatter, log_to_standard_error, one_line

Command = TypeVar("Command", bound=Callable[..., Any])

logger = logging.getLogger("depthflux")


class StandardErrorHandler(logging.Handler):
    """Writes to whatever standard error is at that moment; a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message as one line, and below it the traceback that it may have."""
        click.echo(self.format(record), err=True)


@contextmanager
def show_messages(level: int) -> Iterator[None]:
    """Show our messages of at least a level, until the block ends."""
    handler, before = StandardErrorHandler(), logger.level
    handler.setFormatter(OneLineFormatter())
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def verbose_option(command: Command) -> Command:
    """Add -v/--verbose, and let the command's log be seen."""
    return _verbose(command, show_messages)


def server_verbose_option(command: Command) -> Command:
    """The same for a command that strangers talk to: what libraries say of them is in one form."""
    return _verbose(command, log_to_standard_error)


def _verbose(command: Command, show: Callable[[int], AbstractContextManager[None]]) -> Command:
    def start_log(ctx: click.Context, _parameter: click.Parameter, verbose: bool) -> bool:
        ctx.with_resource(show(logging.INFO if verbose else logging.WARNING))
        return verbose

    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        # Eager, so that other options' callbacks can log.
        is_eager=True,
        expose_value=False,
        callback=start_log,
        help="Also say what is being done, on standard error.",
    )(command)


def say(text: str) -> None:
    """Tell the person at the terminal something that is neither result nor warning."""
    click.echo(one_line(text), err=True)
