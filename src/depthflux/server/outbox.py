"""The webhooks that are to be sent, and the secrets that they are signed with.

A webhook is put in by the very transaction that ends its prediction, so none is forgotten; it is
taken out when it was received or given up, so one may be sent twice if the server dies in between.

Knows nothing of HTTP.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, func, insert, or_, select, update

from depthflux.images.container import PictureProblemError
from depthflux.images.url import parse_url
from depthflux.server.database import Database
from depthflux.server.names import now_ms
from depthflux.server.rows import Stored, stored
from depthflux.server.schema import predictions, secrets, webhooks

State = Literal["waiting", "delivered", "given_up"]

#: What a webhook secret begins with; no part of the key that signs.
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, no secret
_SECRET_BYTES = 32
#: By how much longer than its pause a letter may wait before the clock is held to be set back.
SLACK_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A webhook that is to be sent.

    Attributes:
        prediction: that has ended.
        attempts: how often it was sent already.
        host: who is told, see `host_of`.
    """

    prediction: Stored
    attempts: int
    host: str


class Outbox:
    """The webhooks of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now: int, most: int, but: Collection[str] = ()) -> list[Letter]:
        """Webhooks whose time has come, the longest due first.

        Args:
            now: in milliseconds since 1970.
            most: how many are wanted.
            but: hosts that are not to be told just now. However many letters there are to them,
                none is read.
        """
        found = (
            select(webhooks.c.prediction, webhooks.c.next_at, webhooks.c.attempts, webhooks.c.host)
            .where(
                webhooks.c.state == "waiting",
                webhooks.c.next_at <= now,
                webhooks.c.host.not_in(list(but)),
            )
            .order_by(webhooks.c.next_at, webhooks.c.number)
            .limit(most)
            .subquery()
        )
        query = (
            select(predictions, found.c.attempts.label("sent"), found.c.host)
            .join(found, found.c.prediction == predictions.c.id)
            .order_by(found.c.next_at, predictions.c.number)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [Letter(prediction=stored(row), attempts=row.sent, host=row.host) for row in rows]

    def next_at(self) -> int | None:
        """When the next webhook is due, in milliseconds since 1970; None where none waits."""
        query = select(func.min(webhooks.c.next_at)).where(webhooks.c.state == "waiting")
        with self._database.reading() as connection:
            found: int | None = connection.scalar(query)
        return found

    def bring_forward(self, pauses_s: Sequence[float], clock: Callable[[], int] = now_ms) -> int:
        """Let what is due later than its own pause can last be due now; how many that were.

        The clock was set back since then, and they would wait by as much longer. By some seconds
        is not noticed: an attempt may have failed, and be noted, after this has read the clock.

        Args:
            pauses_s: after the first, second … failed attempt.
            clock: tells the time in milliseconds since 1970.
        """
        # Asked without taking a turn at writing: hardly ever is there one.
        found = select(webhooks.c.prediction).where(_is_too_late(clock(), pauses_s)).limit(1)
        with self._database.reading() as connection:
            if connection.scalar(found) is None:
                return 0
        with self._database.writing() as connection:
            # The turn may have been waited for.
            now = clock()
            too_late = update(webhooks).where(_is_too_late(now, pauses_s)).values(next_at=now)
            return connection.execute(too_late).rowcount

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


def _is_too_late(now: int, pauses_s: Sequence[float]) -> ColumnElement[bool]:
    return (webhooks.c.state == "waiting") & or_(
        False,
        *(
            (webhooks.c.attempts == attempts)
            & (webhooks.c.next_at > now + round(1000 * (pause_s + SLACK_S)))
            for attempts, pause_s in enumerate(pauses_s, start=1)
        ),
    )


def host_of(url: str) -> str:
    """Who is told at a URL, by name and port: spellings of one host are one."""
    try:
        return parse_url(url.strip()).authority
    except PictureProblemError:  # accepted by an earlier version; the attempt will say why not
        return "an unreadable URL"
