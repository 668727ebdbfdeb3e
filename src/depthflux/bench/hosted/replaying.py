"""An earlier run's first side, once more: its answers and pictures, checked and copied.

The new folder is whole in itself, so that it can be replayed in its turn. Nothing is asked of
anybody. Knows nothing of how answers are compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from depthflux.bench.hosted.folder import (
    INTENT,
    OUTCOME,
    PLAN,
    SIDE,
    RunFolder,
    bad_folder,
    inside,
    read_part,
)
from depthflux.bench.hosted.manifest import Manifest, verify
from depthflux.bench.hosted.outcomes import Strict
from depthflux.bench.hosted.plan import Task
from depthflux.errors import show
from depthflux.files import read_regular

#: Drawn by whoever judges, and not recorded.
_DEPTH = re.compile(r".*-depth\.png")


class PlanFile(Strict):
    """`plan.json`: what a run was asked for.

    Attributes:
        fingerprint: of everything that decides what is sent; compared by --resume.
        first_side: name of the first side: `hosted` or `against`.
        suite: its name.
        suite_sha256: of its file and pictures.
        repeat: of each case.
        concurrency: tasks under way at a time.
        poll_interval_s: between two polls of a task.
        sync_mode: whether answers were awaited in the submission.
        price_usd: of a hosted picture; None where it was not given.
        begun_at: RFC 3339.
        command: as it was called.
    """

    fingerprint: str
    first_side: str
    suite: str
    suite_sha256: str
    repeat: int
    concurrency: int
    poll_interval_s: float
    sync_mode: bool
    price_usd: float | None
    begun_at: str
    command: str


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


def replay(
    source: Path, target: RunFolder, tasks: Sequence[Task], *, suite_sha256: str
) -> Replayed:
    """Copy the first side of an earlier run, as far as it was asked for the same.

    Args:
        source: the earlier run's folder.
        target: the new run's.
        tasks: of the new run; those that the recording has are copied.
        suite_sha256: of the new run's suite.

    Raises:
        InvalidParameterError: the folder is not what its manifest says, or is of another suite.
        OutputError: the copy cannot be written.
    """
    manifest = verify(source)
    plan = read_part(source, PLAN, PlanFile)
    if plan.suite_sha256 != suite_sha256:
        raise bad_folder(
            source,
            f"it was recorded with the suite {show(plan.suite)} of sha256 {plan.suite_sha256}, and "
            f"the one of now has {suite_sha256}",
        )
    missing = 0
    _copy(source, target, manifest, f"{plan.first_side}/{SIDE}")
    for task in tasks:
        folder = f"{plan.first_side}/{task.key}"
        names = [
            entry.file
            for entry in manifest.files
            if entry.file.startswith(f"{folder}/") and not _DEPTH.fullmatch(entry.file)
        ]
        if f"{folder}/{OUTCOME}" not in names:
            missing += 1
            continue
        for name in names:
            _copy(source, target, manifest, name)
        _check_request(source, target, plan.first_side, task)
    return Replayed(plan.first_side, plan, missing)


def _copy(source: Path, target: RunFolder, manifest: Manifest, name: str) -> None:
    """Copy a file, checked as it is read: it may have changed since."""
    sums = {entry.file: entry.sha256 for entry in manifest.files}
    try:
        data = read_regular(inside(source, name))
    except OSError as error:
        raise bad_folder(source, f"{name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sums.get(name):
        raise bad_folder(source, f"{name} was changed")
    target.write(name, data)


def _check_request(source: Path, target: RunFolder, side: str, task: Task) -> None:
    """See that a recorded task was asked for with the fields of now."""
    taken = target.task(side, task.key)
    if not (taken.path / INTENT).exists():
        return  # refused before it was sent
    if taken.intent().fields != task.fields:
        raise bad_folder(source, f"{side}/{task.key} was asked for with other fields than now")
