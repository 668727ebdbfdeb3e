"""Ids that a side has given to tasks: one that is given twice would count one picture as two.

Knows nothing of what they are ids of.
"""

from __future__ import annotations

import threading

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.run_files import SUBMISSION


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
