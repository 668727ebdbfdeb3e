"""The predictions that were accepted: taking them in, reading, cancelling, deleting, ageing.

A prediction is created, taken up by a worker (depthflux.server.jobs), and ends completed or failed,
once. Everything here is one transaction, so whatever is killed, a prediction is wholly in or not.

Knows nothing of HTTP, or of what pictures are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from depthflux.contract import Status
from depthflux.errors import BusyError, show
from depthflux.server.database import Database
from depthflux.server.errors import CODE_FAILED, IdempotencyError
from depthflux.server.names import new_secret, now_ms
from depthflux.server.outbox import host_of
from depthflux.server.rows import (
    CANCELLED,
    Caps,
    Idempotency,
    NewPrediction,
    Page,
    Removed,
    Stored,
    output_names,
    stored,
)
from depthflux.server.schema import idempotency, predictions, uploads, webhooks
from depthflux.server.uploads import picture_values

#: What the outbox has to know of a prediction that has ended.
TOLD = (predictions.c.id, predictions.c.webhook_url, predictions.c.number)

# Statements that are asked often are built once: building one costs as much as running it.
_BY_ID = select(predictions).where(predictions.c.id == bindparam("wanted"))
_INSERT = insert(predictions).returning(predictions)
_COUNT_WAITING = (
    select(func.count()).select_from(predictions).where(predictions.c.status == "created")
)
_COUNT_OWN_WAITING = _COUNT_WAITING.where(predictions.c.owner == bindparam("whose"))


class Predictions:
    """The predictions of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self, new: NewPrediction, caps: Caps, once: Idempotency | None = None
    ) -> tuple[Stored, bool]:
        """Take a prediction in, or find the one that the same key has brought before.

        Returns:
            The prediction, and whether it is new. It is committed, and would survive a power cut
            after the database's `on_disk`.

        Raises:
            BusyError: too many are waiting.
            IdempotencyError: the key has brought another request before.
        """
        with self._database.writing() as connection:
            if once is not None and (before := _brought_before(connection, new.owner, once)):
                return before, False
            _require_room(connection, new.owner, caps)
            row = connection.execute(_INSERT, _values(new)).one()
            if new.picture is not None:
                connection.execute(
                    insert(uploads).values(**picture_values(new.picture, new.owner, new.id))
                )
            if once is not None:
                connection.execute(
                    insert(idempotency).values(
                        owner=new.owner,
                        key=once.key,
                        fingerprint=once.fingerprint,
                        prediction=new.id,
                    )
                )
            return stored(row), True

    def find_repeat(self, owner: str, once: Idempotency) -> Stored | None:
        """The prediction that the same key has brought before; None where it has not.

        Raises:
            IdempotencyError: the key has brought another request before.
        """
        with self._database.reading() as connection:
            return _brought_before(connection, owner, once)

    def read(self, id: str, owner: str | None = None) -> Stored | None:
        """A prediction; None where there is none, or it is another owner's.

        Args:
            id: the prediction's.
            owner: who asks; None for the server itself.
        """
        with self._database.reading() as connection:
            row = connection.execute(_BY_ID, {"wanted": id}).one_or_none()
        if row is None or (owner is not None and row.owner != owner):
            return None
        return stored(row)

    def page(
        self,
        owner: str,
        *,
        page: int,
        size: int,
        status: Status | None = None,
        model: str | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
    ) -> Page:
        """An owner's predictions, newest first.

        Args:
            owner: whose.
            page: which part, from 1.
            size: how many a part has.
            status: only those that show it.
            model: only those that it computed.
            created_after: only those from this time on, in milliseconds since 1970.
            created_before: only those before this time.
        """
        conditions = [predictions.c.owner == owner]
        if status is not None:
            conditions.append(_shows(status))
        if model is not None:
            conditions.append(predictions.c.model == model)
        if created_after is not None:
            conditions.append(predictions.c.created_at >= created_after)
        if created_before is not None:
            conditions.append(predictions.c.created_at < created_before)
        count = select(func.count()).select_from(predictions).where(*conditions)
        newest = select(predictions).where(*conditions).order_by(predictions.c.number.desc())
        with self._database.reading() as connection:
            total = connection.scalar(count)
            rows = connection.execute(newest.limit(size).offset((page - 1) * size)).all()
        return Page(items=[stored(row) for row in rows], total=total or 0)

    def cancel(self, id: str, owner: str) -> tuple[Stored, bool] | None:
        """Ask a prediction to stop: at once if it waits, between two steps if it runs.

        Returns:
            The prediction as it is now, and whether it has ended just now; one that had ended
            stays as it is. None where there is none of this owner.
        """
        mine = (predictions.c.id == id) & (predictions.c.owner == owner)
        with self._database.writing() as connection:
            waiting = connection.execute(
                update(predictions)
                .where(mine, predictions.c.status == "created")
                .values(**failure(CODE_FAILED, CANCELLED), cancelled=True)
                .returning(*TOLD)
            ).all()
            announce(connection, waiting)
            connection.execute(
                update(predictions)
                .where(mine, predictions.c.status == "processing")
                .values(cancelled=True)
            )
            row = connection.execute(select(predictions).where(mine)).one_or_none()
        return None if row is None else (stored(row), bool(waiting))

    def remove(self, ids: Sequence[str], owner: str) -> list[Removed]:
        """Delete an owner's predictions; ids that there are none of are passed over."""
        return self._remove(predictions.c.id.in_(ids) & (predictions.c.owner == owner))

    def remove_older(self, before_ms: int, most: int) -> list[Removed]:
        """Delete some predictions that ended before a time, the oldest first.

        Args:
            before_ms: milliseconds since 1970.
            most: at a time, since others wait meanwhile.
        """
        oldest = (
            select(predictions.c.id)
            .where(predictions.c.finished_at < before_ms)
            .order_by(predictions.c.number)
            .limit(most)
        )
        return self._remove(predictions.c.id.in_(oldest))

    def _remove(self, condition: Any) -> list[Removed]:
        with self._database.writing() as connection:
            # A picture that came inside a request goes with it, unless its address was given to
            # another one that still needs it; then it ages like an upload.
            theirs = uploads.c.prediction.in_(select(predictions.c.id).where(condition))
            needed = select(predictions.c.control_file).where(
                predictions.c.status.in_(("created", "processing")),
                # Not the negation: what has not ended has no time of its end to compare.
                predictions.c.id.not_in(select(predictions.c.id).where(condition)),
            )
            own = connection.execute(
                delete(uploads)
                .where(theirs, uploads.c.name.not_in(needed))
                .returning(uploads.c.prediction, uploads.c.name)
            ).all()
            connection.execute(update(uploads).where(theirs).values(prediction=""))
            rows = connection.execute(
                delete(predictions).where(condition).returning(predictions)
            ).all()
        gone = [stored(row) for row in rows]
        names = {prediction: name for prediction, name in own}
        return [
            Removed(
                id=one.id,
                files=output_names(one),
                upload=names.get(one.id, ""),
                was_running=one.status == "processing",
            )
            for one in gone
        ]

    def counts(self) -> dict[str, int]:
        """How many predictions are in which state."""
        query = select(predictions.c.status, func.count()).group_by(predictions.c.status)
        with self._database.reading() as connection:
            return {status: count for status, count in connection.execute(query)}

    def secrets(self) -> set[str]:
        """What the names of pictures begin with that are needed, or may yet be.

        Not those of predictions that failed: a worker may have died with its pictures written.
        """
        query = select(predictions.c.secret).where(predictions.c.status != "failed")
        with self._database.reading() as connection:
            return set(connection.scalars(query))


