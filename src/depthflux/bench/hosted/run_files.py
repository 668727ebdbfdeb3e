"""The files of a run's folder: their names, what is in them, and how they are read.

What is read may be a stranger's, such as a recording that somebody passes on: it is what a run
writes, or it is refused. Knows nothing of when they are written.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from depthflux.bench.document import Strict
from depthflux.errors import InvalidParameterError, show
from depthflux.files import read_regular

#: Of everything in a folder but report.json, which has its own.
RECORDING_SCHEMA = 1
#: Names of the sides, and of their folders.
SideName = Literal["hosted", "local", "against"]
HOSTED: Final = "hosted"
LOCAL: Final = "local"
AGAINST: Final = "against"

PLAN, SUITE, MANIFEST = "plan.json", "suite.toml", "manifest.json"
REPORT, PAGE = "report.json", "report.html"
CONTROL, DEPTH, SIDE = "control", "depth", "side.json"
INTENT, SUBMISSION, EXCHANGES, OUTCOME = (
    "intent.json",
    "submission.json",
    "exchanges.json",
    "outcome.json",
)
#: Endings of pictures by what their bytes are.
ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
#: What `write_atomically` leaves of a file where the process is killed meanwhile.
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{16}")
#: Names that a run gives: lower-case words, hyphens and one dot before an ending.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9]+)?")
_MOST_PARTS = 3

Part = TypeVar("Part", bound=BaseModel)


class MeasuredEnergy(Strict):
    """What the GPU drew while a side's tasks were under way.

    Attributes:
        joules: above nothing, so what it draws when idle is in it.
        seconds: how long tasks were under way.
        pictures: how many of them were completed meanwhile.
    """

    joules: float
    seconds: float
    pictures: int


class SideFacts(Strict):
    """What is known of a side beside its outcomes; written when it is begun and when it ends.

    Attributes:
        name: also its folder's.
        label: what a person calls it.
        address: of the hosted API; empty for a local profile.
        model: `data.model` of its answers; empty where nothing was answered.
        profile: the local profile's name; empty for a hosted side.
        settings: its effective settings as JSON values; empty for a hosted side.
        device: what it ran on; empty for a hosted side, or where nothing was painted.
        gpu: what nvidia-smi states of it, such as its driver's version; empty where that is not
            known.
        recorded_at: when its answers were recorded, RFC 3339.
        concurrency: tasks under way at a time.
        poll_interval_seconds: between two polls of a task.
        sync_mode: whether answers were awaited in the submission itself.
        upload_seconds: by case, of its control image.
        load_seconds: of a local side, from its start until it could paint, warmed up; None for a
            hosted one.
        not_warmed: why the picture that a local side is asked for before its first task was not
            painted, in a part of the run at least; empty where it was.
        energy: None where it was not measured.
        energy_missing: why not; empty where it was.
        unread: fields of its answers that held what the API does not have, and counted as not told.
        impossible_inferences: how many tasks' reported seconds counted as not told, since they were
            under a millisecond or longer than the whole task.
    """

    name: SideName
    label: str
    address: str
    model: str = ""
    profile: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    device: str = ""
    gpu: dict[str, str] = Field(default_factory=dict)
    recorded_at: str
    concurrency: int
    poll_interval_seconds: float
    sync_mode: bool
    upload_seconds: dict[str, float] = Field(default_factory=dict)
    load_seconds: float | None = None
    not_warmed: str = ""
    energy: MeasuredEnergy | None = None
    energy_missing: str = ""
    unread: list[str] = Field(default_factory=list)
    impossible_inferences: int = 0


class Intent(Strict):
    """A task that is about to be sent.

    Attributes:
        task: its key.
        fields: of its request, less the control image.
        began_at: seconds since 1970.
    """

    task: str
    fields: dict[str, Any]
    began_at: float


class Submission(Strict):
    """A task that was taken.

    Attributes:
        prediction: the side's id.
        polled_on: whether a later run went on asking for it, so that its times were not seen.
    """

    prediction: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")
    polled_on: bool = False


def read_part(run: Path, name: str, kind: type[Part]) -> Part:
    """A file of a run as what it should be.

    Raises:
        InvalidParameterError: it is not there, or something else, or of a later version.
    """
    data = read_file(run, name)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        if (version := _schema_version(data)) > RECORDING_SCHEMA:
            raise _later(run, name, version) from error
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise bad_folder(run, f"{name}: {show(place)}: {problem['msg']}") from error


def inside(run: Path, name: str) -> Path:
    """The path of a file of a run by its name in it, such as `hosted/red-cube-0/0.jpg`.

    Raises:
        InvalidParameterError: it is no name that a run gives, such as one that leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    is_plain = "/".join(parts) == name and all(map(is_name, parts))
    if not is_plain or not 1 <= len(parts) <= _MOST_PARTS:
        raise bad_folder(run, f"it names {show(name)}, which is no file of a run")
    return run.joinpath(*parts)


def _schema_version(data: bytes) -> int:
    """The version that a file of a run names; 0 where it names none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return 0
    version = document.get("schema_version") if isinstance(document, dict) else None
    return version if isinstance(version, int) else 0


def _later(run: Path, name: str, version: int) -> InvalidParameterError:
    return InvalidParameterError(
        f"{run}: {name} was written by a later depthflux: its schema_version is {show(version)}, "
        f"and this one reads up to {RECORDING_SCHEMA}; update depthflux.",
        field="folder",
        value=str(run),
        allowed="the folder of an earlier run",
    )


def bad_folder(run: Path, reason: str) -> InvalidParameterError:
    """The error about a folder that is no whole run, as --replay and --resume say it."""
    return InvalidParameterError(
        f"{run}: {reason}; give the folder of an earlier run, unchanged.",
        field="folder",
        value=str(run),
        allowed="the folder of an earlier run",
    )


def read_file(run: Path, name: str) -> bytes:
    """The bytes of a file of a run.

    Raises:
        InvalidParameterError: it is not there, is a link, or cannot be read.
    """
    try:
        return read_regular(inside(run, name))
    except OSError as error:
        raise bad_folder(run, f"{name} cannot be read: {error.strerror}") from error


def is_name(part: str) -> bool:
    """Whether a run gives a file or a folder such a name."""
    return _NAME.fullmatch(part) is not None
