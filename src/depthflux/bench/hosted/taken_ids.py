"""Ids that a side has given to tasks: one that is given twice would count one picture as two.

Knows nothing of what they are ids of.
"""

from __future__ import annotations

import json
import threading

from depthflux.bench.hosted.folder import RunFolder, TaskFolder
from depthflux.bench.hosted.run_files import SUBMISSION
from depthflux.errors import OutputError


class TakenIds:
    """The ids of one side's tasks, those of earlier runs in the folder too; for several threads."""

    def __init__(self, folder: RunFolder, side: str) -> None:
        """Read those of earlier runs.

        Raises:
            InvalidParameterError: a file of the folder is not what a run writes.
        """
        self._lock = threading.Lock()
        self._tasks: dict[str, str] = {}
        for path in sorted((folder.path / side).glob(f"*/{SUBMISSION}")):
            key = path.parent.name
            if (submission := folder.task(side, key).submission()) is not None:
                self._tasks.setdefault(submission.prediction, key)

    def add(self, id: str, key: str) -> str:
        """Note a task's id; the key of the task that has it, which may be another one."""
        with self._lock:
            return self._tasks.setdefault(id, key)


def not_noted(error: OutputError, taken: TaskFolder, id: str) -> OutputError:
    """The error for an id that cannot be written: it says the id and what to do with it.

    Args:
        error: of the writing.
        taken: the folder of the task that has the id.
        id: which.
    """
    note = json.dumps({"prediction": id})
    return OutputError(
        f"{str(error).rstrip('.')}. {taken.path.name} was taken, and its id {id} stands nowhere "
        f"else: make room, write {note} into {taken.path / SUBMISSION}, and its pictures are "
        "fetched; else it counts as lost.",
        field=error.field,
    )
