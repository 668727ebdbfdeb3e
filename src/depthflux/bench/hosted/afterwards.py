"""What is done at the end of a block however it ends, and never hides what has ended it.

A full disk, for one, fails the writing of what is worth keeping, and then that of what is left to
be noted; only the first says what is lost. Knows nothing of what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from depthflux.errors import DepthFluxError


@contextmanager
def afterwards(act: Callable[[], object]) -> Iterator[None]:
    """Act once the block has ended, whatever ends it.

    Raises:
        DepthFluxError: the acting's, where the block has raised nothing itself.
    """
    try:
        yield
    except BaseException:
        with suppress(DepthFluxError):
            act()
        raise
    act()
