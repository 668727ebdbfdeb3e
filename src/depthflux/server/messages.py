"""What the server and a worker tell each other: one JSON document a line, nothing that runs.

    server → worker   start     what to load, where the data lies, which lease
                      wake      a prediction waits
                      cancel    stop this prediction
                      drain     take nothing new, end when what runs has ended
    worker → server   ready     loaded: the model, the device, how many devices there are
                      step      a prediction's progress
                      ended     a prediction has ended
                      dropped   a prediction is this worker's no more: deleted, or taken back
                      alive     said every few seconds; who falls silent loses its lease
                      refused   it cannot load, and why

What must not be lost is in the store; these lines only make waiting short. Knows nothing of
processes.
"""

from __future__ import annotations

from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Message(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def line(self) -> bytes:
        """The message as it is sent."""
        return self.model_dump_json().encode() + b"\n"


class Start(Message):
    """What to load, and under which lease to take predictions up."""

    kind: Literal["start"] = "start"
    target: str
    settings: dict[str, str | int | float | bool | None]
    data_dir: str
    slot: int
    lease: str
    fail_when_all_flagged: bool
    prediction_timeout_s: float
    has_several_keys: bool


class Wake(Message):
    """A prediction waits."""

    kind: Literal["wake"] = "wake"


class Cancel(Message):
    """Stop this prediction."""

    kind: Literal["cancel"] = "cancel"
    id: str


class Drain(Message):
    """Take nothing new."""

    kind: Literal["drain"] = "drain"


class Ready(Message):
    """The model is loaded."""

    kind: Literal["ready"] = "ready"
    model: str
    device: str
    device_count: int


class Step(Message):
    """A prediction's progress."""

    kind: Literal["step"] = "step"
    id: str
    step: int
    total: int


class Ended(Message):
    """A prediction has ended, completed or failed, and is so in the store."""

    kind: Literal["ended"] = "ended"
    id: str
    status: Literal["completed", "failed"]
    code: int = 0
    inference_ms: int = 0
    #: Whether a client is to be told by a webhook.
    is_told: bool = False


class Dropped(Message):
    """A prediction is this worker's no more; what it made of it counts for nothing."""

    kind: Literal["dropped"] = "dropped"
    id: str


class Alive(Message):
    """The worker is there."""

    kind: Literal["alive"] = "alive"


class Refused(Message):
    """The model cannot be loaded."""

    kind: Literal["refused"] = "refused"
    error: str


FromServer = Annotated[Start | Wake | Cancel | Drain, Field(discriminator="kind")]
FromWorker = Annotated[
    Ready | Step | Ended | Dropped | Alive | Refused, Field(discriminator="kind")
]

# Ids come once and never again; kept as parsed strings, as values are by default, thousands of them
# would pile up.
_PARSING = ConfigDict(cache_strings="keys")
_FROM_SERVER: TypeAdapter[FromServer] = TypeAdapter(FromServer, config=_PARSING)
_FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(FromWorker, config=_PARSING)


def read_from_server(stream: IO[bytes]) -> FromServer | None:
    """The next message of the server; None where there will be none."""
    line = stream.readline()
    return _FROM_SERVER.validate_json(line) if line else None


def parse_from_worker(line: bytes) -> FromWorker | None:
    """A worker's message; None where the line is none, as when a library prints."""
    try:
        return _FROM_WORKER.validate_json(line)
    except ValidationError:
        return None
