"""A run's folder: what was sent is written before it is sent, what came as soon as it has come.

    plan.json                what was asked for, and the fingerprint that --resume compares
    control/<case>.png       the control images as they were uploaded
    depth/<case>.png         their depth, near = white
    <side>/side.json         who answered, see `SideFacts`
    <side>/<task>/           intent.json      before it is sent: from here on it may cost its price
                             submission.json  its id, as soon as that is known
                             exchanges.json   every answer, less secrets
                             0.jpg …          the pictures; 0-depth.png … their depth
                             outcome.json     the end: an `Outcome`
    report.json, report.html
    manifest.json            size and sha256 of all the others, see bench.hosted.manifest

So whatever ends a run, its folder says of each task whether it was sent and what it may have cost.
Knows nothing of HTTP, and nothing of what is measured.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from depthflux.bench.hosted.outcomes import Outcome, Strict
from depthflux.errors import InvalidParameterError, OutputError, show
from depthflux.files import flush_file, make_folder, read_regular, write_atomically

PLAN, MANIFEST = "plan.json", "manifest.json"
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
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{16}")
#: Names that a run gives: lower-case words, hyphens and one dot before an ending.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9]+)?")
_MOST_PARTS = 3

#: How far a task has come: not sent; perhaps sent; taken; ended.
State = Literal["new", "intended", "submitted", "ended"]
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
        name: `hosted`, `local` or `against`; also its folder.
        label: what a person calls it.
        address: of the hosted API; empty for a local profile.
        model: `data.model` of its answers; empty where nothing was answered.
        profile: the local profile's name; empty for a hosted side.
        settings: its effective settings as JSON values; empty for a hosted side.
        device: what it ran on; empty for a hosted side, or where nothing was painted.
        recorded_at: when its answers were recorded, RFC 3339.
        upload_seconds: by case, of its control image.
        load_seconds: of a local side, from its start until it could paint, warmed up; None for a
            hosted one.
        energy: None where it was not measured.
        energy_missing: why not; empty where it was.
    """

    name: str
    label: str
    address: str
    model: str = ""
    profile: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    device: str = ""
    recorded_at: str
    upload_seconds: dict[str, float] = Field(default_factory=dict)
    load_seconds: float | None = None
    energy: MeasuredEnergy | None = None
    energy_missing: str = ""


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


class TaskFolder:
    """One task of one side: `<side>/<task>/`."""

    def __init__(self, run: Path, side: str, key: str) -> None:
        """Make nothing yet."""
        self._run, self._inside = run, f"{side}/{key}"
        self.path = run / side / key

    @property
    def state(self) -> State:
        """How far the task has come, by the files that are there."""
        for name, state in _STATES:
            if (self.path / name).exists():
                return state
        return "new"

    def intend(self, intent: Intent) -> None:
        """Note that the task is about to be sent; it is on the disk when this returns."""
        _make_flushed(self.path)
        self._write(INTENT, intent)

    def withdraw(self) -> None:
        """Take the intent back: the task was surely not taken."""
        (self.path / INTENT).unlink(missing_ok=True)
        flush_file(self.path)

    def forget(self) -> None:
        """Make the task a new one, whatever was there; only for a side that costs nothing."""
        for path in sorted(self.path.glob("*"), reverse=True):
            path.unlink()

    def submit(self, submission: Submission) -> None:
        """Note the task's id; it is on the disk when this returns."""
        self._write(SUBMISSION, submission)

    def write_picture(self, name: str, data: bytes) -> str:
        """Write a picture or a depth map; its path in the run's folder."""
        write_atomically(self.path / name, data)
        return f"{self._inside}/{name}"

    def end(self, outcome: Outcome) -> None:
        """Write the outcome; the task has ended."""
        _make_flushed(self.path)
        self._write(OUTCOME, outcome)

    def intent(self) -> Intent:
        """What was about to be sent."""
        return read_part(self._run, f"{self._inside}/{INTENT}", Intent)

    def submission(self) -> Submission | None:
        """The id; None of a task that was not taken."""
        if not (self.path / SUBMISSION).exists():
            return None
        return read_part(self._run, f"{self._inside}/{SUBMISSION}", Submission)

    def outcome(self) -> Outcome:
        """The outcome, whose pictures' paths are in this folder."""
        outcome = read_part(self._run, f"{self._inside}/{OUTCOME}", Outcome)
        files = [picture.file for picture in outcome.pictures]
        if outcome.task != self.path.name or any(
            not _is_name(file.removeprefix(f"{self._inside}/")) for file in files
        ):
            raise bad_folder(self._run, f"{self._inside}/{OUTCOME} is of another task")
        return outcome

    def _write(self, name: str, part: BaseModel) -> None:
        write_atomically(self.path / name, _as_json(part.model_dump(mode="json")))


