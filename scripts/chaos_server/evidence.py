"""What is there after a run: the store's rows, the files, the painter's journal, the log.

Reads and changes nothing. Knows nothing of what should be there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

_STORE = "depthflux.sqlite3"
#: Lines of the log that tell of what nobody meant: an answer of 500, a task or thread that broke.
_SURPRISES = re.compile(
    r"error [0-9a-f]{8} in (GET|POST|PUT|DELETE|HEAD)|never retrieved|Exception in|"
    r"a thread of the worker ended"
)
_MOST_SURPRISES = 20
#: Of the painter's journal.
_PAINT_FIELDS = 5


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A file of the folders of pictures.

    Attributes:
        size: in pixels; none where it cannot be read whole.
        greys: least and most value of its pixels, over all channels.
        sha256: of its bytes.
        problem: why it cannot be read; empty if it can.
    """

    size: tuple[int, int]
    greys: tuple[int, int]
    sha256: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Paint:
    """A line of the painter's journal; times are seconds of the monotonic clock.

    Attributes:
        word: begin, end, or `broken off` by an error.
        pid: the worker's process.
        born_at: when that was begun; a process's number may come again.
        seed: of the job.
        at: when.
    """

    word: str
    pid: int
    born_at: float
    seed: int
    at: float

    @property
    def process(self) -> tuple[int, float]:
        """What no other process has."""
        return self.pid, self.born_at


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is there.

    Attributes:
        documents: every prediction as the server shows it, by id.
        rows: every prediction of the store, by id.
        ends: every end that the store has ever written, also of deleted ones, in order.
        letters: the state of each webhook, by prediction.
        uploads: the store's rows of uploads, by name.
        output_files: the files of finished pictures, by name.
        upload_files: the files of uploads, by name.
        partial_files: files that were begun and not finished.
        integrity: what SQLite says of its file: `ok`.
        paints: the painter's journal.
        log_surprises: what the log tells that nobody meant.
    """

    documents: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, Any]]
    ends: list[dict[str, Any]]
    letters: dict[str, str]
    uploads: dict[str, dict[str, Any]]
    output_files: dict[str, PictureFile]
    upload_files: dict[str, PictureFile]
    partial_files: list[str]
    integrity: str
    paints: list[Paint]
    log_surprises: list[str]


def gather(data_dir: Path, paints: Path, log: Path, documents: list[dict[str, Any]]) -> Evidence:
    """Read everything; the server must have ended.

    Args:
        data_dir: the server's folder.
        paints: the painter's journal.
        log: the server's.
        documents: every prediction as the server has shown it last.
    """
    with closing(sqlite3.connect(data_dir / _STORE)) as store:
        store.row_factory = sqlite3.Row
        rows = _table(store, "SELECT * FROM predictions")
        ends = _table(store, "SELECT * FROM chaos_ends ORDER BY rowid")
        uploads = _table(store, "SELECT * FROM uploads WHERE sha256 != ''")
        letters = _table(store, "SELECT prediction, state FROM webhooks")
        integrity = str(store.execute("PRAGMA integrity_check").fetchone()[0])
    return Evidence(
        documents={one["id"]: one for one in documents},
        rows={row["id"]: row for row in rows},
        ends=ends,
        letters={row["prediction"]: row["state"] for row in letters},
        uploads={row["name"]: row for row in uploads},
        output_files=_pictures(data_dir / "outputs"),
        upload_files=_pictures(data_dir / "uploads"),
        partial_files=sorted(
            f"{folder}/{path.name}"
            for folder in ("outputs", "uploads")
            for path in (data_dir / folder).glob(".*")
        ),
        integrity=integrity,
        paints=read_paints(paints),
        log_surprises=_surprises(log),
    )


def nameless_files(data_dir: Path) -> list[str]:
    """Files of pictures that no row of the store names."""
    with closing(sqlite3.connect(f"file:{data_dir / _STORE}?mode=ro", uri=True)) as store:
        outputs = {
            name
            for (names,) in store.execute("SELECT outputs FROM predictions")
            for name in json.loads(names)
        }
        uploads = {name for (name,) in store.execute("SELECT name FROM uploads")}
    known = {"outputs": outputs, "uploads": uploads}
    return [
        path.name
        for folder, names in known.items()
        for path in (data_dir / folder).iterdir()
        if path.name not in names
    ]


def read_paints(path: Path) -> list[Paint]:
    """The painter's journal."""
    paints = []
    for line in path.read_text(encoding="ascii").splitlines():
        fields = line.split(",")
        if len(fields) == _PAINT_FIELDS:
            word, pid, born_at, seed, at = fields
            paints.append(
                Paint(
                    word=word,
                    pid=int(pid),
                    born_at=float(born_at),
                    seed=int(seed),
                    at=float(at),
                )
            )
    return sorted(paints, key=lambda paint: paint.at)


def _table(store: sqlite3.Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in store.execute(query)]


def _pictures(folder: Path) -> dict[str, PictureFile]:
    return {
        path.name: _picture(path.read_bytes())
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def _picture(data: bytes) -> PictureFile:
    digest = hashlib.sha256(data).hexdigest()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            extremes = image.convert("L").getextrema()
            size = image.size
    # Pillow raises these and no others of its own for what is broken.
    except (OSError, SyntaxError, ValueError) as error:
        return PictureFile(size=(0, 0), greys=(0, 0), sha256=digest, problem=f"{error}")
    low, high = (int(value) for value in extremes)  # type: ignore[arg-type]
    return PictureFile(size=size, greys=(low, high), sha256=digest, problem="")


def _surprises(log: Path) -> list[str]:
    found: list[str] = []
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if _SURPRISES.search(line) and len(found) < _MOST_SURPRISES:
                found.append(line.strip()[:300])
    return found
