"""A client: submits jobs, repeats each until it is answered, follows them to their ends.

Knows nothing of faults: to it, they are answers that do not come.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from chaos_server.calls import Calls, NoAnswerError
from chaos_server.journal import Job, Journal
from depthflux.server.answers import CODE_STILL_RUNNING
from stand_in.running import SUBMIT, grey_picture

#: Jobs that a client has on their way at a time.
WINDOW = 10
#: Pause of a client that only waits, in seconds.
_PAUSE_S = 0.02
#: Steps of a request, each a line from worker to server.
_STEPS = 4

_PREDICTIONS = "/api/v3/predictions"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What clients of a run share.

    Attributes:
        address: the server's.
        webhook_url: where ends are told.
        once_folder: where the stand-in notes that what happens once has happened.
        is_over: whether nothing more is to be waited for.
    """

    address: str
    webhook_url: str
    once_folder: str
    is_over: Callable[[], bool]


class Client(threading.Thread):
    """One of several clients."""

    def __init__(
        self, number: int, journal: Journal, turns: Iterator[Job], setting: Setting
    ) -> None:
        """Ask nothing yet.

        Args:
            number: of the client, for its name.
            journal: where everything is noted.
            turns: the jobs that are still to be submitted, shared by all clients.
            setting: what they share, too.
        """
        super().__init__(name=f"client-{number}", daemon=True)
        self._journal, self._turns, self._setting = journal, turns, setting
        self._calls = Calls(setting.address, journal, setting.is_over)
        self._open: deque[Job] = deque()
        self._polls: dict[int, int] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        """Submit and follow until there is nothing more to do."""
        try:
            self._work()
        except NoAnswerError:
            return  # the journal says what is missing
        except Exception as error:  # noqa: BLE001 - whoever started the thread raises it
            self.error = error
        finally:
            self._calls.close()

    def _work(self) -> None:
        while not self._setting.is_over():
            job = next(self._turns, None) if len(self._open) < WINDOW else None
            if job is not None:
                self._submit(job)
            elif self._open:
                time.sleep(_PAUSE_S)
            else:
                return
            if self._open:
                self._follow(self._open.popleft())

    def _submit(self, job: Job) -> None:
        wish = job.wish
        picture = self._upload(wish.grey) if wish.is_upload else grey_picture(wish.grey)
        body: dict[str, Any] = {
            "prompt": wish.prompt(self._setting.once_folder),
            "control_image": picture,
            "size": f"{wish.width}*{wish.height}",
            "num_inference_steps": _STEPS,
            "num_images": wish.pictures,
            "output_format": wish.format,
            "seed": wish.seed,
            "enable_sync_mode": wish.is_sync,
        }
        if wish.has_webhook:
            body["webhook_url"] = self._setting.webhook_url
        response, job.tries = self._calls.insist(
            "POST", SUBMIT, json=body, headers={"Idempotency-Key": wish.key}
        )
        if response.status_code != 200:
            return  # a surprise, and noted as one
        data = response.json()["data"]
        self._journal.note_accepted(job, data["id"], response.elapsed.total_seconds())
        # Where sync mode has waited long enough, the status is as fixed as the words beside it.
        if data.get("code") != CODE_STILL_RUNNING:
            job.note(data)
        self._open.append(job)

    def _upload(self, grey: int) -> str:
        files = {"file": ("grey.png", base64.b64decode(grey_picture(grey)), "image/png")}
        response, _ = self._calls.insist("POST", "/api/v3/media/upload/binary", files=files)
        return str(response.json()["data"]["download_url"])

    def _follow(self, job: Job) -> None:
        """Look how a job is; put it back unless there is nothing more to do with it."""
        polls = self._polls[job.wish.number] = self._polls.get(job.wish.number, 0) + 1
        if job.wish.then and (polls > job.wish.patience) and not job.is_cancelled:
            self._do_then(job)
        if job.is_deleted:
            return
        if job.ended is None:
            response, _ = self._calls.insist("GET", f"{_PREDICTIONS}/{job.id}/result")
            if response.status_code != 200:
                job.statuses.append("gone")
                return
            job.note(response.json()["data"])
        if job.ended is None:
            self._open.append(job)
            return
        self._journal.note_moved()
        self._fetch(job)
        if job.wish.then == "delete":
            self._do_then(job)

    def _do_then(self, job: Job) -> None:
        path = f"{_PREDICTIONS}/{job.id}"
        if job.wish.then == "cancel":
            job.is_cancelled = True
            response, _ = self._calls.insist("POST", f"{path}/cancel")
            job.note(response.json()["data"])
        else:
            # 404: it was, though the answer was lost.
            job.is_deleted = True
            self._calls.insist("DELETE", path, allowed=(200, 404))

    def _fetch(self, job: Job) -> None:
        for address in job.ended["outputs"] if job.ended else ():
            response, _ = self._calls.insist("GET", address)
            job.digests.append(hashlib.sha256(response.content).hexdigest())
