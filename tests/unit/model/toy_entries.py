"""Two toy entries of a catalogue, and what tests of pulling do with them."""

from __future__ import annotations

import json
from pathlib import Path

from depthflux.model.catalogue import Entry, WantedFile
from depthflux.model.download import PulledFile, pull

CONFIG, WEIGHTS = b'{"layers": 2}', bytes(range(256)) * 12
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
ENTRY = Entry(
    name="toy",
    title="a toy",
    repository="someone/toy",
    folder="Toy",
    files=(WantedFile("config.json"), WantedFile("*.safetensors")),
    licence="MIT",
    commercial=True,
)
GATED = Entry(
    name="gated",
    title="a toy behind a gate",
    repository="someone/gated",
    folder="Gated",
    files=(WantedFile("config.json"), WantedFile("model.safetensors")),
    licence="Toy Licence",
    commercial=False,
    gated=True,
)


def fetch(weights: Path, *entries: Entry) -> list[PulledFile]:
    return pull(entries or (ENTRY,), weights, on_bytes=lambda *_: None)


def on_disk(weights: Path) -> set[str]:
    """All files but the records and the lock."""
    found = (path for path in weights.rglob("*") if path.is_file())
    return {path.relative_to(weights).as_posix() for path in found} - {"pins.json", ".pull.lock"}


def pins(weights: Path) -> dict[str, object]:
    return json.loads((weights / "pins.json").read_text())["folders"]
