"""A run's folder before it is gone on with: what was recorded is as it was, or nothing goes on.

The manifest is written anew at the end, so what was changed meanwhile would become genuine; and a
task whose files are gone looks like one that was never sent, and would be paid for twice.

Knows nothing of how tasks are sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflux.bench.hosted.base_url import PREDICTION_ID
from depthflux.bench.hosted.folder import RunFolder, TaskFolder
from depthflux.bench.hosted.manifest import MOST_TOLD, Manifest, is_as_told, read_manifest
from depthflux.bench.hosted.run_files import (
    EXCHANGES,
    INTENT,
    MANIFEST,
    OUTCOME,
    PAGE,
    REPORT,
    SUBMISSION,
    Intent,
    SideName,
    Submission,
    inside,
    read_file,
)
from depthflux.errors import InvalidParameterError
from depthflux.files import is_regular, sha256_of_file

if TYPE_CHECKING:
    from depthflux.bench.hosted.plan import Task

#: Made anew by every run, so nothing that is believed.
_REMADE = frozenset({REPORT, PAGE})


def require_untouched(
    folder: RunFolder, tasks: Sequence[Task], *, sides: Iterable[SideName], paid: SideName | None
) -> None:
    """See that what a run's folder holds is what was written there.

    Args:
        folder: of a run that is about to be gone on with.
        tasks: of that run.
        sides: whose pictures are compared with their outcomes.
        paid: the side whose tasks must not be sent again; None where none costs.

    Raises:
        InvalidParameterError: files were changed, pictures are gone, or so is what says that a
            paid task was sent.
        OutputError: nobody lets us see.
    """
    manifest = read_manifest(folder.path) if is_regular(folder.path / MANIFEST) else None
    problems = [] if manifest is None else list(_changed(folder.path, manifest))
    for side in sides:
        for task in tasks:
            problems += _changed_pictures(folder, side, task.key)
    problems = list(dict.fromkeys(problems))
    if paid is not None:
        problems += _forgotten(folder, paid, tasks, manifest)
    if not problems:
        return
    told = "; ".join(problems[:MOST_TOLD])
    more = f"; and {len(problems) - MOST_TOLD} more" if len(problems) > MOST_TOLD else ""
    raise InvalidParameterError(
        f"{folder.path}: {told}{more}; put back what was there, or name another folder.",
        field="resume",
        allowed="the folder of a run as that has left it",
    )


def restore_files(folder: RunFolder, side: SideName, tasks: Sequence[Task]) -> Iterator[str]:
    """Write the ids and intents again that are gone where the task is known to have been taken.

    Without its id nobody could ask for what may come. An intent's fields are the plan's, which is
    the same; without them nobody could compare a later replay.

    Yields:
        The name of each file that was written again.

    Raises:
        InvalidParameterError: a file of the folder is not what a run writes.
        OutputError: it cannot be written.
    """
    for task in tasks:
        taken = folder.task(side, task.key)
        if not taken.has(SUBMISSION) and (prediction := _told_id(taken)):
            taken.submit(Submission(prediction=prediction))
            yield f"{side}/{task.key}/{SUBMISSION}"
        if taken.has(INTENT) or not taken.has(SUBMISSION):
            continue
        # When the id came is the nearest that is known.
        began_at = taken.outcome().began_at if taken.has(OUTCOME) else taken.written_at(SUBMISSION)
        taken.intend(Intent(task=task.key, fields=task.fields, began_at=began_at))
        yield f"{side}/{task.key}/{INTENT}"


def _told_id(taken: TaskFolder) -> str:
    """The id of a task that may come, as its outcome tells it; empty where that tells none."""
    if not taken.has(OUTCOME):
        return ""
    outcome = taken.outcome()
    is_id = PREDICTION_ID.fullmatch(outcome.prediction) is not None
    return outcome.prediction if outcome.may_come and is_id else ""


def _changed(run: Path, manifest: Manifest) -> Iterator[str]:
    for entry in manifest.files:
        path = inside(run, entry.file)
        if entry.file not in _REMADE and path.exists() and not is_as_told(run, entry):
            yield _was_changed(entry.file)


def _changed_pictures(folder: RunFolder, side: SideName, key: str) -> Iterator[str]:
    taken = folder.task(side, key)
    if taken.state != "ended":
        return
    for picture in taken.outcome().pictures:
        path = inside(folder.path, picture.file)
        if not is_regular(path):
            yield f"{picture.file} is gone"
        elif sha256_of_file(path) != picture.sha256:
            yield _was_changed(picture.file)


def _forgotten(
    folder: RunFolder, side: SideName, tasks: Sequence[Task], manifest: Manifest | None
) -> Iterator[str]:
    """The tasks that were sent, and of which the folder does not say so any more."""
    listed = frozenset() if manifest is None else {entry.file for entry in manifest.files}
    for task in tasks:
        taken, place = folder.task(side, task.key), f"{side}/{task.key}"
        state = taken.state
        is_new = state == "new" and (
            f"{place}/{INTENT}" in listed
            or f"{place}/{SUBMISSION}" in listed
            or _exchanges_say_taken(folder, taken, place)
        )
        if is_new or (state == "intended" and f"{place}/{SUBMISSION}" in listed):
            yield (
                f"{place} was sent, and what was recorded of it is gone: it is not sent again, "
                "since it may have been paid for"
            )


def _exchanges_say_taken(folder: RunFolder, taken: TaskFolder, place: str) -> bool:
    """Whether a task's kept exchanges have a submission that may have been taken."""
    if not taken.has(EXCHANGES):
        return False
    try:
        exchanges = json.loads(read_file(folder.path, f"{place}/{EXCHANGES}"))
    except (ValueError, RecursionError):
        # Something was exchanged, and nobody knows what.
        return True
    return isinstance(exchanges, list) and any(map(_may_be_taken, exchanges))


def _may_be_taken(exchange: Any) -> bool:
    """Whether a kept exchange is a submission that was taken, or may have been.

    One without any answer is not known here: it is one that never reached the side, or its task
    ended as lost.
    """
    if not isinstance(exchange, dict) or exchange.get("method") != "POST":
        return False
    status, body = exchange.get("status"), exchange.get("body")
    if not isinstance(status, int) or 300 <= status < 500:
        return False
    code = body.get("code") if isinstance(body, dict) else None
    return status >= 500 or not (isinstance(code, int) and 400 <= code < 500)


def _was_changed(file: str) -> str:
    return f"{file} was changed since it was recorded"
