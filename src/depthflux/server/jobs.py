"""A worker's side of the store: taking predictions up under a lease, and ending them once.

A lease is a worker's token. Who holds it may end the prediction; once the server has seen the
worker dead it takes the lease back, and whatever that worker might still say changes nothing. So a
prediction is never computed by two workers at a time and ends once.

Knows nothing of processes, or of how pictures are made.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, bindparam, func, select, text, update
from sqlalchemy.sql.dml import ReturningUpdate

from depthflux.server.database import Database
from depthflux.server.errors import CODE_FAILED
from depthflux.server.names import now_ms
from depthflux.server.predictions import TOLD, announce, failure
from depthflux.server.rows import CANCELLED, Stored, stored
from depthflux.server.schema import predictions, turns


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a prediction was completed.

    Attributes:
        model: what ran.
        outputs: the pictures' file names, their files written.
        flags: which pictures were withheld.
        timings: milliseconds by phase.
    """

    model: str
    outputs: list[str]
    flags: list[bool]
    timings: dict[str, int]


# Statements are built once: building one costs as much as running it.
# Whose turn is longest ago, or has never been; of theirs, and of those alike, what came first. So a
# key with hundreds waiting does not keep another's first one from being next.
_FIRST = (
    select(predictions.c.number)
    .outerjoin(turns, turns.c.owner == predictions.c.owner)
    .where(predictions.c.status == "created")
    .order_by(func.coalesce(turns.c.turn, 0), predictions.c.number)
    .limit(1)
)
_IS_HERE = predictions.c.control_url == ""
# As text, since both databases have it, but SQLAlchemy only under the names of each.
_NOTE_TURN = text(
    "INSERT INTO turns (owner, turn) "
    "VALUES (:owner, (SELECT coalesce(max(turn), 0) + 1 FROM turns)) "
    "ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn"
)


class _Taking(NamedTuple):
    """Statements about the prediction whose turn it is: how often it was begun; taking it up."""

    next: Select[Any]
    claim: ReturningUpdate[Any]


def _taking(first: Select[Any]) -> _Taking:
    # Where several may write at a time, another one's choice is passed over.
    free = first.with_for_update(skip_locked=True, of=predictions)
    number, attempts = predictions.c.number, predictions.c.attempts
    return _Taking(
        next=select(attempts).where(number == first.scalar_subquery()),
        claim=update(predictions)
        .where(number == free.scalar_subquery(), predictions.c.status == "created")
        .values(
            status="processing",
            lease=bindparam("new_lease"),
            attempts=attempts + 1,
            started_at=func.coalesce(predictions.c.started_at, bindparam("now", type_=BigInteger)),
        )
        .returning(predictions),
    )


# Three of each, since only the first finds whose turn it is without reading the rows that wait.
_ANY = _taking(_FIRST)
_HERE_OF_SOME = _taking(
    _FIRST.where(_IS_HERE | predictions.c.owner.not_in(bindparam("owners", expanding=True)))
)
_HERE = _taking(_FIRST.where(_IS_HERE))


@lru_cache
def _ending(columns: tuple[str, ...]) -> ReturningUpdate[Any]:
    """Ends a prediction that a lease holds, setting these columns."""
    return (
        update(predictions)
        .where(
            predictions.c.id == bindparam("wanted"),
            predictions.c.lease == bindparam("held"),
            predictions.c.status == "processing",
        )
        .values({column: bindparam(f"new_{column}") for column in columns})
        .returning(*TOLD)
    )


