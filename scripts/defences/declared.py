"""The declarations as objects. Knows nothing of how they are tried."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "attacks" / "defences"

#: What is tried, by the number in its files' names; a letter behind the number is a second part.
ATTACKS = {
    1: "Pickled weights",
    2: "Hostile safetensors",
    3: "Code named by a configuration",
    4: "Requests to inner addresses (SSRF)",
    5: "Credentials sent on",
    6: "Paths that read",
    7: "Paths that write",
    8: "Decompression bombs and hostile pictures",
    9: "Large, broken and slow requests",
    10: "A server without keys on a network",
    11: "A web page that reaches the server (drive-by, DNS rebinding)",
    12: "Injection through prompts, names and addresses",
    13: "The supply chain",
    14: "Metadata in and out",
    15: "Abuse of what is shared",
    16: "Secrets in logs and answers",
}


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What takes a part of a defence away.

    Attributes:
        file: from the repository's root.
        present: text that occurs once in it.
        absent: what stands there without the defence.
    """

    file: str
    present: str
    absent: str


@dataclass(frozen=True, kw_only=True)
class Defence:
    """A promise that can be taken away.

    Attributes:
        attack: its number.
        promise: one sentence.
        edits: what takes it away.
        tests: pytest's names of those that fail then.
    """

    attack: int
    promise: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


def defences(folder: Path = FOLDER) -> list[Defence]:
    """All that are declared, in the order of attacks.

    Raises:
        ValueError: a file or a key is none that is known.
    """
    return [found for path in sorted(folder.glob("*.toml")) for found in _read(path)]


def _read(path: Path) -> Iterator[Defence]:
    attack = int(path.stem.rstrip("abcdef"))
    if attack not in ATTACKS:
        raise ValueError(f"{path.name}: there is no attack {attack}")
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if set(document) != {"defence"}:
        raise ValueError(f"{path.name}: allowed: [[defence]] alone")
    for entry in document["defence"]:
        yield _defence(path, attack, entry)


def _defence(path: Path, attack: int, entry: dict[str, Any]) -> Defence:
    unknown = set(entry) - {"promise", "file", "with", "without", "tests", "also"}
    if unknown:
        raise ValueError(f"{path.name}: {sorted(unknown)} is not known")
    edits = [entry, *entry.get("also", [])]
    return Defence(
        attack=attack,
        promise=entry["promise"],
        edits=tuple(
            Edit(file=edit["file"], present=edit["with"], absent=edit["without"]) for edit in edits
        ),
        tests=tuple(entry["tests"]),
    )
