"""An earlier run's first side, once more: its answers and pictures, checked and copied.

A recording outlives the suite's file: it holds its own suite, and where another one is given, what
counts is that the cases that are replayed were asked for with the same fields and pictures. The new
folder is whole in itself, so that it can be replayed in its turn.

Knows nothing of how answers are compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.manifest import verify
from depthflux.bench.hosted.plan_file import PlanFile
from depthflux.bench.hosted.run_files import (
    CONTROL,
    INTENT,
    MANIFEST,
    OUTCOME,
    PLAN,
    SIDE,
    Intent,
    bad_folder,
    read_file,
    read_part,
)
from depthflux.errors import show

if TYPE_CHECKING:
    from depthflux.bench.hosted.plan import Task
    from depthflux.bench.hosted.suites import Suite

#: Drawn by whoever judges, and not recorded.
_DEPTH = re.compile(r".*-depth\.png")
#: How many differences a message tells.
_MOST_TOLD = 5


@dataclass(frozen=True)
class Recording:
    """An earlier run's folder, compared with its manifest.

    Attributes:
        path: where it is.
        plan: what it was asked for.
        sums: by path of each of its files, the sha256.
        sha256: of its manifest.json, 64 hexadecimal digits.
    """

    path: Path
    plan: PlanFile
    sums: dict[str, str]
    sha256: str

    def suite(self) -> Suite:
        """The suite that it was made with.

        Raises:
            InvalidParameterError: what stands in the folder is no suite.
        """
        # It reads pictures, whose libraries a run without a recording need not import yet.
        from depthflux.bench.hosted.suite_copy import read_suite

        return read_suite(self.path, name=self.plan.suite, sha256=self.plan.suite_sha256)


@dataclass(frozen=True)
class Replayed:
    """A recording that was copied.

    Attributes:
        side: name of the side.
        plan: what the earlier run was asked for.
        missing: how many of the tasks it has not.
    """

    side: str
    plan: PlanFile
    missing: int


def open_recording(path: Path) -> Recording:
    """Compare an earlier run's folder with its manifest, and read what it was asked for.

    Raises:
        InvalidParameterError: it is not what its manifest says, to the byte, or was written by a
            later version.
    """
    manifest = verify(path)
    return Recording(
        path=path,
        plan=read_part(path, PLAN, PlanFile),
        sums={entry.file: entry.sha256 for entry in manifest.files},
        sha256=hashlib.sha256(read_file(path, MANIFEST)).hexdigest(),
    )


def recorded_tasks(recording: Recording, tasks: Sequence[Task]) -> list[Task]:
    """The tasks that a recording has, each asked for as it is now.

    Raises:
        InvalidParameterError: one was asked for with other fields or another control image, or
            there is none; or a control image of now is not the suite's any more.
        UnreadableImageError: it is no picture any more.
    """
    side = recording.plan.first_side
    there = [task for task in tasks if f"{side}/{task.key}/{OUTCOME}" in recording.sums]
    problems = [problem for task in there for problem in _differences(recording, task)]
    if not there:
        problems = ["it has none of the tasks that are asked for now"]
    if problems:
        more = f"; and {len(problems) - _MOST_TOLD} more" if len(problems) > _MOST_TOLD else ""
        raise bad_folder(recording.path, "; ".join(problems[:_MOST_TOLD]) + more)
    return there


def replay(recording: Recording, target: RunFolder, tasks: Sequence[Task]) -> Replayed:
    """Copy the first side of an earlier run, as far as it was asked for the same.

    Args:
        recording: of the earlier run.
        target: the new run's folder.
        tasks: of the new run; those that the recording has are copied.

    Raises:
        InvalidParameterError: it is not what its manifest says any more; or as `recorded_tasks`.
        OutputError: the copy cannot be written.
    """
    side = recording.plan.first_side
    there = recorded_tasks(recording, tasks)
    kept = {f"{side}/{task.key}" for task in there}
    for name in recording.sums:
        folder, _, file = name.rpartition("/")
        if name == f"{side}/{SIDE}" or (folder in kept and not _DEPTH.fullmatch(file)):
            target.write(name, _read(recording, name))
    return Replayed(side, recording.plan, len(tasks) - len(there))


def _read(recording: Recording, name: str) -> bytes:
    """A file, checked as it is read: it may have changed since."""
    data = read_file(recording.path, name)
    if hashlib.sha256(data).hexdigest() != recording.sums[name]:
        raise bad_folder(recording.path, f"{name} was changed")
    return data


def _differences(recording: Recording, task: Task) -> Iterator[str]:
    """What a recorded task was asked for with, where it is not what is asked for now."""
    # It reads pictures, whose libraries a plan need not import.
    from depthflux.bench.hosted.controls import read_control

    intent = f"{recording.plan.first_side}/{task.key}/{INTENT}"
    if intent in recording.sums:  # else it was refused before it was sent
        recorded = read_part(recording.path, intent, Intent).fields
        for name in sorted(recorded.keys() | task.fields.keys()):
            was, now = _shown(recorded, name), _shown(task.fields, name)
            if was != now:
                yield f"{task.key} was asked for with {name}={was}, and is asked for with {now} now"
    data, ending = read_control(task.case)
    control = recording.sums.get(f"{CONTROL}/{task.case.name}.{ending}")
    if control != hashlib.sha256(data).hexdigest():
        yield f"{task.key} was asked for with another control image"


def _shown(fields: dict[str, Any], name: str) -> str:
    return show(fields[name]) if name in fields else "nothing"
