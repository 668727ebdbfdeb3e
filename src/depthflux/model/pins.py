"""What the weights were when they were first fetched: `pins.json` in the weights folder.

    {"version": 1, "folders": {"FLUX.1-dev": {"repository": …, "revision": …, "files": {
        "vae/config.json": {"bytes": …, "sha256": …}}}}}

A later pull and `depthflux weights verify` compare with it. Nothing is recorded but by a pull or
on request. Knows nothing of networks, nor of which files there should be.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from depthflux.errors import OutputError, WeightsCorruptError, first_line
from depthflux.files import make_folder, write_atomically

PINS_FILE = "pins.json"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class FilePin:
    """One file's size in bytes and the sha256 of its bytes, 64 hexadecimal digits."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class FolderPins:
    """What is recorded of one entry of the catalogue.

    Attributes:
        repository: owner and name on the Hub.
        revision: the commit the files are of; None where they were copied by hand.
        files: by their path in the repository.
    """

    repository: str
    revision: str | None = None
    files: dict[str, FilePin] = dataclasses.field(default_factory=dict)


def read_pins(weights_dir: Path) -> dict[str, FolderPins]:
    """All records, by folder; none where there is no file of them.

    Raises:
        WeightsCorruptError: the file is there and cannot be read as records.
    """
    path = weights_dir / PINS_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise ValueError(f"version {VERSION} is known, not {document['version']}")
        return {str(name): _read_folder(entry) for name, entry in document["folders"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsCorruptError(
            f"{path} does not hold the records of a pull: {first_line(error)}.",
            fix="Put the file back from a copy, or delete it and run: depthflux weights verify "
            "--pin.",
        ) from error


def record_pins(
    weights_dir: Path,
    folder: str,
    repository: str,
    revision: str | None,
    files: dict[str, FilePin],
) -> None:
    """Add files to the records of a folder; what is recorded of others stays.

    Args:
        weights_dir: where the records lie.
        folder: the entry's folder under it.
        repository: owner and name on the Hub.
        revision: the commit the files are of; None leaves the recorded one.
        files: by their path in the repository.

    Raises:
        OutputError: the records cannot be written.
        WeightsCorruptError: the records that are there cannot be read.
    """
    pins = read_pins(weights_dir)
    before = pins.get(folder, FolderPins(repository))
    pins[folder] = FolderPins(repository, revision or before.revision, before.files | files)
    document = {
        "version": VERSION,
        "folders": {name: dataclasses.asdict(pins[name]) for name in sorted(pins)},
    }
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    make_weights_folder(weights_dir)
    try:
        write_atomically(weights_dir / PINS_FILE, text.encode("utf-8"))
    except OutputError as error:
        raise _not_writable(weights_dir, error) from error


def make_weights_folder(folder: Path) -> None:
    """Make a folder for weights and its parents.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        make_folder(folder)
    except OutputError as error:
        raise _not_writable(folder, error) from error


def _read_folder(entry: dict[str, Any]) -> FolderPins:
    files = {
        str(path): FilePin(int(pin["bytes"]), _checked_sum(pin["sha256"]))
        for path, pin in entry["files"].items()
    }
    revision = entry["revision"]
    return FolderPins(str(entry["repository"]), None if revision is None else str(revision), files)


def _checked_sum(text: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", str(text)):
        raise ValueError("a sha256 has 64 hexadecimal digits")
    return str(text)


def _not_writable(path: Path, error: OutputError) -> OutputError:
    """The same error without its advice, which is for the folder of results."""
    reason = str(error).partition(";")[0]
    return OutputError(
        f"{reason}; name a folder you may write to with --weights-dir.",
        field="weights_dir",
        value=str(path),
        allowed="a folder that may be written",
    )
