"""One database: opening it, transactions, and what is on the disk before an answer is sent.

SQLite in WAL mode: readers never wait for a writer, and several processes share the file. A commit
is whole for every process at once, whatever is killed; whether it would survive a power cut is
decided by `on_disk`, which an answer waits for and a worker need not. So one flush of the disk
serves every request that is waiting for one, and a worker begins meanwhile.

Knows nothing of what is in the tables.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from depthflux.errors import SettingsError, first_line
from depthflux.files import flush_file
from depthflux.server.schema import VERSION, metadata, versions

FILE_NAME = "depthflux.sqlite3"
#: What a store that is locked for too long, full, damaged or unreachable raises; all else is a bug.
STORE_PROBLEMS = (OperationalError, PoolTimeoutError)
#: Longest wait for another process's transaction, in seconds.
LOCK_TIMEOUT_S = 30.0
#: Connections kept open, and further ones at most: more than there are threads that may want one
#: (40 for requests, 8 for webhooks, some in the background) beside the event loop, which must never
#: wait for one.
_KEPT, _FURTHER = 8, 72

#: Pages that a connection keeps, in KiB.
_CACHE_KIB = 256

_READING = "depthflux_reading"


class Database:
    """The store's database, made where it is not there yet.

    Attributes:
        path: of its file.
        engine: SQLAlchemy's; its transactions take their turn at writing when they begin.

    Raises:
        SettingsError: the file cannot be opened, or another version of depthflux made it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.engine = _open(URL.create("sqlite", database=str(self.path)))
        self._reading = self.engine.execution_options(**{_READING: True})
        self._flush = GroupFlush(self.path.with_name(FILE_NAME + "-wal"))
        try:
            self._make_tables()
        except SettingsError:
            self.close()
            raise
        except DatabaseError as error:
            self.close()
            raise SettingsError(
                f"data_dir: {self.path} cannot be used: {first_line(error.orig or error)}.",
                fix="Name another folder with --data-dir.",
            ) from error

    def _make_tables(self) -> None:
        with self.writing() as connection:
            metadata.create_all(connection)
            found = connection.scalar(select(versions.c.version))
            if found is None:
                connection.execute(insert(versions).values(version=VERSION))
            elif found != VERSION:
                raise SettingsError(
                    f"data_dir: {self.path} has version {found}; this depthflux reads {VERSION}.",
                    fix="Run the depthflux that made it, or name another folder with --data-dir.",
                )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading; each statement sees what is committed when it begins."""
        with self._reading.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: all of it or, after an exception, nothing."""
        with self.engine.begin() as connection:
            yield connection

    def on_disk(self) -> None:
        """Return once everything committed so far would survive a power cut.

        Raises:
            OSError: the disk refuses.
        """
        self._flush()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class GroupFlush:
    """Flushes a file to the disk, once for all threads that wait for it at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._asked = self._done = self._failed = 0
        self._flushing = False

    def __call__(self) -> None:
        """Return once what was written before the call is on the disk.

        Raises:
            OSError: the disk refuses. All whose writing it may concern get it: the kernel tells of
                a failure once, and would tell the next one who asks that all is well.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            while self._flushing and self._done < mine and self._failed < mine:
                self._changed.wait()
            if self._failed >= mine:
                raise OSError(errno.EIO, "the disk refuses")
            if self._done >= mine:
                return
            self._flushing, upto = True, self._asked
        done = False
        try:
            # Opened anew each time: a checkpoint may have exchanged the file, and what was in the
            # old one is in the database then, flushed by SQLite.
            flush_file(self._path)
            done = True
        finally:
            with self._changed:
                self._flushing = False
                if done:
                    self._done = upto
                else:
                    # Those who have asked meanwhile, too: they had written before.
                    self._failed = self._asked
                self._changed.notify_all()


def _open(address: URL) -> Engine:
    # The newest first, so that a quiet server has one or two connections in use.
    engine = create_engine(
        address,
        pool_size=_KEPT,
        max_overflow=_FURTHER,
        pool_use_lifo=True,
        # Prompts and webhooks' addresses: an error that names them would carry them into the log.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        # Transactions are begun below, not by the driver, which would begin them too late.
        connection.isolation_level = None
        cursor = connection.cursor()
        # First, since a change of the journal's mode may itself have to wait.
        cursor.execute(f"PRAGMA busy_timeout = {int(1000 * LOCK_TIMEOUT_S)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # A commit reaches the operating system, which outlives any process; see `on_disk`.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # A connection's pages are void whenever another one has committed, and the operating
        # system has them anyway; with the default of 2 MB each, memory would grow with the store.
        cursor.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes then would be refused where another came in
        # between; so one that may write takes its turn at once.
        if not connection.get_execution_options().get(_READING):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "handle_error", _as_store_problem)
    return engine


def _as_store_problem(context: ExceptionContext) -> OperationalError | None:
    """A damaged file as what a store that cannot be used raises.

    SQLite calls it the base of all errors; those under it, such as of a broken rule, are bugs. What
    its connections have read of the file they would go on believing once it is mended, so all are
    opened anew.
    """
    found = context.sqlalchemy_exception
    if type(found) is not DatabaseError or found.orig is None:
        return None
    context.is_disconnect = True
    return OperationalError(found.statement, found.params, found.orig)
