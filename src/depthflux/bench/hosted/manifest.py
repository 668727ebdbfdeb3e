"""The manifest of a run's folder: every file with its size and sha256.

A recording is believed only where each file is what the manifest says and no other file is there.
That shows damage and carelessness; who changes a recording on purpose can write a manifest, too,
whose own sum, told elsewhere, is what a person can compare.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from depthflux.bench.hosted.folder import MANIFEST, RunFolder, bad_folder, inside, read_part
from depthflux.bench.hosted.outcomes import Strict
from depthflux.errors import show
from depthflux.files import is_regular, sha256_of_file

#: How many differences a message tells.
MOST_TOLD = 20


class Entry(Strict):
    """One file.

    Attributes:
        file: its path in the folder, with slashes.
        bytes: its size.
        sha256: 64 hexadecimal digits.
    """

    file: str
    bytes: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Strict):
    """All files of a run but this one, sorted by path.

    Attributes:
        files: one entry each.
    """

    files: list[Entry]


def write_manifest(folder: RunFolder) -> Path:
    """Write the manifest of all files that are there, last of all.

    Raises:
        OutputError: it cannot be written.
    """
    entries = [
        Entry(
            file=name,
            bytes=(folder.path / name).stat().st_size,
            sha256=sha256_of_file(folder.path / name),
        )
        for name in sorted(_files_in(folder.path))
        if name != MANIFEST
    ]
    return folder.write_json(MANIFEST, Manifest(files=entries).model_dump(mode="json"))


def verify(folder: Path) -> Manifest:
    """See that a run's folder is what its manifest says, to the byte.

    Raises:
        InvalidParameterError: there is no manifest, or files differ, are missing or are beyond it;
            the message names them all, or the first of many.
    """
    if not is_regular(folder / MANIFEST):
        raise bad_folder(
            folder,
            f"there is no {MANIFEST} in it, which a run writes when it ends; finish it with "
            "--resume",
        )
    manifest = read_part(folder, MANIFEST, Manifest)
    problems = list(_problems(folder, manifest))
    if problems:
        told = "; ".join(problems[:MOST_TOLD])
        more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
        raise bad_folder(folder, f"it is not what its {MANIFEST} says: {told}{more}")
    return manifest


def _problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    known = [entry.file for entry in manifest.files]
    for entry in manifest.files:
        path = inside(folder, entry.file)
        # Neither is a link followed out of the folder, nor a folder that is one.
        if not is_regular(path) or not _is_below(folder, path):
            yield f"{entry.file} is missing"
        elif sha256_of_file(path) != entry.sha256:
            yield f"{entry.file} was changed"
    for name in sorted(set(_files_in(folder)) - {*known, MANIFEST}):
        yield f"{show(name)} was added"
    if len(set(known)) != len(known):
        yield "a file is named twice"


def _is_below(folder: Path, path: Path) -> bool:
    return path.parent.resolve() == (folder.resolve() / path.relative_to(folder)).parent


def _files_in(folder: Path) -> Iterator[str]:
    """The paths of all that is no folder, links to folders too."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(place) / name).relative_to(folder).as_posix()
