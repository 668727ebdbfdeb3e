"""The store's database: what is committed is there whatever is killed, and nobody is refused."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from store_fixtures import Store, at_once

from depthflux.errors import SettingsError
from depthflux.server import database as room
from depthflux.server.database import FILE_NAME, STORE_PROBLEMS, Database, GroupFlush
from depthflux.server.schema import predictions, secrets, versions


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process that has run some lines."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def owners(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.scalars(select(secrets.c.owner).order_by(secrets.c.owner)))


def add_owner(database: Database, owner: str) -> None:
    with database.writing() as connection:
        connection.execute(insert(secrets).values(owner=owner, webhook=""))


# What is committed ------------------------------------------------------------------------------


def test_what_was_committed_survives_kill_9_and_what_was_not_is_gone(tmp_path: Path) -> None:
    writer = run_python(
        """
import os, sys
from pathlib import Path
from sqlalchemy import insert
from depthflux.server.database import Database
from depthflux.server.schema import secrets

database = Database(Path(sys.argv[1]))
for number in range(20):
    with database.writing() as connection:
        connection.execute(insert(secrets).values(owner=f"kept-{number:02}", webhook=""))
with database.writing() as connection:
    connection.execute(insert(secrets).values(owner="lost", webhook=""))
    os.kill(os.getpid(), 9)
""",
        tmp_path,
    )

    assert writer.returncode == -signal.SIGKILL

    database = Database(tmp_path)
    assert owners(database) == [f"kept-{number:02}" for number in range(20)]
    add_owner(database, "next")
    database.close()


def test_a_commit_is_seen_by_another_process_at_once(database: Database) -> None:
    add_owner(database, "an owner")

    read = run_python(
        """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT owner FROM secrets").fetchone()[0])
""",
        database.path,
    )

    assert read.stdout == "an owner\n"


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def add_twice() -> None:
        with store.database.writing() as connection:
            connection.execute(insert(secrets).values(owner="a", webhook=""))
            connection.execute(insert(secrets).values(owner="a", webhook=""))

    with pytest.raises(IntegrityError):
        add_twice()

    assert owners(store.database) == []


def test_each_statement_of_a_reader_sees_what_is_committed_when_it_begins(
    store: Store,
) -> None:
    with store.database.reading() as connection:
        before = connection.scalar(select(func.count()).select_from(secrets))
        add_owner(store.database, "new")
        after = connection.scalar(select(func.count()).select_from(secrets))

    assert (before, after) == (0, 1)


# Opening ----------------------------------------------------------------------------------------


def test_the_tables_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    first = Database(tmp_path)
    add_owner(first, "a")
    first.close()

    second = Database(tmp_path)

    assert owners(second) == ["a"]
    second.close()


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "sign?mode=memory", "hash#x", "percent%20", "ünïcode", "quote'\""],
)
def test_the_file_lies_in_the_folder_that_was_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()

    database = Database(folder)
    add_owner(database, "a")
    database.close()

    assert (folder / FILE_NAME).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_tables_of_another_version_are_refused_with_both_versions(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.writing() as connection:
        connection.execute(update(versions).values(version=99))
    database.close()

    with pytest.raises(
        SettingsError, match=r"has version 99; this depthflux reads \d+\."
    ) as caught:
        Database(tmp_path)

    assert "--data-dir" in caught.value.fix
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("SELECT version FROM versions").fetchall() == [(99,)]
    connection.close()


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"holiday photographs\n" * 1000)

    with pytest.raises(SettingsError, match=r"cannot be used: file is not a database\."):
        Database(tmp_path)

    assert (tmp_path / FILE_NAME).read_bytes() == b"holiday photographs\n" * 1000


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data_dir: .*none.* cannot be used"):
        Database(tmp_path / "none")


def test_several_threads_and_processes_may_open_a_new_one_at_a_time(tmp_path: Path) -> None:
    def open_it(number: int) -> int:
        if number < 2:
            return run_python(
                "import sys; from pathlib import Path; "
                "from depthflux.server.database import Database; Database(Path(sys.argv[1]))",
                tmp_path,
            ).returncode
        Database(tmp_path).close()
        return 0

    codes = at_once(open_it, 8)

    assert codes == [0] * 8
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("SELECT count(*) FROM versions").fetchone() == (1,)
    connection.close()


# Several at a time ------------------------------------------------------------------------------

#: Reads, then writes what it read and one: what is lost where two may do so at a time.
INCREMENT = """
import sys
from pathlib import Path
from sqlalchemy import select, update
from depthflux.server.database import Database
from depthflux.server.schema import predictions

