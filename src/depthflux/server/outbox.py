"""The webhooks that are to be sent, and the secrets that they are signed with.

A webhook is put in by the very transaction that ends its prediction, so none is forgotten; it is
taken out when it was received or given up, so one may be sent twice if the server dies in between.

Knows nothing of HTTP.
"""

from __future__ import annotations

import secrets as randomness
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, insert, select, update

from depthflux.server.database import Database
from depthflux.server.rows import Stored, stored
from depthflux.server.schema import predictions, secrets, webhooks

State = Literal["waiting", "delivered", "given_up"]

#: What a webhook secret begins with; no part of the key that signs.
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, no secret
_SECRET_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A webhook that is to be sent.

    Attributes:
        prediction: that has ended.
        attempts: how often it was sent already.
    """

    prediction: Stored
    attempts: int


class Outbox:
    """The webhooks of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now: int, most: int) -> list[Letter]:
        """Webhooks whose time has come, the longest due first."""
        query = (
            select(predictions, webhooks.c.attempts.label("sent"))
            .join(webhooks, webhooks.c.prediction == predictions.c.id)
            .where(webhooks.c.state == "waiting", webhooks.c.next_at <= now)
            .order_by(webhooks.c.next_at, predictions.c.number)
            .limit(most)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [Letter(prediction=stored(row), attempts=row.sent) for row in rows]

    def next_at(self) -> int | None:
        """When the next webhook is due, in milliseconds since 1970; None where none waits."""
        query = select(func.min(webhooks.c.next_at)).where(webhooks.c.state == "waiting")
        with self._database.reading() as connection:
            found: int | None = connection.scalar(query)
        return found

    def note(self, id: str, *, state: State, next_at: int = 0, problem: str = "") -> None:
        """Note that a webhook was sent once more, and what became of it."""
        with self._database.writing() as connection:
            connection.execute(
                update(webhooks)
                .where(webhooks.c.prediction == id)
                .values(
                    state=state,
                    attempts=webhooks.c.attempts + 1,
                    next_at=next_at,
                    problem=problem,
                )
            )

    def state(self, id: str) -> tuple[State, int, str] | None:
        """State, attempts and last problem of a prediction's webhook; None where it has none."""
        query = select(webhooks.c.state, webhooks.c.attempts, webhooks.c.problem).where(
            webhooks.c.prediction == id
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row.state, row.attempts, row.problem)

    def secret(self, owner: str) -> str:
        """An owner's webhook secret, made when it is first asked for: `whsec_` and 64 digits."""
        query = select(secrets.c.webhook).where(secrets.c.owner == owner)
        with self._database.reading() as connection:
            found = connection.scalar(query)
        if found is not None:
            return str(found)
        with self._database.writing() as connection:
            # Another thread may have been first.
            found = connection.scalar(query)
            if found is None:
                found = SECRET_PREFIX + randomness.token_hex(_SECRET_BYTES)
                connection.execute(insert(secrets).values(owner=owner, webhook=found))
        return str(found)
