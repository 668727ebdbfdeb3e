"""What the routes call: taking a prediction in, waiting for it, uploads, deleting, ageing.

Everything that decides is here, without HTTP: routes read a request, call one of these, and say
what came. Methods that touch the store or the disk are for threads, the others for the event loop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError, show
from depthflux.images import EXTENSIONS, MEDIA_TYPES, ReadLimits, inline_picture, inspect_picture
from depthflux.model.lora_names import find_loras
from depthflux.server.answers import served
from depthflux.server.board import Board
from depthflux.server.database import Database
from depthflux.server.documents import Readiness, ServedPrediction
from depthflux.server.errors import NotFoundError
from depthflux.server.media import Media
from depthflux.server.metrics import Metrics
from depthflux.server.names import is_file_name, new_secret, now_ms
from depthflux.server.outbox import Letter, Outbox
from depthflux.server.predictions import (
    Caps,
    Idempotency,
    NewPrediction,
    Predictions,
    Removed,
    Stored,
)
from depthflux.server.rates import Rates
from depthflux.server.settings import ServerSettings
from depthflux.server.supervisor import Supervisor
from depthflux.server.uploads import Picture, Ticket, Uploads
from depthflux.server.webhooks import check_webhook_url
from depthflux.settings import EngineSettings

#: A file's ending → the ending that uploads get.
_ENDINGS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
_MEDIA_PATH = re.compile(r"/media/([^/?#]+)")
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A submission, read and checked.

    Attributes:
        request: its fields, the seed drawn.
        picture: a control image that came inside it; None where it is fetched or uploaded.
        control_url: where the control image is fetched from; empty if it is here.
        control_file: the name of an upload or an output; empty if it is not one.
        webhook_url: who is told; empty for nobody.
        fingerprint: sha256 of what was sent, for repeats under an Idempotency-Key.
    """

    request: GenerationRequest
    picture: bytes | None
    control_url: str
    control_file: str
    webhook_url: str
    fingerprint: str


