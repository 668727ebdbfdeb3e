"""A run's folder: what was sent is written before it is sent, what came as soon as it has come.

    plan.json                what was asked for, see `PlanFile`; what --resume compares
    suite.toml               the cases as they were asked for, see bench.hosted.suite_copy
    control/<case>.png       the control images as they were uploaded; or .jpg, .webp
    depth/<case>.png         their depth, near = white
    <side>/                  hosted, local or against
           side.json         who answered, and how it was asked: `SideFacts`
           uploads.json      what was exchanged while control images were uploaded, less secrets
           server.log        of a local side: what its server said
    <side>/<task>/           intent.json      before it is sent: from here on it may cost its price
                             submission.json  its id, as soon as that is known
                             exchanges.json   every answer, less secrets
                             0.jpg …          the pictures; 0-depth.png … their depth
                             0.refused …      what came in a picture's place and is none
                             outcome.json     the end: an `Outcome`
    report.json, report.html
    manifest.json            size and sha256 of all the others, see bench.hosted.manifest

plan.json and manifest.json name the `schema_version` of all of them. What is written is strict, and
so is what is read: a key that is added raises the version, and what reads a version reads every
earlier one.

So whatever ends a run, its folder says of each task whether it was sent and what it may have cost.
Knows nothing of HTTP, and nothing of what is measured.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.run_files import (
    HALF_WRITTEN,
    INTENT,
    MANIFEST,
    OUTCOME,
    PLAN,
    SIDE,
    SUBMISSION,
    Intent,
    SideFacts,
    Submission,
    bad_folder,
    is_name,
    read_file,
    read_part,
)
from depthflux.errors import OutputError, first_line, show
from depthflux.files import flush_file, make_folder, write_atomically

#: How far a task has come: not sent; perhaps sent; taken; ended.
State = Literal["new", "intended", "submitted", "ended"]


class TaskFolder:
    """One task of one side: `<side>/<task>/`."""

    def __init__(self, run: RunFolder, side: str, key: str) -> None:
        """Make nothing yet."""
        self._run, self._inside = run, f"{side}/{key}"
        self.path = run.path / side / key

    @property
    def state(self) -> State:
        """How far the task has come, by the files that are there."""
        for name, state in _STATES:
            if _is_there(self.path / name):
                return state
        return "new"

    @property
    def may_be_sent(self) -> bool:
        """Whether the task may have been sent, also where its files are gone since."""
        return self._inside in self._run.sent or self.state != "new"

    def has(self, name: str) -> bool:
        """Whether there is such a file in the folder."""
        return _is_there(self.path / name)

    def written_at(self, name: str) -> float:
        """When a file of the folder was written, seconds since 1970."""
        with _told(self.path / name):
            return (self.path / name).stat().st_mtime

    def intend(self, intent: Intent) -> None:
        """Note that the task is about to be sent; it is on the disk when this returns."""
        self._write(INTENT, intent)
        self._run.sent.add(self._inside)

    def withdraw(self) -> None:
        """Take the intent back: the task was surely not taken."""
        with _told(self.path):
            (self.path / INTENT).unlink(missing_ok=True)
            flush_file(self.path)
        self._run.sent.discard(self._inside)

    def forget(self) -> None:
        """Make the task a new one, whatever was there; only for a side that costs nothing."""
        with _told(self.path):
            for path in self.path.glob("*"):
                path.unlink()
        self._run.sent.discard(self._inside)

    def submit(self, submission: Submission) -> None:
        """Note the task's id; it is on the disk when this returns."""
        self._write(SUBMISSION, submission)

    def write_picture(self, name: str, data: bytes) -> str:
        """Write a picture or a depth map; its path in the run's folder."""
        self._run.write(f"{self._inside}/{name}", data)
        return f"{self._inside}/{name}"

    def end(self, outcome: Outcome) -> None:
        """Write the outcome; the task has ended."""
        self._write(OUTCOME, outcome)

    def intent(self) -> Intent:
        """What was about to be sent."""
        return read_part(self._run.path, f"{self._inside}/{INTENT}", Intent)

    def submission(self) -> Submission | None:
        """The id; None of a task that was not taken."""
        if not _is_there(self.path / SUBMISSION):
            return None
        return read_part(self._run.path, f"{self._inside}/{SUBMISSION}", Submission)

    def outcome(self) -> Outcome:
        """The outcome, whose pictures' paths are in this folder."""
        outcome = read_part(self._run.path, f"{self._inside}/{OUTCOME}", Outcome)
        ours = f"{self._inside}/"
        if outcome.task != self.path.name or not all(
            picture.file.startswith(ours) and is_name(picture.file.removeprefix(ours))
            for picture in outcome.pictures
        ):
            raise bad_folder(self._run.path, f"{self._inside}/{OUTCOME} is of another task")
        return outcome

    def _write(self, name: str, part: BaseModel) -> None:
        self._run.write_json(f"{self._inside}/{name}", part.model_dump(mode="json"))


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
        sent: what this process was about to send, `<side>/<task>`, and has not taken back.
    """

    def __init__(self, path: Path) -> None:
        """Make nothing yet."""
        self.path = path
        self.sent: set[str] = set()
        self._is_begun = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it: two runs in one would pay twice.

        Raises:
            OutputError: it cannot be made, or another process holds it.
        """
        make_folder(self.path)
        with _told(self.path):
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno == errno.EWOULDBLOCK:
                reason = "another run is at work in it; wait for it"
            else:
                # Some network file systems have no locks.
                reason = f"it cannot be held ({error.strerror}); name one on a local disk"
            raise _refused(self.path, reason) from error
        try:
            yield
        finally:
            os.close(handle)

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return _is_there(self.path / PLAN)

    def begin(self, plan: dict[str, Any]) -> None:
        """Write the plan of a new run.

        Raises:
            OutputError: there is a run already, or something else.
        """
        if self.has_run:
            raise _refused(
                self.path, "it holds a run already; add --resume to go on with it, or name another"
            )
        with _told(self.path):
            strangers = sorted(path.name for path in self.path.iterdir())
        if strangers:
            raise _refused(
                self.path,
                f"it is not empty: {show(strangers[0])} is there; name a new folder",
            )
        self.write_json(PLAN, plan)
        self._is_begun = True

    def require_run(self) -> None:
        """See that there is a run to go on with; nothing is changed.

        Raises:
            OutputError: there is none.
        """
        if not self.has_run:
            raise _refused(self.path, "it holds no run to go on with; leave --resume out")

    def go_on(self) -> None:
        """Make ready to go on with an earlier run.

        Its manifest holds no more, and what was half written when it was killed goes. Its report
        stays until there is another: this run, too, may end before it has one.
        """
        self._is_begun = True
        with _told(self.path):
            (self.path / MANIFEST).unlink(missing_ok=True)
            for path in self.path.rglob(".*"):
                if HALF_WRITTEN.fullmatch(path.name):
                    path.unlink()

    def is_done(self, side: str, keys: Iterable[str]) -> bool:
        """Whether all these tasks of a side have ended."""
        return all(self.task(side, key).state == "ended" for key in keys)

    def is_settled(self, side: str, keys: Iterable[str]) -> bool:
        """Whether nothing of these tasks is left to be asked, of those that failed neither."""
        tasks = [self.task(side, key) for key in keys]
        return all(task.state == "ended" and not task.outcome().may_come for task in tasks)

    def task(self, side: str, key: str) -> TaskFolder:
        """A task's folder."""
        return TaskFolder(self, side, key)

    def write_json(self, name: str, document: dict[str, Any]) -> Path:
        """Write a document at a path in this folder."""
        return self.write(name, _as_json(document))

    def write(self, name: str, data: bytes) -> Path:
        """Write a file at a path in this folder, making the folders between, but never this one.

        Raises:
            OutputError: it cannot be written; that never says to name another folder, in which all
                would be sent and paid for anew.
        """
        path = self.path / name
        if not self.path.is_dir() or (self._is_begun and not self.has_run):
            # Half a run in its place would hide what became of the whole.
            raise _not_written(path, "the run's folder was removed meanwhile")
        try:
            _make_flushed(path.parent)
            write_atomically(path, data)
        except OutputError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else None
            raise _not_written(path, reason or "no permission to write there") from error
        return path

    def add_exchanges(self, name: str, exchanges: Sequence[dict[str, Any]]) -> None:
        """Keep what was asked and answered in a file, behind what earlier runs did.

        Raises:
            InvalidParameterError: what is there is not what a run writes.
            OutputError: it cannot be written.
        """
        before = []
        if _is_there(self.path / name):
            try:
                before = json.loads(read_file(self.path, name))
            except (ValueError, RecursionError) as error:
                raise bad_folder(self.path, f"{name} is no JSON: {first_line(error)}") from error
        if not isinstance(before, list):
            raise bad_folder(self.path, f"{name} holds no list")
        self.write(name, _as_json([*before, *exchanges]))

    def write_side(self, facts: SideFacts) -> None:
        """Write what is known of a side."""
        self.write_json(f"{facts.name}/{SIDE}", facts.model_dump(mode="json"))

    def side(self, name: str) -> SideFacts | None:
        """What is known of a side; None where it was not begun."""
        if not _is_there(self.path / name / SIDE):
            return None
        facts = read_part(self.path, f"{name}/{SIDE}", SideFacts)
        if facts.name != name:
            raise bad_folder(self.path, f"{name}/{SIDE} is of {show(facts.name)}")
        return facts


def _is_there(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        OutputError: nobody lets us see.
    """
    with _told(path):
        try:
            # Not `exists`, by which what may not be seen is not there.
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def _not_written(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot write {path}: {reason}; make room, or see that it is there and may be written, "
        "and keep to this folder.",
        field="out",
        value=str(path),
        allowed="a folder that may be written",
    )


def _make_flushed(folder: Path) -> None:
    """Make a folder whose name survives a power cut, as what is written into it has to."""
    if not folder.is_dir():
        make_folder(folder)
        with _told(folder):
            for made in (folder.parent, folder.parent.parent):
                flush_file(made)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say of a file or folder that the system refuses what it says of it."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _as_json(document: object) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _refused(folder: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot use the folder {folder}: {reason}.",
        field="out",
        value=str(folder),
        allowed="a new or empty folder, or with --resume that of an earlier run",
    )
