"""Where results go: folders and files, checked before any work is done.

Knows nothing of what is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from depthflux.errors import OutputError
from depthflux.files import make_folder


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for results; where the block fails, take away the empty ones made for it.

    Raises:
        OutputError: it cannot be made or written.
    """
    folder = folder.expanduser()
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    make_folder(folder)
    try:
        yield folder
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise


def check_new_file(path: Path, *, force: bool) -> None:
    """See that a file may be written without losing one.

    Raises:
        OutputError: it is there already and `force` is not given, or it is a folder.
    """
    if path.is_dir():
        reason = "it is a folder; name a file in it"
    elif path.exists() and not force:
        reason = "it is there already; add --force to overwrite it"
    else:
        return
    raise OutputError(
        f"cannot write {path}: {reason}.",
        field="out",
        value=str(path),
        allowed="a file that is not there yet",
    )


def echo_json(document: dict[str, Any]) -> None:
    """Write one document to standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
