"""Nothing is lost while everything breaks; and what is lost is found.

One run of scripts/chaos for all tests: 300 jobs, 4 workers and 2 servers killed, the disk full, the
store locked, the clock set ahead and back. Afterwards faults are planted into a copy of what it
has left, and the judge has to name each.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chaos_server.evidence import Evidence, gather
from chaos_server.journal import Job, Journal
from chaos_server.judge import KINDS, judge
from chaos_server.run import DOCUMENTS, JOURNAL

ROOT = Path(__file__).parents[3]
#: It takes a minute; a slow machine several.
MOST_S = 400
RUN = (
    "--jobs", "300", "--worker-kills", "4", "--server-kills", "2", "--seed", "5",
    "--disk-seconds", "2", "--lock-seconds", "2",
)  # fmt: skip
OUT = "chaos.json"


#: What this machine may lack, as the script says it.
LACKS = ("--without-full-disk", "--without-clock")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Where the run has left what it did, and why parts were left out, by the option for that."""
    folder = tmp_path_factory.mktemp("chaos")
    path = [str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = ("--keep", str(folder), "--out", str(folder / OUT))
    missing: dict[str, str] = {}
    while True:
        run = subprocess.run(
            [sys.executable, "-m", "chaos_server", *RUN, *missing, *kept],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=MOST_S,
        )
        # Where it cannot do all, it says so before anything is started, and what to leave out.
        lacks = [one for one in LACKS if one in run.stderr and one not in missing]
        if run.returncode != 3 or not lacks:
            break
        missing[lacks[0]] = run.stderr.strip()
    assert run.returncode == 0, run.stderr[-6000:]
    return folder, missing


@pytest.fixture(scope="module")
def left(ran: tuple[Path, dict[str, str]]) -> Path:
    """What the run has left: its document, the journal, the server's folder."""
    return ran[0]


@pytest.fixture
def full_disk(ran: tuple[Path, dict[str, str]]) -> None:
    """Skips where the disk could not be filled up."""
    if reason := ran[1].get("--without-full-disk"):
        pytest.skip(reason)


@pytest.fixture
def clock(ran: tuple[Path, dict[str, str]]) -> None:
    """Skips where the server's clock could not be made to jump."""
    if reason := ran[1].get("--without-clock"):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def document(left: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((left / OUT).read_text(encoding="utf-8"))
    return found


def test_nothing_is_lost_ended_twice_or_half_written(document: dict[str, Any]) -> None:
    assert document["found"] == dict.fromkeys(KINDS, 0)
    assert document["jobs"]["accepted"] == 300


def test_workers_and_server_were_killed_and_the_store_was_locked(document: dict[str, Any]) -> None:
    faults = document["faults"]

    assert (faults["kill worker"], faults["kill server"], faults["lock"]) == (4, 2, 1)
    assert document["answers"]["no answer"] > 0, "no client noticed that the server was down"
    # One of the jobs sees to that itself, whatever the kills meet.
    assert document["jobs"]["begun_again"] > 0, "no worker died with a job"


@pytest.mark.usefixtures("full_disk")
def test_the_disk_was_full_until_a_client_noticed(document: dict[str, Any]) -> None:
    assert document["faults"]["full disk"] == 1
    assert document["answers"]["503"] > 0


@pytest.mark.usefixtures("clock")
def test_the_clock_has_jumped_ahead_and_back(document: dict[str, Any]) -> None:
    assert document["faults"]["clock"] == 2


def test_every_kind_of_job_was_among_them(document: dict[str, Any]) -> None:
    jobs, reasons = document["jobs"], " ".join(document["failed"])

    assert min(jobs["deleted"], jobs["cancelled"], jobs["webhooks"], jobs["completed"]) > 0
    assert "memory ran out" in reasons
    assert "Something went wrong inside" in reasons
    assert "cancelled by its owner" in reasons


def test_every_kill_is_followed_by_a_recovery(document: dict[str, Any]) -> None:
    recovery = document["recovery"]

    assert recovery["server_killed_until_accepted"]["count"] == 2
    assert recovery["server_killed_until_painted"]["count"] == 2
    assert recovery["worker_killed_until_its_successor_paints"]["count"] >= 3


# What is planted ---------------------------------------------------------------------------------


class Planted:
    """A copy of what the run has left, with one fault of each kind, each at a job of its own.

    Attributes:
        where: what each complaint must name, by what was planted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where: dict[str, str] = {}
        self.journal = Journal.load(folder / JOURNAL)
        self._used: set[str] = set()
        self._store = sqlite3.connect(folder / "data" / "depthflux.sqlite3")
        self._store.row_factory = sqlite3.Row

    def job(self, status: str, fits: Callable[[Job], bool] = lambda _: True) -> Job:
        """A job that ended so and has no fault yet."""
        for job in self.journal.jobs:
            ended = job.ended and job.ended["status"] == status and not job.is_deleted
            if ended and job.id not in self._used and fits(job):
                self._used.add(job.id)
                return job
        raise LookupError(status)

    def change(self, statement: str, *values: Any) -> None:
        with self._store:
            self._store.execute(statement, values)

    def output(self, job: Job) -> Path:
        (row,) = self._store.execute("SELECT outputs FROM predictions WHERE id = ?", (job.id,))
        return self.folder / "data" / "outputs" / str(json.loads(row["outputs"])[0])

    def copy_row(self, job: Job, new_id: str) -> None:
        (row,) = self._store.execute("SELECT * FROM predictions WHERE id = ?", (job.id,))
        values = {**dict(row), "id": new_id, "number": None, "outputs": "[]"}
        # In the order of the table's columns.
        marks = ", ".join("?" * len(values))
        self.change(f"INSERT INTO predictions VALUES ({marks})", *values.values())  # noqa: S608

    def verdict(self) -> dict[str, list[str]]:
        self._store.close()
        return judge(self.journal, evidence_of(self.folder))


def evidence_of(folder: Path) -> Evidence:
    documents = json.loads((folder / DOCUMENTS).read_text(encoding="utf-8"))
    return gather(folder / "data", folder / "paints", folder / "server.log", documents)


def plant_rows(at: Planted) -> None:
    at.where["a row deleted"] = (job := at.job("completed")).id
    at.change("DELETE FROM predictions WHERE id = ?", job.id)
    at.where["a job that never ended"] = (job := at.job("completed")).id
    at.change("UPDATE predictions SET status = 'processing' WHERE id = ?", job.id)
    at.where["a second end"] = (job := at.job("completed")).id
    at.change("UPDATE predictions SET finished_at = finished_at + 1 WHERE id = ?", job.id)
    at.where["a second row"] = "1" * 32
    at.copy_row(at.job("completed"), "1" * 32)
    at.where["no reason"] = (job := at.job("failed")).id
    at.change("UPDATE predictions SET error = '' WHERE id = ?", job.id)
    at.where["another's reason"] = (job := at.job("failed", lambda job: job.wish.kind == "bug")).id
    at.change(
        "UPDATE predictions SET code = 1403, error = 'memory ran out: x' WHERE id = ?", job.id
    )


def plant_files(at: Planted) -> None:
    path = at.output(at.job("completed"))
    at.where["half a file"] = path.name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    path = at.output(job := at.job("completed", lambda job: job.wish.format == "png"))
    at.where["another picture"] = path.name
    at.where["a picture changed after the end"] = job.id
    grey, size = (job.wish.grey + 100) % 256, (job.wish.width, job.wish.height)
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
    path = at.output(at.job("completed"))
    at.where["a file gone"] = path.name
    path.unlink()
    outputs = path.parent
    at.where["a file begun"] = ".begun.png.0123"
    (outputs / ".begun.png.0123").write_bytes(b"half")
    at.where["a file that nothing names"] = "nobody.png"
    (outputs / "nobody.png").write_bytes(buffer.getvalue())


def plant_words(at: Planted) -> None:
    at.where["a status that went back"] = (job := at.job("completed")).id
    job.statuses = ["processing", "created", "completed"]
    job = at.job("completed", lambda job: job.wish.has_webhook)
    at.where["a webhook that never came"] = job.id
    del at.journal.told[job.id]
    job = at.job("completed", lambda job: job.wish.has_webhook)
    at.where["a webhook that tells another end"] = job.id
    at.journal.told[job.id].append({**at.journal.told[job.id][0], "status": "failed"})
    seed = at.job("completed").wish.seed
    at.where["two painters"] = f"seed {seed} "
    with (at.folder / "paints").open("a", encoding="ascii") as lines:
        for word, pid, at_s in (("begin", 1, 1.0), ("begin", 2, 2.0), ("end", 1, 3.0)):
            lines.write(f"{word},{pid},0.5,{seed},{at_s}\n")
    at.where["an error in the log"] = "error 0123abcd in POST /x"
    with (at.folder / "server.log").open("a", encoding="utf-8") as lines:
        lines.write("error: error 0123abcd in POST /x\n")


@pytest.fixture(scope="module")
def planted(left: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Any]:
    """Where faults were planted, and what the judge says."""
    folder = tmp_path_factory.mktemp("planted") / "left"
    shutil.copytree(left, folder)
    at = Planted(folder)
    for plant in (plant_rows, plant_files, plant_words):
        plant(at)
    return at.where, at.verdict()


def test_a_copy_that_nobody_has_touched_is_without_fault(left: Path) -> None:
    found = judge(Journal.load(left / JOURNAL), evidence_of(left))

    assert found == {kind: [] for kind in KINDS}


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("a row deleted", "lost"),
        ("a job that never ended", "lost"),
        ("a second end", "ended_twice"),
        ("a picture changed after the end", "ended_twice"),
        ("a webhook that tells another end", "ended_twice"),
        ("a second row", "accepted_twice"),
        ("no reason", "no_reason"),
        ("another's reason", "wrong_end"),
        ("half a file", "half_written"),
        ("a file gone", "half_written"),
        ("a file begun", "half_written"),
        ("a file that nothing names", "half_written"),
        ("another picture", "wrong_picture"),
        ("a status that went back", "went_back"),
        ("a webhook that never came", "not_told"),
        ("two painters", "painted_twice_at_a_time"),
        ("an error in the log", "surprises"),
    ],
)
def test_what_is_planted_is_found(planted: Any, what: str, kind: str) -> None:
    where, found = planted

    assert any(where[what] in complaint for complaint in found[kind]), found[kind]


def test_a_damaged_store_is_found(left: Path) -> None:
    evidence = evidence_of(left)

    damaged = dataclasses.replace(evidence, integrity="row 3 missing from index x")

    assert judge(Journal.load(left / JOURNAL), damaged)["store"] == ["row 3 missing from index x"]


def test_an_end_is_written_by_the_store_itself_once_for_each_job(left: Path) -> None:
    with closing(sqlite3.connect(left / "data" / "depthflux.sqlite3")) as store:
        counts = store.execute("SELECT count(*), count(DISTINCT id) FROM chaos_ends").fetchone()

    assert counts[0] == counts[1] >= 280
