"""The manifest of a run's folder: every file with its size and sha256.

A recording is believed only where each file is what the manifest says and no other file is there.
That shows damage and carelessness; who changes a recording on purpose can write a manifest, too,
whose own sum, told elsewhere, is what a person can compare.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import Field

from depthflux.bench.document import Strict
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.run_files import (
    HALF_WRITTEN,
    MANIFEST,
    RECORDING_SCHEMA,
    bad_folder,
    inside,
    read_part,
)
from depthflux.errors import OutputError, show
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
        schema_version: of the whole folder.
        files: one entry each.
    """

    schema_version: int = Field(ge=1, le=RECORDING_SCHEMA)
    files: list[Entry]


def write_manifest(folder: RunFolder) -> Path:
    """Write the manifest of all files that are there, last of all.

    Raises:
        OutputError: it cannot be written, a file cannot be read, or the files of a task are gone
            that this process has sent: a manifest without them would say that it never was.
    """
    _require_sent(folder)
    try:
        entries = [
            Entry(
                file=name,
                bytes=(folder.path / name).stat().st_size,
                sha256=sha256_of_file(folder.path / name),
            )
            for name in sorted(_files_in(folder.path))
            # What is half written is no file of a run, nor will it be.
            if name != MANIFEST and not HALF_WRITTEN.fullmatch(PurePosixPath(name).name)
        ]
    except OSError as error:
        raise OutputError(
            f"cannot write {folder.path / MANIFEST}: {error.filename}: {error.strerror}; go on "
            "with the run with --resume.",
            field="out",
            value=str(folder.path),
        ) from error
    manifest = Manifest(schema_version=RECORDING_SCHEMA, files=entries)
    return folder.write_json(MANIFEST, manifest.model_dump(mode="json"))


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
    manifest = read_manifest(folder)
    problems = list(_problems(folder, manifest))
    if problems:
        told = "; ".join(problems[:MOST_TOLD])
        more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
        raise bad_folder(folder, f"it is not what its {MANIFEST} says: {told}{more}")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """What a run's folder held when its manifest was written.

    Raises:
        InvalidParameterError: there is no manifest, or it is none.
    """
    return read_part(folder, MANIFEST, Manifest)


def is_as_told(folder: Path, entry: Entry) -> bool:
    """Whether a file has the size and the sum that the manifest tells; unreadable is neither.

    Raises:
        InvalidParameterError: its name is none that a run gives.
    """
    path = inside(folder, entry.file)
    try:
        # Neither is a link followed out of the folder, nor a folder that is one.
        return (
            is_regular(path)
            and _is_below(folder, path)
            and path.stat().st_size == entry.bytes
            and sha256_of_file(path) == entry.sha256
        )
    except OSError:
        return False


def _require_sent(folder: RunFolder) -> None:
    """See that the folder still says of each task that was sent that it was.

    Raises:
        OutputError: of one it does not.
    """
    places = sorted(folder.sent)
    gone = [place for place in places if folder.task(*place.split("/")).state == "new"]
    if not gone:
        return
    told = ", ".join(gone[:MOST_TOLD]) + (" and others" if len(gone) > MOST_TOLD else "")
    raise OutputError(
        f"cannot write {folder.path / MANIFEST}: the files of {told} are gone, which say that it "
        "was sent; put them back, or --resume may send it again and pay for it again.",
        field="out",
        value=str(folder.path),
    )


def _problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    known = [entry.file for entry in manifest.files]
    for entry in manifest.files:
        path = inside(folder, entry.file)
        if not is_regular(path) or not _is_below(folder, path):
            yield f"{entry.file} is missing"
        elif not is_as_told(folder, entry):
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
