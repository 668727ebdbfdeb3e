"""What the tests of the outside view share: a way to call the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

import pytest
from click.testing import CliRunner, Result


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """Call `depthflux` with words; unexpected exceptions fail the test with their traceback."""
    from depthflux.cli.root import root

    def call(*words: object, given: bytes | str | IO[bytes] | None = None) -> Result:
        return CliRunner().invoke(
            root, [str(word) for word in words], input=given, terminal_width=100
        )

    return call
