"""A prediction in the store, in words: what is accepted, what is kept, what is shown of it.

Knows nothing of statements or connections.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from depthflux.contract import Status
from depthflux.server.names import new_id
from depthflux.server.schema import predictions
from depthflux.server.uploads import Picture

CANCELLED = "The prediction was cancelled by its owner."


@dataclass(frozen=True, kw_only=True)
class NewPrediction:
    """What is accepted.

    Attributes:
        owner: the id of an API key, empty where there are none.
        fields: the request's, its control image left out, its seed drawn.
        control_url: where the control image is fetched from; empty if it is here.
        control_file: the name of an upload or an output; empty if it is fetched.
        base: what the client's addresses begin with, such as `http://127.0.0.1:8000/api/v3`.
        webhook_url: who is told; empty for nobody.
        picture: a control image that came inside the request, its file written; else None.
        id: 32 hexadecimal digits.
    """

    owner: str
    fields: dict[str, Any]
    control_url: str
    control_file: str
    base: str
    webhook_url: str
    picture: Picture | None = None
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """A client's word that two submissions are one.

    Attributes:
        key: the client's.
        fingerprint: sha256 of what is asked for.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Caps:
    """How much may wait.

    Attributes:
        queued: most predictions that wait, of all owners.
        active: most predictions of one owner that wait or run; 0 for no limit.
        share: most predictions of one owner that wait; 0 for no limit.
        retry_after_s: when to ask again, given how many are before.
    """

    queued: int
    active: int
    retry_after_s: Callable[[int], float]
    share: int = 0


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A prediction as it is in the store; times in milliseconds since 1970, None before they are.

    Attributes:
        number: counts up in the order of acceptance.
        id: 32 hexadecimal digits.
        owner: whose.
        status: as it is shown; it never goes back.
        model: what ran; empty before.
        fields: the request's but its control image, the seed drawn.
        control_url: where the control image is fetched from; empty if it is here.
        control_file: the name of an upload or an output; empty if it is fetched.
        base: what the client's addresses begin with.
        webhook_url: who is told; empty for nobody.
        secret: what the pictures' names begin with.
        created_at: when it was accepted.
        started_at: when it was first taken up.
        finished_at: when it ended.
        attempts: how often it was begun.
        lease: the token of the worker that computes it; empty where none does.
        outputs: the pictures' file names, in order.
        flags: which pictures were withheld.
        timings: milliseconds by phase; empty before it was completed.
        error: why it failed, in words; empty if it did not.
        code: why it failed, as the hosted endpoint numbers it; 0 if it did not.
        cancelled: whether its owner asked to stop it.
    """

    number: int
    id: str
    owner: str
    status: Status
    model: str
    fields: dict[str, Any]
    control_url: str
    control_file: str
    base: str
    webhook_url: str
    secret: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    attempts: int
    lease: str
    cancelled: bool
    outputs: list[str]
    flags: list[bool]
    timings: dict[str, int]
    code: int
    error: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Part of a list, newest first.

    Attributes:
        total: how many there are in all.
    """

    items: list[Stored]
    total: int


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a deletion leaves to be done outside of the store.

    Attributes:
        id: the prediction's.
        files: the names that its pictures have or would have got.
        upload: the name of the picture that came inside its request; empty if none did.
        was_running: whether a worker computes it.
    """

    id: str
    files: list[str]
    upload: str
    was_running: bool


def output_names(one: Stored) -> list[str]:
    """What the files of a prediction's pictures are called: the same in every attempt."""
    extension = one.fields["output_format"]
    # What versions before have accepted does not have the field.
    count = 1 if one.fields.get("only_depth_map") else one.fields["num_images"]
    return [f"{one.secret}-{index}.{extension}" for index in range(count)]


_COLUMNS = tuple(predictions.columns.keys())


def stored(row: Row[Any]) -> Stored:
    """A row of the table as the rest of the server takes it."""
    # The table's columns come first; a join's row has further ones.
    values = dict(zip(_COLUMNS, row, strict=False))
    return Stored(
        fields=json.loads(values.pop("request")),
        status=_shown(values.pop("status"), values["started_at"]),
        outputs=json.loads(values.pop("outputs")),
        flags=json.loads(values.pop("flags")),
        timings=json.loads(values.pop("timings")),
        **values,
    )


def _shown(status: Status, started_at: int | None) -> Status:
    # A client never sees a prediction go back, though its worker may have died.
    return "processing" if status == "created" and started_at is not None else status
