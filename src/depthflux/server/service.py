"""What the routes call: asking, waiting, cancelling, deleting, ageing; intake is beside it.

Everything that decides is here, without HTTP: routes read a request, call one of these, and say
what came. Methods that touch the store or the disk are for threads, the others for the event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool

from depthflux.errors import show
from depthflux.images import ReadLimits
from depthflux.server.answers import served
from depthflux.server.board import Board
from depthflux.server.database import Database
from depthflux.server.documents import Readiness, ServedPrediction
from depthflux.server.errors import NotFoundError
from depthflux.server.intake import Intake
from depthflux.server.judging import Judging
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.names import now_ms
from depthflux.server.outbox import Letter, Outbox
from depthflux.server.predictions import Predictions
from depthflux.server.rates import Rates
from depthflux.server.rows import Removed, Stored
from depthflux.server.settings import ServerSettings
from depthflux.server.supervisor import Supervisor
from depthflux.server.uploads import Uploads
from depthflux.settings import EngineSettings

Given = ParamSpec("Given")
Found = TypeVar("Found")

#: Requests that wait for their turn to write at a time. The store lets one write
#: after another anyway; with all threads among those that wait, nobody could read.
MOST_WRITERS = 16
#: Predictions that are removed in one transaction.
MOST_REMOVED = 500
#: A day in milliseconds.
_DAY_MS = 24 * 3600 * 1000


class Service:
    """A server's parts, and what is done with them.

    Attributes:
        settings: the server's.
        metrics: the counters.
        board: progress, and who waits.
        media: the pictures.
        database: the store's.
        predictions: those in it.
        uploads: those in it.
        outbox: the webhooks in it.
        judging: judges submissions and uploads.
        intake: takes them in.
        rates: how often each key may ask.
        limits: within which control images are read.
        is_draining: whether nothing new is taken.
        has_stopped: whether nothing is computed any more.
        supervisor: of the workers; None until they are started.
        on_ended: called when a prediction has ended here; rings the postman.
    """

    def __init__(
        self,
        settings: ServerSettings,
        engine_settings: EngineSettings,
        database: Database,
        media: Media,
        board: Board,
        metrics: Metrics,
        *,
        has_several_keys: bool = False,
    ) -> None:
        self.settings, self.metrics, self.board, self.media = settings, metrics, board, media
        self.predictions, self.uploads = Predictions(database), Uploads(database)
        self.outbox = Outbox(database)
        self.limits = dataclasses.replace(
            ReadLimits.from_settings(engine_settings), allow_files=False
        )
        self.is_draining = self.has_stopped = False
        self.supervisor: Supervisor | None = None
        self.on_ended: Callable[[], None] = lambda: None
        self.judging = Judging(settings, engine_settings, self.limits, media, self.predictions)
        self.intake = Intake(
            settings,
            self.limits,
            database,
            media,
            retry_after_s=self._retry_after_s,
            has_several_keys=has_several_keys,
        )
        self._writers = asyncio.Semaphore(MOST_WRITERS)
        self.rates = Rates(settings.key_requests_per_minute)

    async def write(
        self, call: Callable[Given, Found], *args: Given.args, **named: Given.kwargs
    ) -> Found:
        """Call what writes to the store, in a thread, as one of few that may wait for that."""
        async with self._writers:
            return await run_in_threadpool(call, *args, **named)

    # Asking ------------------------------------------------------------------------------------

    def find(self, id: str, owner: str) -> Stored:
        """A prediction of an owner.

        Raises:
            NotFoundError: there is none of this id, or it is another owner's.
        """
        one = self.predictions.read(id, owner)
        if one is None:
            raise _no_prediction(id)
        return one

    def show(self, one: Stored, base: str, *, with_progress: bool = False) -> ServedPrediction:
        """A prediction as a client sees it.

        Raises:
            NotFoundError: its pictures were to be answered as base64, and are gone.
        """
        # Its end is in the store a moment before the board hears of it.
        is_running = one.status == "processing"
        try:
            return served(
                one,
                base=base,
                media=self.media,
                model=self.model,
                progress=self.board.progress(one.id) if with_progress and is_running else None,
            )
        except FileNotFoundError:
            raise NotFoundError(
                f"the pictures of prediction {one.id} are gone; they are kept "
                f"{self.settings.retention_days:g} days."
            ) from None

    def show_in_list(self, one: Stored, base: str) -> ServedPrediction:
        """A prediction as lists show it: with its request, its pictures by their addresses."""
        return served(
            one, base=base, media=self.media, model=self.model, with_input=True, as_addresses=True
        )

    def readiness(self) -> Readiness:
        """Whether predictions are taken and computed."""
        states = self.supervisor.states if self.supervisor else []
        if self.is_draining:
            status: Literal["loading", "ready", "degraded", "draining"] = "draining"
        elif not self.model:
            status = "loading"
        else:
            status = "ready" if all(state == "ready" for state in states) else "degraded"
        queued = self.predictions.counts().get("created", 0)
        return Readiness(status=status, model=self.model, workers=states, queued=queued)

    def render_metrics(self) -> bytes:
        """The counters as Prometheus reads them."""
        states = self.supervisor.states if self.supervisor else []
        return self.metrics.render(self.predictions.counts, states.count("ready"))

    @property
    def model(self) -> str:
        """The id of the model that is loaded; empty before."""
        return self.supervisor.model if self.supervisor else ""

    def _retry_after_s(self, before: int) -> float:
        """How long about until the queue is noticeably shorter: a tenth of it, at least one."""
        workers = max(len(self.supervisor.places) if self.supervisor else 1, 1)
        return max(1.0, max(before / 10, 1.0) * self.metrics.mean_inference_s / workers)

    # Workers -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Tell the workers that a prediction waits."""
        if self.supervisor is not None:
            self.supervisor.wake()

    def stop(self, id: str) -> None:
        """Tell the workers to stop a prediction, and whoever waits for it to look."""
        if self.supervisor is not None:
            self.supervisor.cancel(id)
        self.board.note_end(id)

    def note_cancelled(self, one: Stored, *, has_ended: bool) -> None:
        """Let a cancellation be known: to its worker, or to whoever waits and is told."""
        if has_ended:
            self.metrics.note_end("failed", 0)
            self.board.note_end(one.id)
            self.on_ended()
        elif not one.is_over:
            self.stop(one.id)

    def end_waiting(self) -> None:
        """Let everybody who waits for an end go: nothing will end here any more."""
        self.has_stopped = True
        self.board.wake_all()

    # Ending ------------------------------------------------------------------------------------

    def cancel(self, id: str, owner: str) -> tuple[Stored, bool]:
        """Ask a prediction to stop; the prediction, and whether it has ended just now.

        Raises:
            NotFoundError: there is none of this id, or it is another owner's.
        """
        found = self.predictions.cancel(id, owner)
        if found is None:
            raise _no_prediction(id)
        return found

    def remove(self, ids: list[str], owner: str) -> list[Removed]:
        """Delete an owner's predictions with their pictures; unknown ids are passed over."""
        removed = self.predictions.remove(ids, owner)
        self._remove_files(removed)
        return removed

    def age(self) -> int:
        """Delete what is older than it is kept, and files that nothing names; how many rows."""
        now = now_ms()
        before = now - round(self.settings.retention_days * _DAY_MS)
        count = 0
        while removed := self.predictions.remove_older(before, MOST_REMOVED):
            self._remove_files(removed)
            count += len(removed)
        names = self.uploads.remove_older(before, now - _DAY_MS)
        self.media.remove_uploads(names)
        self.media.sweep(self.predictions.secrets, self.uploads.file_names)
        return count + len(names)

    def _remove_files(self, removed: list[Removed]) -> None:
        self.media.remove_outputs([name for one in removed for name in one.files])
        self.media.remove_uploads([one.upload for one in removed if one.upload])

    # Telling -----------------------------------------------------------------------------------

    def body_of(self, letter: Letter) -> bytes:
        """What a webhook says: the bare prediction with its input, no envelope around it."""
        one = letter.prediction
        data = served(
            one, base=one.base, media=self.media, model=self.model, with_input=True
        ).model_dump(exclude_none=True)
        return json.dumps(data, separators=(",", ":")).encode()


def _no_prediction(id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no prediction {show(id)}; predictions are kept for some days, and each key sees "
        "its own.",
        field="id",
        value=id,
    )
