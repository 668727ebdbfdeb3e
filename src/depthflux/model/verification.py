"""Whether the weights on disk are the files they should be: sizes and sums, file by file.

A file is compared with the catalogue where that knows its sum, else with what the first pull
recorded, else with nothing: then it is called unpinned, and only its header is looked at. Changes
nothing but the records, and those on request. Knows nothing of networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from depthflux.errors import WeightsCorruptError, WeightsMissingError
from depthflux.model.catalogue import Entry
from depthflux.model.headers import header_problem
from depthflux.model.pins import PINS_FILE, FilePin, FolderPins, record_pins

State = Literal["ok", "unpinned", "wrong", "missing"]

CATALOGUE_SAYS = "the catalogue"
PINS_SAY = PINS_FILE


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a file should be.

    Attributes:
        bytes: its size; None where nothing states it.
        sha256: of its bytes; None where nothing states it.
        origin: what states them, in words.
    """

    bytes: int | None = None
    sha256: str | None = None
    origin: str = ""


@dataclasses.dataclass(frozen=True)
class FileCheck:
    """One file looked at.

    Attributes:
        entry: what it belongs to.
        path: in the repository; a pattern where no file of it is there.
        state: `ok`, `unpinned` (there, and nothing to compare it with), `wrong` or `missing`.
        detail: what was found, in words.
        bytes: its size; None where it is missing.
        sha256: of its bytes; None where it is missing or its size or header is wrong already.
    """

    entry: Entry
    path: str
    state: State
    detail: str
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file under the weights folder."""
        return f"{self.entry.folder}/{self.path}"


def expected_of(entry: Entry, path: str, pins: FolderPins | None) -> Expected:
    """What a file of an entry should be: as the catalogue says, else as it is recorded."""
    wanted, pin = entry.wanted(path), pins.files.get(path) if pins else None
    if wanted is not None and wanted.sha256 is not None:
        return Expected(wanted.bytes, wanted.sha256, CATALOGUE_SAYS)
    if pin is not None:
        return Expected(pin.bytes, pin.sha256, PINS_SAY)
    return Expected()


def difference(file: Path, expected: Expected, sha256_of: Callable[[Path], str]) -> str:
    """How a file differs from what it should be, in words; nothing where it does not.

    Args:
        file: the file, which is there.
        expected: what it should be.
        sha256_of: computes or remembers a file's sha256; not asked where the size differs.
    """
    size = file.stat().st_size
    if expected.bytes not in (None, size):
        return f"has {size} bytes where {expected.origin} says {expected.bytes}"
    if expected.sha256 is None:
        return ""
    found = sha256_of(file)
    if found == expected.sha256:
        return ""
    return f"has the sha256 {found} where {expected.origin} says {expected.sha256}"


def check_entry(
    entry: Entry,
    weights_dir: Path,
    pins: FolderPins | None,
    sha256_of: Callable[[Path], str],
) -> Iterator[FileCheck]:
    """Look at each file of an entry, in turn; reading large ones takes a while.

    Args:
        entry: whose files.
        weights_dir: where its folder lies.
        pins: what is recorded of it; None where nothing is.
        sha256_of: computes or remembers a file's sha256.
    """
    present = entry.present(weights_dir)
    recorded = [path for path in (pins.files if pins else ()) if entry.wanted(path)]
    for path in sorted({*present, *recorded}):
        if path in present:
            yield _check_file(entry, path, present[path], pins, sha256_of)
        else:
            yield FileCheck(entry, path, "missing", f"not there, though {PINS_SAY} records it")
    for pattern in entry.missing({*present, *recorded}):
        yield FileCheck(entry, pattern, "missing", "not there")


def pin_unpinned(checks: Sequence[FileCheck], weights_dir: Path) -> list[FileCheck]:
    """Record the unpinned files as they are, for people who copied them by hand.

    Args:
        checks: of one entry's files.
        weights_dir: where the records lie.

    Returns:
        The checks as they are now.

    Raises:
        OutputError: the records cannot be written.
    """
    pins = {
        check.path: FilePin(check.bytes, check.sha256)
        for check in checks
        if check.state == "unpinned" and check.bytes is not None and check.sha256 is not None
    }
    if not pins:
        return list(checks)
    entry = checks[0].entry
    record_pins(weights_dir, entry.folder, entry.repository, None, pins)
    return [
        dataclasses.replace(check, state="ok", detail="pinned now") if check.path in pins else check
        for check in checks
    ]


def require_right(checks: Iterable[FileCheck], weights_dir: Path) -> None:
    """Raise where a file is wrong or missing.

    Raises:
        WeightsCorruptError: files are not what they should be; all of them are named.
        WeightsMissingError: files are not there; all of them are named.
    """
    checks = list(checks)
    wrong = [f"{check.name} {check.detail}" for check in checks if check.state == "wrong"]
    missing = [check for check in checks if check.state == "missing"]
    lacking = [f"{check.name} is {check.detail}" for check in missing]
    if wrong:
        raise WeightsCorruptError(
            f"weights in {weights_dir.absolute()} are not what they should be: "
            f"{'; '.join(wrong + lacking)}.",
            fix="Delete them and run depthflux weights pull, or copy them again.",
        )
    if missing:
        names = " ".join(dict.fromkeys(check.entry.name for check in missing))
        raise WeightsMissingError(
            f"weights in {weights_dir.absolute()} are missing: {'; '.join(lacking)}.",
            fix=f"Run depthflux weights pull {names}.",
        )


def _check_file(
    entry: Entry,
    path: str,
    file: Path,
    pins: FolderPins | None,
    sha256_of: Callable[[Path], str],
) -> FileCheck:
    expected, size = expected_of(entry, path, pins), file.stat().st_size
    problem = difference(file, expected, sha256_of)
    if problem:
        return FileCheck(entry, path, "wrong", problem, size)
    if expected.sha256 is not None:
        return FileCheck(entry, path, "ok", f"as {expected.origin} says", size, expected.sha256)
    damage = header_problem(file) if file.suffix == ".safetensors" else None
    if damage:
        return FileCheck(entry, path, "wrong", f"is damaged: {damage.rstrip('.')}", size)
    return FileCheck(entry, path, "unpinned", "not pinned", size, sha256_of(file))