def failure(code: int, error: str) -> dict[str, Any]:
    """The columns of a prediction that failed."""
    return {
        "status": "failed",
        "code": code,
        "error": error,
        "lease": "",
        "finished_at": now_ms(),
    }


def announce(connection: Connection, ended: Sequence[Row[Any]]) -> None:
    """Put into the outbox that predictions have ended; rows of TOLD."""
    wanted = [one for one in ended if one.webhook_url]
    if wanted:
        connection.execute(
            insert(webhooks),
            [
                {
                    "prediction": one.id,
                    "state": "waiting",
                    "attempts": 0,
                    "next_at": 0,
                    "problem": "",
                    "number": one.number,
                    "host": host_of(one.webhook_url),
                }
                for one in wanted
            ],
        )


def _shows(status: Status) -> Any:
    column, started = predictions.c.status, predictions.c.started_at
    if status == "created":
        return (column == "created") & started.is_(None)
    if status == "processing":
        return (column == "processing") | ((column == "created") & started.is_not(None))
    return column == status


def _values(new: NewPrediction) -> dict[str, Any]:
    return {
        "id": new.id,
        "owner": new.owner,
        "status": "created",
        "request": json.dumps(new.fields),
        "control_url": new.control_url,
        "control_file": new.control_file,
        "base": new.base,
        "webhook_url": new.webhook_url,
        "secret": new_secret(),
        "created_at": now_ms(),
    }


def _brought_before(connection: Connection, owner: str, once: Idempotency) -> Stored | None:
    # In one statement: between two, the prediction could be deleted.
    before = connection.execute(
        select(predictions, idempotency.c.fingerprint)
        .join(idempotency, idempotency.c.prediction == predictions.c.id)
        .where(idempotency.c.owner == owner, idempotency.c.key == once.key)
    ).one_or_none()
    if before is None:
        return None
    if before.fingerprint != once.fingerprint:
        raise IdempotencyError(
            f"Idempotency-Key={show(once.key)} came with another request before; use a new key "
            "for a new request.",
            field="Idempotency-Key",
            value=once.key,
            allowed="a key for each request",
        )
    return stored(before)


def _require_room(connection: Connection, owner: str, caps: Caps) -> None:
    waiting = connection.scalar(_COUNT_WAITING)
    if (waiting or 0) >= caps.queued:
        raise BusyError(
            f"{waiting} predictions are waiting, the most that this server takes; try again later.",
            retry_after_s=caps.retry_after_s(waiting or 0),
        )
    if caps.share:
        own = connection.scalar(_COUNT_OWN_WAITING, {"whose": owner})
        if (own or 0) >= caps.share:
            raise BusyError(
                f"{own} predictions of this key are waiting, the most that one of several keys may "
                "have; try again later.",
                retry_after_s=caps.retry_after_s(own or 0),
            )
    if not caps.active:
        return
    active = connection.scalar(
        select(func.count())
        .select_from(predictions)
        .where(predictions.c.owner == owner, predictions.c.status.in_(("created", "processing")))
    )
    if (active or 0) >= caps.active:
        raise BusyError(
            f"{active} predictions of this key wait or run, the most that are allowed; "
            "try again when one has ended.",
            retry_after_s=caps.retry_after_s(active or 0),
        )
