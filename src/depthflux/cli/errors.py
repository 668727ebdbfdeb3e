"""Exceptions → one line on standard error and an exit code.

The exit code is the error class's own (depthflux.errors). Exceptions that are nobody's intention
pass through: their traceback is what a bug report needs, and Python exits with 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
from click.exceptions import NoArgsIsHelpError

from depthflux.errors import CancelledError, DepthFluxError
from depthflux.logs import one_line


class OneLineError(click.ClickException):
    """What click shows of an error: one line that begins with `error:`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(one_line(message))
        # click declares it for the class; here it is the error's own.
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line, by default to standard error."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn depthflux's and click's errors, and Ctrl-C, into `OneLineError`."""
    try:
        yield
    except NoArgsIsHelpError:  # no error to tell: it shows the help
        raise
    except click.UsageError as error:
        raise OneLineError(_usage_line(error), error.exit_code) from error
    except DepthFluxError as error:
        raise OneLineError(str(error), error.exit_code) from error
    except KeyboardInterrupt as error:
        # Closes the line on which the terminal has shown ^C.
        click.echo(err=True)
        raise OneLineError("cancelled; nothing was written.", CancelledError.exit_code) from error


def _usage_line(error: click.UsageError) -> str:
    message = error.format_message()
    if not message.endswith((".", "?", ")")):
        message += "."
    return f"{message} See: {error.ctx.command_path} --help." if error.ctx else message
