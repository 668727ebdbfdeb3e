"""A suite in a run's folder: `suite.toml` and the control images in `control/`, whole in itself.

Every field is written out, so that no later default can change what was asked for, and a case
names its picture in the folder, so that `--suite RUN/suite.toml` is a suite like any other.

Knows nothing of runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from depthflux.bench.hosted.controls import write_controls
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.run_files import SUITE
from depthflux.bench.hosted.suites import Case, Suite, load_suite

#: TOML allows no DEL in a text, JSON does.
_DEL = "\x7f"


def write_suite(suite: Suite, folder: RunFolder) -> None:
    """Write a suite and every case's control image as it is uploaded.

    Raises:
        InvalidParameterError: a file is not the one that the suite was read with.
        UnreadableImageError: it is no picture any more.
        OutputError: the folder cannot be written.
    """
    pictures = write_controls(suite, folder)
    folder.write(SUITE, "\n".join(_lines(suite, pictures)).encode())


def read_suite(run: Path, *, name: str, sha256: str) -> Suite:
    """The suite that stands in a run's folder.

    Args:
        run: the folder, whose files were compared with its manifest.
        name: of the suite that it was written from.
        sha256: likewise.

    Raises:
        InvalidParameterError: it is no suite.
    """
    return replace(load_suite(run / SUITE), name=name, sha256=sha256)


def _lines(suite: Suite, pictures: list[str]) -> Iterator[str]:
    yield f"description = {_value(suite.description)}"
    for case, picture in zip(suite.cases, pictures, strict=True):
        yield ""
        yield "[[case]]"
        yield from _case_lines(case, picture)
    yield ""


def _case_lines(case: Case, picture: str) -> Iterator[str]:
    yield f"name = {_value(case.name)}"
    yield f"control_image = {_value(picture)}"
    for name, value in case.fields.items():
        yield f"{name} = {_value(value)}"


def _value(value: object) -> str:
    """A text, number or truth in TOML, which writes them as JSON does."""
    return json.dumps(value, ensure_ascii=False).replace(_DEL, "\\u007f")
