"""The tables of the store. Times are milliseconds since 1970 in UTC, lists and objects JSON texts.

Nothing in here is SQLite's alone: the same tables and statements are PostgreSQL's, which a test
holds them to. Knows nothing of connections.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

#: Counts up in the order of acceptance. SQLite counts by itself in an INTEGER column only.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

predictions = Table(
    "predictions",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    # Whose it is: the id of an API key, empty where there are none.
    Column("owner", Text, nullable=False),
    # created, processing, completed, failed
    Column("status", Text, nullable=False),
    # What ran; empty until it has.
    Column("model", Text, nullable=False, default=""),
    # The request's fields but its control image, the seed drawn.
    Column("request", Text, nullable=False),
    # The control image: an address to fetch, or the name of an upload or an output.
    Column("control_url", Text, nullable=False),
    Column("control_file", Text, nullable=False),
    # The address that the client used, such as http://127.0.0.1:8000/api/v3, for webhooks.
    Column("base", Text, nullable=False),
    Column("webhook_url", Text, nullable=False),
    # What the pictures' names begin with; nobody can guess it.
    Column("secret", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # When it was first taken up; stays although it may have to wait again.
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("attempts", Integer, nullable=False, default=0),
    # Who computes it: a worker's token, empty where nobody does.
    Column("lease", Text, nullable=False, default=""),
    Column("cancelled", Boolean, nullable=False, default=False),
    Column("outputs", Text, nullable=False, default="[]"),
    Column("flags", Text, nullable=False, default="[]"),
    Column("timings", Text, nullable=False, default="{}"),
    Column("code", Integer, nullable=False, default=0),
    Column("error", Text, nullable=False, default=""),
    # With the owner, so that whose turn it is is found without reading the rows that wait.
    Index("predictions_by_status", "status", "number", "owner"),
    Index("predictions_by_owner", "owner", "number"),
    Index("predictions_by_end", "finished_at"),
    # Never a number twice, even after the newest rows were deleted.
    sqlite_autoincrement=True,
)

turns = Table(
    "turns",
    metadata,
    Column("owner", Text, primary_key=True),
    # Counts up with every prediction that is taken up: the lowest was served least recently. Kept
    # here and not found in the predictions, since whoever deletes theirs would always be first.
    Column("turn", BigInteger, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    # The file's name, which is also the end of its address; nobody can guess it.
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    # The end of the address that a ticket's bytes are put to; empty for one without a ticket.
    Column("ticket", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    # Empty until the bytes are here.
    Column("sha256", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    # The prediction in whose request it came; empty for one that a client uploaded.
    Column("prediction", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("uploads_by_ticket", "ticket"),
    Index("uploads_by_prediction", "prediction"),
    Index("uploads_by_age", "created_at"),
    Index("uploads_by_owner", "owner", "sha256"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    # sha256 of what was asked for under the key.
    Column("fingerprint", Text, nullable=False),
    Column(
        "prediction",
        Text,
        ForeignKey("predictions.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column(
        "prediction",
        Text,
        ForeignKey("predictions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    # waiting, delivered, given_up
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
    # The prediction's: of those due at a time, what was accepted first is told first.
    Column("number", BigInteger, nullable=False),
    # Who is told, by name and port: how many are on their way at a time is bounded for each.
    Column("host", Text, nullable=False),
    # With the host, so that letters to one that has enough on their way are passed over unread.
    Index("webhooks_by_time", "state", "next_at", "number", "host"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("webhook", Text, nullable=False),
)

#: What this version of the tables is called; another is refused instead of guessed at.
VERSION = 2

versions = Table("versions", metadata, Column("version", Integer, primary_key=True))