#: The later file says more.
_STATES: tuple[tuple[str, State], ...] = (
    (OUTCOME, "ended"),
    (SUBMISSION, "submitted"),
    (INTENT, "intended"),
)


class RunFolder:
    """A run's folder.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        """Make nothing yet."""
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it: two runs in one would pay twice.

        Raises:
            OutputError: it cannot be made, or another process holds it.
        """
        make_folder(self.path)
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise _refused(self.path, "another run is at work in it; wait for it") from error
        try:
            yield
        finally:
            os.close(handle)

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / PLAN).exists()

    def begin(self, plan: dict[str, Any]) -> None:
        """Write the plan of a new run.

        Raises:
            OutputError: there is a run already, or something else.
        """
        if self.has_run:
            raise _refused(
                self.path, "it holds a run already; add --resume to go on with it, or name another"
            )
        if strangers := sorted(path.name for path in self.path.iterdir()):
            raise _refused(
                self.path,
                f"it is not empty: {show(strangers[0])} is there; name a new folder",
            )
        self.write_json(PLAN, plan)

    def require_run(self) -> None:
        """See that there is a run to go on with; nothing is changed.

        Raises:
            OutputError: there is none.
        """
        if not self.has_run:
            raise _refused(self.path, "it holds no run to go on with; leave --resume out")

    def go_on(self) -> None:
        """Make ready to go on with an earlier run.

        Its manifest and report hold no more, and what was half written when it was killed goes.
        """
        for name in (MANIFEST, REPORT, PAGE):
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.rglob(".*"):
            if _HALF_WRITTEN.fullmatch(path.name):
                path.unlink()

    def task(self, side: str, key: str) -> TaskFolder:
        """A task's folder."""
        return TaskFolder(self.path, side, key)

    def write_json(self, name: str, document: dict[str, Any]) -> Path:
        """Write a document at a path in this folder."""
        return self.write(name, _as_json(document))

    def write(self, name: str, data: bytes) -> Path:
        """Write a file at a path in this folder, making the folder that it is in."""
        path = self.path / name
        _make_flushed(path.parent)
        write_atomically(path, data)
        return path

    def add_exchanges(self, name: str, exchanges: Sequence[dict[str, Any]]) -> None:
        """Keep what was asked and answered in a file, behind what earlier runs did."""
        path = self.path / name
        before = json.loads(path.read_bytes()) if path.exists() else []
        self.write(name, _as_json([*before, *exchanges]))

    def write_side(self, facts: SideFacts) -> None:
        """Write what is known of a side."""
        self.write_json(f"{facts.name}/{SIDE}", facts.model_dump(mode="json"))

    def side(self, name: str) -> SideFacts | None:
        """What is known of a side; None where it was not begun."""
        if not (self.path / name / SIDE).exists():
            return None
        facts = read_part(self.path, f"{name}/{SIDE}", SideFacts)
        if facts.name != name:
            raise bad_folder(self.path, f"{name}/{SIDE} is of {show(facts.name)}")
        return facts


def read_part(run: Path, name: str, kind: type[Part]) -> Part:
    """A file of a run as what it should be.

    Raises:
        InvalidParameterError: it is not there, or something else.
    """
    try:
        return kind.model_validate_json(_read(run, name))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise bad_folder(run, f"{name}: {show(place)}: {problem['msg']}") from error


def inside(run: Path, name: str) -> Path:
    """The path of a file of a run by its name in it, such as `hosted/red-cube-0/0.jpg`.

    Raises:
        InvalidParameterError: it is no name that a run gives, such as one that leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    is_plain = "/".join(parts) == name and all(map(_is_name, parts))
    if not is_plain or not 1 <= len(parts) <= _MOST_PARTS:
        raise bad_folder(run, f"it names {show(name)}, which is no file of a run")
    return run.joinpath(*parts)


def bad_folder(run: Path, reason: str) -> InvalidParameterError:
    """The error about a folder that is no whole run, as --replay and --resume say it."""
    return InvalidParameterError(
        f"{run}: {reason}; give the folder of an earlier run, unchanged.",
        field="folder",
        value=str(run),
        allowed="the folder of an earlier run",
    )


def _read(run: Path, name: str) -> bytes:
    try:
        return read_regular(inside(run, name))
    except OSError as error:
        raise bad_folder(run, f"{name} cannot be read: {error.strerror}") from error


def _is_name(part: str) -> bool:
    return _NAME.fullmatch(part) is not None


def _make_flushed(folder: Path) -> None:
    """Make a folder whose name survives a power cut, as what is written into it has to."""
    if not folder.is_dir():
        make_folder(folder)
        for made in (folder.parent, folder.parent.parent):
            flush_file(made)


def _as_json(document: object) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _refused(folder: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot use the folder {folder}: {reason}.",
        field="out",
        value=str(folder),
        allowed="a new or empty folder, or with --resume that of an earlier run",
    )
