"""Pulling weights: what is not there is fetched, everything is compared, and it is recorded.

Runs when a person asks for it, never at import or load. A file lies under a name of its own beside
its place until its size and sum are right, so that no half or wrong file is ever found by a loader,
and the next pull goes on where this one stopped. A file that is there is never replaced.

Knows nothing of HTTP (hub.py does), nor of how progress is shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from depthflux.errors import LicenceError, WeightsCorruptError, WeightsMissingError
from depthflux.files import HASH_CHUNK_BYTES, sha256_of_file
from depthflux.model.catalogue import Entry, how_to_copy
from depthflux.model.hashes import HashCache
from depthflux.model.hub import RemoteFile, fetch, list_files, locked, require_access
from depthflux.model.pins import FilePin, FolderPins, make_weights_folder, read_pins, record_pins
from depthflux.model.verification import Expected, difference, expected_of

#: Told of every piece that arrives: the file, the bytes there by now, all that are needed.
OnBytes = Callable[[str, int, int], None]

THE_HUB = "the Hub"
GO_ON = "What was fetched is kept: run the same command again to go on."


@dataclasses.dataclass(frozen=True)
class PulledFile:
    """A file that is there, right and recorded; `fetched` says whether this pull brought it."""

    entry: Entry
    path: str
    pin: FilePin
    fetched: bool


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A file that is to be fetched: as the Hub lists it, what it should be, where it lands."""

    entry: Entry
    revision: str
    remote: RemoteFile
    expected: Expected
    final: Path

    @property
    def name(self) -> str:
        return f"{self.entry.folder}/{self.remote.path}"

    @property
    def partial(self) -> Path:
        """Where it lies until it is whole: beside its place, so that naming it moves no bytes.

        The name holds what the file should be, so that none goes on as another.
        """
        content = (self.remote.sha256 or self.remote.blob_id or self.revision)[:16]
        return self.final.with_name(f".{self.final.name}.{content}.partial")

    @property
    def bytes_there(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    @property
    def bytes_lacking(self) -> int:
        return max(0, (self.remote.bytes or 0) - self.bytes_there)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What one entry needs: the files that are there already, and those to be fetched."""

    entry: Entry
    revision: str
    there: dict[str, FilePin]
    wanted: list[_Wanted]


def pull(entries: Sequence[Entry], weights_dir: Path, *, on_bytes: OnBytes) -> list[PulledFile]:
    """Fetch what is not there, compare everything, and record it.

    All entries are looked at, and the Hub is asked whether it would give them, before the first
    file is fetched.

    Args:
        entries: what to fetch.
        weights_dir: where the entries' folders lie; made where it is missing.
        on_bytes: told of every piece that arrives.

    Returns:
        Every wanted file, in the order of the entries.

    Raises:
        LicenceError: the Hub gives a gated repository only after its licence was accepted.
        WeightsMissingError: the Hub cannot be reached or lacks files, or the disk is too small.
        WeightsCorruptError: files are not what the catalogue, the records or the Hub say.
        OutputError: the folder cannot be written.
    """
    make_weights_folder(weights_dir)
    with locked(weights_dir):
        pins, remembered = read_pins(weights_dir), HashCache()
        fix = how_to_copy(entries, weights_dir)
        plans = [
            _plan(entry, weights_dir, pins.get(entry.folder), remembered, fix) for entry in entries
        ]
        remembered.store()
        _require_access(plans, fix)
        wanted = [file for plan in plans for file in plan.wanted]
        _require_space(wanted)
        progress = _Progress(on_bytes, wanted)
        return [
            file for plan in plans for file in _carry_out(plan, weights_dir, remembered, progress)
        ]


def _plan(
    entry: Entry, weights_dir: Path, pins: FolderPins | None, remembered: HashCache, fix: str
) -> _Plan:
    asked = (pins.revision if pins else None) or entry.revision
    revision, listed = list_files(entry, asked, fix=fix)
    # A name such as transformer/../../x matches no pattern, so that none can leave the folder.
    listed = [file for file in listed if entry.wanted(file.path)]
    missing = entry.missing(file.path for file in listed)
    if missing:
        raise WeightsMissingError(
            f"{entry.page} at revision {revision} has no {', '.join(missing)}.",
            fix="Where the repository was changed, copy the files from elsewhere.",
        )
    plan, problems = _Plan(entry, revision, {}, []), []
    for file in listed:
        final = weights_dir / entry.folder / file.path
        wanted = _Wanted(entry, revision, file, _expected(entry, file, pins), final)
        problem = _announced_problem(wanted)
        if not problem and not os.path.lexists(final):
            plan.wanted.append(wanted)
            continue
        problem = problem or _problem(final, wanted, remembered.sha256)
        if problem:
            problems.append(f"{wanted.name} {problem}")
        else:
            plan.there[file.path] = FilePin(final.stat().st_size, remembered.sha256(final))
    if problems:
        raise WeightsCorruptError(
            f"{entry.page} is refused: {'; '.join(problems)}.",
            fix="Nothing was fetched or changed. Where it is the file on disk that is wrong, "
            "delete it and pull again.",
        )
    return plan


def _expected(entry: Entry, file: RemoteFile, pins: FolderPins | None) -> Expected:
    """What a file should be: as the catalogue or the records say, else as the Hub says."""
    expected = expected_of(entry, file.path, pins)
    return expected if expected.sha256 else Expected(file.bytes, file.sha256, THE_HUB)


def _announced_problem(file: _Wanted) -> str:
    """What is wrong with a file already by what the Hub says of it, in words."""
    remote, expected = file.remote, file.expected
    if remote.sha256 not in (None, expected.sha256):
        return (
            f"has the sha256 {remote.sha256} on {THE_HUB} where {expected.origin} says "
            f"{expected.sha256}"
        )
    if None not in (remote.bytes, expected.bytes) and remote.bytes != expected.bytes:
        return (
            f"has {remote.bytes} bytes on {THE_HUB} where {expected.origin} says {expected.bytes}"
        )
    return ""


def _problem(path: Path, file: _Wanted, sha256_of: Callable[[Path], str]) -> str:
    """How a file on disk differs from what it should be, in words."""
    if not path.is_file():
        return "is no file"
    problem = difference(path, file.expected, sha256_of)
    blob_id = file.remote.blob_id if file.expected.sha256 is None else None
    if not problem and blob_id not in (None, _blob_id(path)):
        return f"is not the file that {THE_HUB} lists"
    return problem


def _blob_id(path: Path) -> str:
    """What git knows a file by: sha1 over the word blob, the size, a zero byte and the bytes.

    Source: gitformat-loose(5), git's documentation.
    """
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _require_access(plans: Sequence[_Plan], fix: str) -> None:
    """Ask for one file of each gated repository; all that are refused are named at once."""
    refused = []
    for plan in plans:
        if not plan.entry.gated or not plan.wanted:
            continue
        try:
            require_access(plan.entry, plan.wanted[0].remote.path, plan.revision, fix=fix)
        except LicenceError as error:
            refused.append(str(error))
    if refused:
        raise LicenceError(" ".join(refused))


def _require_space(files: Sequence[_Wanted]) -> None:
    """See that each disk has space for what is to be written there."""
    needed: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for file in files:
        folder = next(path for path in file.final.parents if path.is_dir())
        device = folder.stat().st_dev
        needed[device] = needed.get(device, 0) + file.bytes_lacking
        folders.setdefault(device, folder)
    for device, folder in folders.items():
        free = shutil.disk_usage(folder).free
        if free < needed[device]:
            raise WeightsMissingError(
                f"{needed[device] / 1e9:.2f} GB are to be fetched, and the disk of {folder} has "
                f"{free / 1e9:.2f} GB left.",
                fix="Make space, or name a folder on another disk with --weights-dir.",
            )


class _Progress:
    """Adds up what arrives, over all files."""

    def __init__(self, on_bytes: OnBytes, files: Sequence[_Wanted]) -> None:
        self._on_bytes = on_bytes
        self._name = ""
        self._total = sum(file.remote.bytes or 0 for file in files)
        self._done = sum(file.bytes_there for file in files)

    def start(self, name: str) -> None:
        self._name = name
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        self._on_bytes(self._name, self._done, self._total)


def _carry_out(
    plan: _Plan, weights_dir: Path, remembered: HashCache, progress: _Progress
) -> Iterator[PulledFile]:
    """Fetch a plan's files one by one, each recorded at once: a later pull goes on from there."""
    entry = plan.entry

    def record(files: dict[str, FilePin]) -> None:
        record_pins(weights_dir, entry.folder, entry.repository, plan.revision, files)

    record(plan.there)
    yield from (PulledFile(entry, path, pin, fetched=False) for path, pin in plan.there.items())
    for file in plan.wanted:
        progress.start(file.name)
        pin = _fetch(file, progress)
        remembered.remember(file.final, pin.sha256)
        remembered.store()
        record({file.remote.path: pin})
        yield PulledFile(entry, file.remote.path, pin, fetched=True)


def _fetch(file: _Wanted, progress: _Progress) -> FilePin:
    """Fetch one file, compare it, give it its name."""
    partial, size = file.partial, file.remote.bytes
    make_weights_folder(file.final.parent)
    if size is not None and file.bytes_there > size:
        partial.unlink()
    fetch(file.entry, file.remote, file.revision, partial, on_bytes=progress.add, fix=GO_ON)
    sha256 = sha256_of_file(partial)
    problem = _problem(partial, file, lambda _path: sha256)
    if problem:
        partial.unlink()
        raise WeightsCorruptError(
            f"what came for {file.name} {problem}; it was thrown away.",
            fix="Pull again; where that does not help, something on the way changes files.",
        )
    pin = FilePin(partial.stat().st_size, sha256)
    os.replace(partial, file.final)
    return pin
