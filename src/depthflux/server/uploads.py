"""The pictures that clients have uploaded: what is known of them; their bytes lie in media.py.

Knows nothing of HTTP or of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, update

from depthflux.errors import BusyError
from depthflux.server.database import Database
from depthflux.server.names import now_ms
from depthflux.server.schema import predictions, uploads

#: Tickets of an owner whose bytes have not come; nobody needs as many at a time.
MOST_OPEN_TICKETS = 1000
#: When to ask for a ticket again where too many are open, in seconds.
_TICKET_RETRY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An uploaded picture whose file is written.

    Attributes:
        name: of the file, which is also the end of its address.
        size: in bytes.
        sha256: of the bytes.
        media_type: what the bytes are, such as `image/png`.
    """

    name: str
    size: int
    sha256: str
    media_type: str


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """The promise of an upload.

    Attributes:
        name: what the file will be called.
        size: in bytes, as announced.
        secret: the end of the address that the bytes are put to.
        owner: whose.
        sha256: of the bytes that have come; empty before.
    """

    name: str
    size: int
    secret: str
    owner: str
    sha256: str = ""


class Uploads:
    """The uploads of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, picture: Picture, owner: str) -> None:
        """Take in a picture whose file is written."""
        with self._database.writing() as connection:
            connection.execute(insert(uploads).values(**picture_values(picture, owner, "")))

    def add_ticket(self, ticket: Ticket, *, most_open: int = MOST_OPEN_TICKETS) -> None:
        """Promise an upload.

        Args:
            ticket: the promise.
            most_open: how many of an owner may be open at a time.

        Raises:
            BusyError: so many are.
        """
        is_open = (uploads.c.owner == ticket.owner) & (uploads.c.sha256 == "")
        count = select(func.count()).select_from(uploads).where(is_open)
        with self._database.writing() as connection:
            found = connection.scalar(count) or 0
            if found >= most_open:
                raise BusyError(
                    f"{found} upload tickets of this key are open, the most that are allowed; use "
                    "them, or wait until they end after a day.",
                    retry_after_s=_TICKET_RETRY_S,
                )
            connection.execute(
                insert(uploads).values(
                    name=ticket.name,
                    owner=ticket.owner,
                    ticket=ticket.secret,
                    size=ticket.size,
                    sha256="",
                    media_type="",
                    prediction="",
                    created_at=now_ms(),
                )
            )

    def find_ticket(self, secret: str) -> Ticket | None:
        """The ticket with this secret; None where there is none."""
        query = select(uploads).where(uploads.c.ticket == secret)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Ticket(
            name=row.name, size=row.size, secret=row.ticket, owner=row.owner, sha256=row.sha256
        )

    def keep(self, picture: Picture) -> bool:
        """Note that a ticket's bytes are here; False where others were first."""
        with self._database.writing() as connection:
            kept = connection.execute(
                update(uploads)
                .where(
                    uploads.c.name == picture.name,
                    uploads.c.sha256.in_(("", picture.sha256)),
                )
                .values(size=picture.size, sha256=picture.sha256, media_type=picture.media_type)
            )
        return kept.rowcount == 1

    def find(self, name: str) -> Picture | None:
        """The picture of this name; None where there is none, or its bytes have not come."""
        query = select(uploads).where(uploads.c.name == name, uploads.c.sha256 != "")
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Picture(name=row.name, size=row.size, sha256=row.sha256, media_type=row.media_type)

    def remove_older(self, before: int, open_before: int = 0) -> list[str]:
        """Delete uploads older than a time that nothing unfinished needs; their names.

        Args:
            before: in milliseconds since 1970.
            open_before: the same for tickets whose bytes have not come.
        """
        is_old = or_(
            uploads.c.created_at < before,
            (uploads.c.sha256 == "") & (uploads.c.created_at < open_before),
        )
        needed = select(predictions.c.control_file).where(
            predictions.c.status.in_(("created", "processing"))
        )
        # What came inside a request goes with its prediction.
        with self._database.writing() as connection:
            rows = connection.scalars(
                delete(uploads)
                .where(
                    is_old,
                    uploads.c.prediction == "",
                    uploads.c.name.not_in(needed),
                )
                .returning(uploads.c.name)
            )
            return list(rows)

    def file_names(self) -> set[str]:
        """The names of all uploads."""
        with self._database.reading() as connection:
            return set(connection.scalars(select(uploads.c.name)))


def picture_values(picture: Picture, owner: str, prediction: str) -> dict[str, Any]:
    """The row of a picture whose file is written."""
    return {
        "name": picture.name,
        "owner": owner,
        "ticket": "",
        "size": picture.size,
        "sha256": picture.sha256,
        "media_type": picture.media_type,
        "prediction": prediction,
        "created_at": now_ms(),
    }