database = Database(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    with database.writing() as connection:
        attempts = connection.scalar(select(predictions.c.attempts))
        connection.execute(update(predictions).values(attempts=attempts + 1))
"""


def increment(database: Database, times: int) -> None:
    for _ in range(times):
        with database.writing() as connection:
            attempts = connection.scalar(select(predictions.c.attempts))
            connection.execute(update(predictions).values(attempts=attempts + 1))


def test_writers_of_several_threads_take_turns_and_none_is_refused(store: Store) -> None:
    id = store.submit().id

    at_once(lambda _: increment(store.database, 50), 4)

    assert store.read(id).attempts == 4 * 50


def test_writers_of_several_processes_take_turns_and_none_is_refused(
    database: Database, tmp_path: Path
) -> None:
    store = Store(database)
    id = store.submit().id

    def count(number: int) -> int:
        if number < 2:
            return run_python(INCREMENT, tmp_path, 100).returncode
        increment(database, 100)
        return 0

    codes = at_once(count, 3)

    assert codes == [0, 0, 0]
    assert store.read(id).attempts == 3 * 100


def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    add_owner(database, "before")

    with database.writing() as connection:
        connection.execute(insert(secrets).values(owner="during", webhook=""))
        started = time.monotonic()
        seen = at_once(lambda _: owners(database), 4)
        waited_s = time.monotonic() - started

    assert seen == [["before"]] * 4
    assert waited_s < 1
    assert owners(database) == ["before", "during"]


def test_a_writer_does_not_wait_for_a_reader_that_is_in_the_middle(database: Database) -> None:
    for number in range(100):
        add_owner(database, f"{number:03}")

    with database.reading() as connection:
        rows = connection.execute(select(secrets.c.owner))
        rows.fetchone()
        started = time.monotonic()
        add_owner(database, "new")
        waited_s = time.monotonic() - started
        rows.close()

    assert waited_s < 1


def test_a_writer_that_waits_too_long_for_its_turn_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOCK_TIMEOUT_S", 0.1)
    database = Database(tmp_path)

    with (
        database.writing(),
        pytest.raises(OperationalError, match="database is locked"),
        database.writing(),
    ):
        pass

    add_owner(database, "afterwards")
    database.close()


def test_a_commit_does_not_wait_for_the_disk_but_the_flush_does(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(room, "flush_file", flushed.append)

    add_owner(database, "a")
    before = list(flushed)
    database.on_disk()

    with database.reading() as connection:
        mode = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    assert before == []
    assert flushed == [tmp_path / f"{FILE_NAME}-wal"]
    assert flushed[0].is_file()
    assert mode == 1  # NORMAL: only checkpoints wait for the disk


# One flush for all that wait --------------------------------------------------------------------


class SlowDisk:
    """Stands in for flushing a file: takes as long as it is told, and fails where it is told."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Semaphore(0)
        self.failures: list[OSError] = []

    def __call__(self, path: Path) -> None:
        self.begun += 1
        assert self.go_on.acquire(timeout=10)
        if self.failures:
            raise self.failures.pop()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    disk = SlowDisk()
    monkeypatch.setattr(room, "flush_file", disk)
    return disk


class Waiter(threading.Thread):
    """Waits for a flush, and remembers how it went."""

    def __init__(self, flush: GroupFlush) -> None:
        super().__init__(daemon=True)
        self._flush = flush
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._flush()
        except OSError as error:
            self.error = error


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def waiting(flush: GroupFlush) -> int:
    """How many have asked for a flush so far."""
    return flush._asked


def test_one_flush_serves_all_that_came_before_it_began(disk: SlowDisk) -> None:
    flush = GroupFlush(Path("wal"))
    first = Waiter(flush)
    until(lambda: disk.begun == 1)
    others = [Waiter(flush) for _ in range(20)]
    until(lambda: waiting(flush) == 21)

    disk.go_on.release(2)
    for waiter in [first, *others]:
        waiter.join(10)

    assert not any(waiter.is_alive() for waiter in [first, *others])
    assert disk.begun == 2


def test_who_comes_during_a_flush_waits_for_the_next_one(disk: SlowDisk) -> None:
    flush = GroupFlush(Path("wal"))
    first = Waiter(flush)
    until(lambda: disk.begun == 1)
    late = Waiter(flush)
    until(lambda: waiting(flush) == 2)

    disk.go_on.release()
    first.join(10)
    until(lambda: disk.begun == 2)

    assert not first.is_alive()
    assert late.is_alive()
    disk.go_on.release()
    late.join(10)
    assert not late.is_alive()
    assert disk.begun == 2


def test_a_flush_that_fails_is_said_to_all_who_have_asked_and_the_next_one_flushes_anew(
    disk: SlowDisk,
) -> None:
    """The kernel tells of a failure once; who has written by then may be one it is about."""
    flush = GroupFlush(Path("wal"))
    disk.failures.append(OSError(5, "Input/output error"))
    first = Waiter(flush)
    until(lambda: disk.begun == 1)
    others = [Waiter(flush) for _ in range(3)]
    until(lambda: waiting(flush) == 4)

    disk.go_on.release(2)
    for waiter in (first, *others):
        waiter.join(10)
    begun = disk.begun
    later = Waiter(flush)
    later.join(10)

    assert first.error is not None
    assert "Input/output error" in str(first.error)
    assert [waiter.error is None for waiter in others] == [False] * 3
    assert (begun, disk.begun) == (1, 2)
    assert not later.is_alive()
    assert later.error is None


def test_a_flush_that_fails_fails_all_that_it_was_made_for_and_not_those_before(
    disk: SlowDisk,
) -> None:
    flush = GroupFlush(Path("wal"))
    first = Waiter(flush)
    until(lambda: disk.begun == 1)
    others = [Waiter(flush) for _ in range(5)]
    until(lambda: waiting(flush) == 6)
    disk.go_on.release()
    until(lambda: disk.begun == 2)
    disk.failures.append(OSError(5, "Input/output error"))

    # One more than it takes: nobody is to flush anew.
    disk.go_on.release(2)
    for waiter in (first, *others):
        waiter.join(10)

    assert first.error is None
    assert all(waiter.error is not None for waiter in others)
    assert disk.begun == 2


def test_nobody_is_told_that_it_is_on_the_disk_by_a_flush_that_failed(disk: SlowDisk) -> None:
    flush = GroupFlush(Path("wal"))
    disk.failures += [OSError(28, "No space left on device") for _ in range(3)]
    first = Waiter(flush)
    until(lambda: disk.begun == 1)
    others = [Waiter(flush) for _ in range(2)]
    until(lambda: waiting(flush) == 3)

    disk.go_on.release(3)
    for waiter in [first, *others]:
        waiter.join(10)

    assert all(waiter.error is not None for waiter in [first, *others])


def test_a_flush_reaches_the_disk_once_for_each_call_that_comes_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    add_owner(database, "a")

    database.on_disk()
    database.on_disk()

    assert synced == [f"{database.path}-wal"] * 2


def test_a_store_whose_connections_are_all_taken_is_a_problem_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no bug, so it is waited for, as for one that is locked."""
    monkeypatch.setattr(room, "_KEPT", 1)
    monkeypatch.setattr(room, "_FURTHER", 0)
    database = Database(tmp_path)
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)

    with database.reading(), pytest.raises(STORE_PROBLEMS), database.writing():
        pass

    assert owners(database) == []
    database.close()


def test_any_number_of_predictions_may_be_removed_at_a_time(
    database: Database,
) -> None:
    """SQLite takes 32,766 values in a statement where it was built as it comes."""

    @event.listens_for(database.engine, "checkout")
    def _limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 300)

    store = Store(database)
    one = store.completed()
    with database.writing() as connection:
        row = dict(connection.execute(select(predictions)).mappings().one())
        del row["number"]
        copies = [{**row, "id": f"{number:032x}", "finished_at": 1} for number in range(1000)]
        connection.execute(insert(predictions), copies)

    removed = store.predictions.remove_older(2, 2000)

    assert len(removed) == 1000
    assert store.predictions.read(one.id) is not None


# Damage -----------------------------------------------------------------------------------------


def test_a_damaged_file_is_a_store_that_cannot_be_used_and_works_again_when_it_is_mended(
    tmp_path: Path,
) -> None:
    first = Database(tmp_path)
    add_owner(first, "a")
    first.close()
    whole = first.path.read_bytes()
    again = Database(tmp_path)
    with again.reading() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    again.engine.dispose()

    first.path.write_bytes(b"no database " * 4096)
    with pytest.raises(STORE_PROBLEMS, match="not a database"):
        owners(again)
    with pytest.raises(STORE_PROBLEMS, match="not a database"):
        add_owner(again, "b")
    first.path.write_bytes(whole)

    assert owners(again) == ["a"]
    again.close()


def test_a_broken_rule_is_no_trouble_of_the_store(database: Database) -> None:
    add_owner(database, "a")

    with pytest.raises(IntegrityError):
        add_owner(database, "a")

    with pytest.raises(ProgrammingError), database.reading() as connection:
        connection.exec_driver_sql("SELECT ?", ())
    assert not issubclass(ProgrammingError, STORE_PROBLEMS)