class Jobs:
    """The predictions of a database, as workers see them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, lease: str, *, here_only_of: Collection[str] | None = ()) -> Stored | None:
        """Take up the prediction whose turn it is; None where none waits.

        Owners take turns; of an owner's it is the one that has waited longest.

        Args:
            lease: the worker's.
            here_only_of: owners of whom only what has its control image here is taken up; what is
                to be fetched keeps its turn. None: of all owners.
        """
        taking, owners = _restricted(here_only_of)
        given = {"new_lease": lease, "now": now_ms(), **owners}
        with self._database.writing() as connection:
            row = connection.execute(taking.claim, given).one_or_none()
            if row is not None:
                connection.execute(_NOTE_TURN, {"owner": row.owner})
        return None if row is None else stored(row)

    def attempts_of_next(self, *, here_only_of: Collection[str] | None = ()) -> int | None:
        """How often the prediction was begun whose turn it is; None where none waits.

        Asked without taking a turn at writing.

        Args:
            here_only_of: as `claim` takes it.
        """
        taking, owners = _restricted(here_only_of)
        with self._database.reading() as connection:
            found: int | None = connection.scalar(taking.next, owners)
        return found

    def is_gone(self, id: str) -> bool:
        """Whether a prediction was deleted."""
        query = select(predictions.c.number).where(predictions.c.id == id)
        with self._database.reading() as connection:
            return connection.scalar(query) is None

    def complete(self, id: str, lease: str, done: Done) -> bool:
        """End a prediction with its pictures; False where the lease is held no more."""
        values = {
            "status": "completed",
            "model": done.model,
            "outputs": json.dumps(done.outputs),
            "flags": json.dumps(done.flags),
            "timings": json.dumps(done.timings),
            "lease": "",
            "finished_at": now_ms(),
        }
        return self._end(id, lease, values)

    def fail(self, id: str, lease: str, code: int, error: str, model: str = "") -> bool:
        """End a prediction without pictures; False where the lease is held no more."""
        return self._end(id, lease, {**failure(code, error), "model": model})

    def _end(self, id: str, lease: str, values: dict[str, Any]) -> bool:
        with self._database.writing() as connection:
            new = {f"new_{column}": value for column, value in values.items()}
            ended = connection.execute(
                _ending(tuple(values)), {"wanted": id, "held": lease, **new}
            ).all()
            announce(connection, ended)
        return bool(ended)

    def release(self, lease: str, *, most_attempts: int, counted: bool = True) -> list[str]:
        """Take a dead worker's lease back: its predictions wait again, or fail.

        Args:
            lease: the worker's.
            most_attempts: a prediction begun so often fails instead of waiting again.
            counted: whether this attempt counts; not where the server itself broke it off.

        Returns:
            The ids of those that failed now.
        """
        held = predictions.c.lease == lease
        return self._release(held, most_attempts=most_attempts, counted=counted)

    def release_all_but(self, leases: Collection[str], *, most_attempts: int) -> list[str]:
        """Take back every lease that none of these workers holds; see `release`."""
        other = (predictions.c.lease != "") & predictions.c.lease.not_in(list(leases))
        return self._release(other, most_attempts=most_attempts, counted=True)

    def _release(self, held: Any, *, most_attempts: int, counted: bool) -> list[str]:
        running = predictions.c.status == "processing"
        with self._database.writing() as connection:
            if not counted:
                connection.execute(
                    update(predictions)
                    .where(held, running)
                    .values(attempts=predictions.c.attempts - 1)
                )
            failed = _fail_where(
                connection, held & running & predictions.c.cancelled, CANCELLED
            ) + _fail_where(
                connection,
                held & running & (predictions.c.attempts >= most_attempts),
                f"The worker ended unexpectedly in each of {most_attempts} attempts.",
            )
            connection.execute(
                update(predictions).where(held, running).values(status="created", lease="")
            )
        return failed


def _restricted(here_only_of: Collection[str] | None) -> tuple[_Taking, dict[str, list[str]]]:
    if here_only_of is None:
        return _HERE, {}
    return (_HERE_OF_SOME, {"owners": list(here_only_of)}) if here_only_of else (_ANY, {})


def _fail_where(connection: Connection, condition: Any, error: str) -> list[str]:
    rows = connection.execute(
        update(predictions).where(condition).values(**failure(CODE_FAILED, error)).returning(*TOLD)
    ).all()
    announce(connection, rows)
    return [row.id for row in rows]