class Service:
    """A server's parts, and what is done with them.

    Attributes:
        settings: the server's.
        limits: within which control images are read.
        is_draining: whether nothing new is taken.
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
    ) -> None:
        self.settings, self.metrics, self.board, self.media = settings, metrics, board, media
        self._engine_settings, self.database = engine_settings, database
        self.predictions, self.uploads = Predictions(database), Uploads(database)
        self.outbox = Outbox(database)
        self.limits = dataclasses.replace(
            ReadLimits.from_settings(engine_settings), allow_files=False
        )
        self.is_draining = False
        self.supervisor: Supervisor | None = None
        self.on_ended: Callable[[], None] = lambda: None
        self._rates = Rates(settings.key_requests_per_minute)

    # Taking in ---------------------------------------------------------------------------------

    def check(self, fields: Mapping[str, Any], webhook: str | None) -> Asked:
        """Read and check a submission; nothing is written yet.

        Args:
            fields: the body's; unknown ones are passed over.
            webhook: the address in the query, which wins over the body's field.

        Raises:
            RequestError: something of it is refused.
        """
        # Before the seed is drawn: a repeat of "-1" asks for the same.
        digest = hashlib.sha256(json.dumps([fields, webhook], sort_keys=True).encode())
        request = GenerationRequest.from_http(fields)
        self.settings.require_allowed(request)
        find_loras(request.loras, self._engine_settings)
        webhook_url = webhook or request.webhook_url or ""
        if webhook_url:
            check_webhook_url(webhook_url)
            _require_addresses(request)
        if not isinstance(request.control_image, str):
            raise InvalidParameterError(
                f"control_image={show(request.control_image)} is not allowed; allowed: a URL, a "
                "data URI or base64.",
                field="control_image",
                value=request.control_image,
                allowed="a URL, a data URI or base64",
            )
        name = self._own_file(request.control_image)
        picture = None if name else inline_picture(request.control_image, limits=self.limits)
        is_url = not name and picture is None
        return Asked(
            request=request.with_seed_drawn(),
            picture=picture,
            control_url=request.control_image.strip() if is_url else "",
            control_file=name,
            webhook_url=webhook_url,
            fingerprint=digest.hexdigest(),
        )

    def submit(
        self, asked: Asked, *, owner: str, base: str, key: str | None
    ) -> tuple[Stored, bool]:
        """Take a checked submission in; it will end, whatever is killed.

        A worker may begin at once. Before anybody is told that it is accepted, `keep` has to have
        returned, too: then it will end even after a power cut.

        Args:
            asked: the submission.
            owner: whose.
            base: what the client's addresses begin with.
            key: the Idempotency-Key; None where there is none.

        Returns:
            The prediction, and whether it is new.

        Raises:
            BusyError: too much is waiting.
            IdempotencyError: the key came with another request before.
            OutputError: the disk is full, or refuses.
        """
        picture = None
        if asked.picture is not None:
            picture = self._write_picture(asked.picture, flush=False)
        new = NewPrediction(
            owner=owner,
            fields=asked.request.fields(),
            control_url=asked.control_url,
            control_file=picture.name if picture else asked.control_file,
            base=base,
            webhook_url=asked.webhook_url,
            picture=picture,
        )
        once = None if key is None else Idempotency(key=key, fingerprint=asked.fingerprint)
        is_new = False
        try:
            one, is_new = self.predictions.submit(new, self._caps(), once)
        finally:
            if picture is not None and not is_new:
                self.media.remove_uploads([picture.name])
        return one, is_new

    def keep(self, one: Stored) -> None:
        """Return once an accepted prediction, and the picture in its request, are on the disk.

        Raises:
            OSError: the disk refuses.
        """
        if one.control_file:
            self.media.flush_upload(one.control_file)
        self.database.on_disk()

    def _caps(self) -> Caps:
        return Caps(
            queued=self.settings.max_queued,
            active=self.settings.key_max_active,
            retry_after_s=self._retry_after_s,
        )

    def _retry_after_s(self, before: int) -> float:
        """How long about until the queue is noticeably shorter: a tenth of it, at least one."""
        workers = max(len(self.supervisor.places) if self.supervisor else 1, 1)
        return max(1.0, max(before / 10, 1.0) * self.metrics.mean_inference_s / workers)

    def _own_file(self, text: str) -> str:
        """The file's name where a text is the address of an upload or output here; else empty.

        The name alone decides: nobody can guess one, and the address may have been built from
        another of this machine's names than the one that it is asked under now.
        """
        if not text.lstrip().lower().startswith(("http://", "https://")) or len(text) > 2048:
            return ""
        try:
            found = _MEDIA_PATH.fullmatch(urlsplit(text.strip()).path)
        except ValueError:
            return ""
        if found is None or not is_file_name(found[1]):
            return ""
        if self.media.find(found[1]) is None:
            return ""
        return found[1]

    # Uploads -----------------------------------------------------------------------------------

    def upload(self, data: bytes, owner: str) -> Picture:
        """Take in a picture.

        Raises:
            UnreadableImageError: it is no usable picture.
            OutputError: the disk is full, or refuses.
        """
        inspect_picture(data, limits=self.limits, field="file")
        picture = self._write_picture(data, flush=True)
        self.uploads.add(picture, owner)
        self.database.on_disk()
        return picture

    def promise(self, filename: str, content_type: str | None, size: int, owner: str) -> Ticket:
        """A ticket for a picture whose bytes will come.

        Raises:
            InvalidParameterError: it will be too large, or is of a kind that is not taken.
        """
        if size > self.limits.max_bytes:
            raise InvalidParameterError(
                f"size={size} is not allowed; allowed: at most {self.limits.max_bytes} bytes.",
                field="size",
                value=size,
                allowed=f"at most {self.limits.max_bytes} bytes",
            )
        by_type = {kind: EXTENSIONS[name] for name, kind in MEDIA_TYPES.items()}
        kind = (content_type or "").partition(";")[0].strip().lower()
        ending = _ENDINGS.get(filename.rpartition(".")[2].lower()) or by_type.get(kind)
        if ending is None:
            raise InvalidParameterError(
                f"filename={show(filename)}: only PNG, JPEG and WebP pictures are taken; give a "
                "name that ends so, or content_type.",
                field="filename",
                value=filename,
                allowed=".png, .jpg, .jpeg, .webp",
            )
        ticket = Ticket(
            name=f"{new_secret()}.{ending}", size=size, secret=new_secret(), owner=owner
        )
        self.uploads.add_ticket(ticket)
        return ticket

    def redeem(self, secret: str, data: bytes) -> None:
        """Take in the bytes that a ticket has promised; the same ones may come again.

        Raises:
            NotFoundError: there is no such ticket.
            InvalidParameterError: they are more or fewer than promised, or others than before.
            UnreadableImageError: they are no usable picture.
            OutputError: the disk is full, or refuses.
        """
        ticket = self.uploads.find_ticket(secret)
        if ticket is None:
            raise NotFoundError("there is no such upload ticket; ask for a new one.")
        digest = hashlib.sha256(data).hexdigest()
        if ticket.sha256:
            if ticket.sha256 != digest:
                raise InvalidParameterError(
                    "this upload ticket was used for other bytes; ask for a new one.", field="body"
                )
            return
        if len(data) != ticket.size:
            raise InvalidParameterError(
                f"{len(data)} bytes came where the ticket has promised {ticket.size}.", field="body"
            )
        format = inspect_picture(data, limits=self.limits, field="body")
        self.media.write_upload(ticket.name, data, flush=True)
        self.uploads.keep(
            Picture(
                name=ticket.name,
                size=len(data),
                sha256=digest,
                media_type=MEDIA_TYPES[format],
            )
        )
        self.database.on_disk()

    def _write_picture(self, data: bytes, *, flush: bool) -> Picture:
        format = inspect_picture(data, limits=self.limits)
        name = f"{new_secret()}.{EXTENSIONS[format]}"
        digest = self.media.write_upload(name, data, flush=flush)
        return Picture(name=name, size=len(data), sha256=digest, media_type=MEDIA_TYPES[format])

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

    def show(
        self, one: Stored, base: str, *, with_progress: bool = False, with_input: bool = False
    ) -> ServedPrediction:
        """A prediction as a client sees it.

        Raises:
            NotFoundError: its pictures were to be answered as base64, and are gone.
        """
        try:
            return served(
                one,
                base=base,
                media=self.media,
                model=self.model,
                progress=self.board.progress(one.id) if with_progress else None,
                with_input=with_input,
            )
        except FileNotFoundError:
            raise NotFoundError(
                f"the pictures of prediction {one.id} are gone; they are kept "
                f"{self.settings.retention_days:g} days."
            ) from None

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

    async def wait(self, id: str, timeout_s: float) -> None:
        """Wait until a prediction may have ended, at the most so long."""
        await self.board.wait(id, timeout_s)

    @property
    def model(self) -> str:
        """The id of the model that is loaded; empty before."""
        return self.supervisor.model if self.supervisor else ""

    @staticmethod
    def now_s() -> float:
        """Seconds that never go back, whatever is done to the clock."""
        return time.monotonic()

    # Workers -----------------------------------------------------------------------------------

    def take_token(self, owner: str) -> None:
        """Count a submission or an upload.

        Raises:
            BusyError: the key has asked too often.
        """
        self._rates.take(owner)

    def wake(self) -> None:
        """Tell the workers that a prediction waits."""
        if self.supervisor is not None:
            self.supervisor.wake()

    def stop(self, id: str) -> None:
        """Tell the workers to stop a prediction, and whoever waits for it to look."""
        if self.supervisor is not None:
            self.supervisor.cancel(id)
        self.board.note_end(id)

    def note_cancelled(self, one: Stored) -> None:
        """Let a cancellation be known: to its worker, or to whoever waits and is told."""
        if one.is_over:
            self.board.note_end(one.id)
            self.on_ended()
        else:
            self.stop(one.id)

    # Ending ------------------------------------------------------------------------------------

    def cancel(self, id: str, owner: str) -> Stored:
        """Ask a prediction to stop.

        Raises:
            NotFoundError: there is none of this id, or it is another owner's.
        """
        one = self.predictions.cancel(id, owner)
        if one is None:
            raise _no_prediction(id)
        return one

    def remove(self, ids: list[str], owner: str) -> list[Removed]:
        """Delete an owner's predictions with their pictures; unknown ids are passed over."""
        removed = self.predictions.remove(ids, owner)
        self._remove_files(removed)
        return removed

    def age(self) -> int:
        """Delete what is older than it is kept, and files that nothing names; how many rows."""
        before = now_ms() - round(self.settings.retention_days * _DAY_MS)
        removed = self.predictions.remove_older(before)
        self._remove_files(removed)
        names = self.uploads.remove_older(before)
        self.media.remove_uploads(names)
        self.media.sweep(self.predictions.file_names, self.uploads.file_names)
        return len(removed) + len(names)

    def _remove_files(self, removed: list[Removed]) -> None:
        for one in removed:
            self.media.remove_outputs(one.files)
            if one.upload:
                self.media.remove_uploads([one.upload])

    # Telling -----------------------------------------------------------------------------------

    def body_of(self, letter: Letter) -> bytes:
        """What a webhook says: the bare prediction with its input, no envelope around it."""
        one = letter.prediction
        data = served(
            one, base=one.base, media=self.media, model=self.model, with_input=True
        ).model_dump(exclude_none=True)
        return json.dumps(data, separators=(",", ":")).encode()


def _require_addresses(request: GenerationRequest) -> None:
    if request.enable_base64_output:
        raise InvalidParameterError(
            "enable_base64_output=True: webhooks carry addresses, not base64; leave one of the "
            "two out.",
            field="enable_base64_output",
            value=True,
            allowed="false together with a webhook",
        )


def _no_prediction(id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no prediction {show(id)}; predictions are kept for some days, and each key sees "
        "its own.",
        field="id",
        value=id,
    )
