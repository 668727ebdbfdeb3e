"""What comes in: submissions and uploads, checked first, then written.

Everything in here touches the store or the disk and is for threads. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError, UnreadableImageError, show
from depthflux.images import EXTENSIONS, MEDIA_TYPES, ReadLimits, inline_picture, inspect_picture
from depthflux.images.text import is_url
from depthflux.model.lora_names import find_loras
from depthflux.server.answers import origin_of
from depthflux.server.database import Database
from depthflux.server.disk import require_room
from depthflux.server.errors import NotFoundError, StoreError
from depthflux.server.media import Media
from depthflux.server.names import is_file_name, new_secret
from depthflux.server.predictions import Predictions
from depthflux.server.rows import Caps, Idempotency, NewPrediction, Stored
from depthflux.server.settings import ServerSettings
from depthflux.server.uploads import Picture, Ticket, Uploads
from depthflux.server.webhooks import check_webhook_url
from depthflux.settings import EngineSettings

#: The model reads 512 tokens.
MAX_PROMPT_CHARACTERS = 16_384
#: What browsers and proxies take everywhere.
MAX_URL_CHARACTERS = 2048
#: A file's ending → the ending that uploads get.
_ENDINGS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
_MEDIA_PATH = re.compile(r"/media/([^/?#]+)")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A submission, read and checked.

    Attributes:
        request: its fields, the seed drawn.
        picture: a control image that came inside it; None where it is fetched or uploaded.
        control_url: where the control image is fetched from; empty if it is here.
        control_file: the name of an upload or an output; empty if it is not one.
        webhook_url: who is told; empty for nobody.
    """

    request: GenerationRequest
    picture: bytes | None
    control_url: str
    control_file: str
    webhook_url: str


class Intake:
    """Takes in submissions and uploads."""

    def __init__(
        self,
        settings: ServerSettings,
        engine_settings: EngineSettings,
        limits: ReadLimits,
        database: Database,
        media: Media,
        *,
        retry_after_s: Callable[[int], float],
        has_several_keys: bool = False,
    ) -> None:
        """Take nothing in yet.

        Args:
            settings: the server's.
            engine_settings: where LoRAs lie.
            limits: within which control images are read.
            database: where it is written.
            media: where pictures are.
            retry_after_s: when to ask again, given how many are before.
            has_several_keys: whether the queue is shared by more than one key.
        """
        self._has_several_keys = has_several_keys
        self._settings, self._engine_settings, self._limits = settings, engine_settings, limits
        self._database, self._media, self._retry_after_s = database, media, retry_after_s
        self._predictions, self._uploads = Predictions(database), Uploads(database)

    def check(self, fields: Mapping[str, Any], webhook: str | None, *, base: str) -> Asked:
        """Read and check a submission; nothing is written yet.

        Args:
            fields: the body's; unknown ones are passed over.
            webhook: the address in the query, which wins over the body's field.
            base: what the client's addresses begin with.

        Raises:
            RequestError: something of it is refused.
        """
        request = GenerationRequest.from_http(fields)
        _require_short(request, webhook)
        self._settings.require_allowed(request)
        find_loras(request.loras, self._engine_settings, for_strangers=True)
        webhook_url = webhook or request.webhook_url or ""
        # The body's is judged even where the query's wins: a wrong field is never passed over.
        for url in filter(None, (webhook, request.webhook_url)):
            check_webhook_url(url)
        if webhook_url:
            _require_addresses(request)
        if not isinstance(request.control_image, str):
            raise InvalidParameterError(
                f"control_image={show(request.control_image)} is not allowed; allowed: a URL, a "
                "data URI or base64.",
                field="control_image",
                value=request.control_image,
                allowed="a URL, a data URI or base64",
            )
        name = self._own_file(request.control_image, origin_of(base))
        picture = None if name else inline_picture(request.control_image, limits=self._limits)
        is_url = not name and picture is None
        return Asked(
            request=request.with_seed_drawn(),
            picture=picture,
            control_url=request.control_image.strip() if is_url else "",
            control_file=name,
            webhook_url=webhook_url,
        )

    def take(
        self,
        fields: Mapping[str, Any],
        webhook: str | None,
        *,
        owner: str,
        base: str,
        key: str | None,
    ) -> tuple[Stored, bool]:
        """Check a submission and take it in: the prediction, and whether it is new.

        A repeat under an Idempotency-Key is known by itself, before the world is asked: the
        picture that it names may be gone by now.

        Raises:
            RequestError, BusyError, StoreError: as `check` and `submit`.
        """
        once = None
        if key is not None:
            once = Idempotency(key=key, fingerprint=_fingerprint(fields, webhook))
            if (before := self._predictions.find_repeat(owner, once)) is not None:
                return before, False
        asked = self.check(fields, webhook, base=base)
        return self.submit(asked, owner=owner, base=base, once=once)

    def submit(
        self, asked: Asked, *, owner: str, base: str, once: Idempotency | None
    ) -> tuple[Stored, bool]:
        """Take a checked submission in; it will end, whatever is killed.

        A worker may begin at once. Before anybody is told that it is accepted, `keep` has to have
        returned, too: then it will end even after a power cut.

        Args:
            asked: the submission.
            owner: whose.
            base: what the client's addresses begin with.
            once: the Idempotency-Key and what came under it; None where there is none.

        Returns:
            The prediction, and whether it is new.

        Raises:
            BusyError: too much is waiting.
            IdempotencyError: the key came with another request before.
            StoreError: the disk is full, or refuses.
        """
        picture = None
        require_room(self._media.uploads)
        if asked.picture is not None:
            picture = self._write_picture(asked.picture, field="control_image", flush=False)
        new = NewPrediction(
            owner=owner,
            fields=asked.request.fields(),
            control_url=asked.control_url,
            control_file=picture.name if picture else asked.control_file,
            base=base,
            webhook_url=asked.webhook_url,
            picture=picture,
        )
        is_new = False
        try:
            one, is_new = self._predictions.submit(new, self._caps(), once)
        finally:
            if picture is not None and not is_new:
                self._media.remove_uploads([picture.name])
        return one, is_new

    def keep(self, one: Stored) -> None:
        """Return once an accepted prediction, and the picture in its request, are on the disk.

        Raises:
            StoreError: the disk refuses.
        """
        try:
            if one.control_file:
                self._media.flush_upload(one.control_file)
            self._database.on_disk()
        except OSError as error:
            raise StoreError(
                f"whether the prediction was accepted is not certain ({error.strerror}); repeat "
                "it under the same Idempotency-Key."
            ) from error

    def _caps(self) -> Caps:
        return Caps(
            queued=self._settings.max_queued,
            active=self._settings.key_max_active,
            share=self._share(),
            retry_after_s=self._retry_after_s,
        )

    def _share(self) -> int:
        """How many of one key may wait: half, where others would find the queue full else."""
        is_shared = self._has_several_keys and not self._settings.key_max_active
        return max(self._settings.max_queued // 2, 1) if is_shared else 0

    def _own_file(self, text: str, origin: str) -> str:
        """The file's name where a text is the address of an upload or output here; else empty.

        The name alone decides: nobody can guess one, and the address may have been built from
        another of this machine's names than the one that it is asked under now. An address of ours
        that has no file is refused: it would be fetched from this very server.

        Raises:
            UnreadableImageError: nothing is there yet, or any more.
        """
        if not is_url(text):
            return ""
        try:
            found = _MEDIA_PATH.fullmatch(urlsplit(text.strip()).path)
        except ValueError:
            return ""
        if found is None or not is_file_name(found[1]):
            return ""
        if self._media.find(found[1]) is not None:
            return found[1]
        if text.strip().lower().startswith(f"{origin.lower()}/"):
            raise UnreadableImageError(
                "control_image: there is no picture at this address of ours, not yet or no more; "
                "upload it.",
                field="control_image",
            )
        return ""

    def upload(self, data: bytes, owner: str) -> Picture:
        """Take in a picture.

        Raises:
            UnreadableImageError: it is no usable picture.
            StoreError: the disk is full, or refuses.
        """
        picture = self._write_picture(data, field="file", flush=True)
        self._uploads.add(picture, owner)
        self._keep_on_disk()
        return picture

    def promise(self, filename: str, content_type: str | None, size: int, owner: str) -> Ticket:
        """A ticket for a picture whose bytes will come.

        Raises:
            InvalidParameterError: it will be too large, or is of a kind that is not taken.
            BusyError: too many tickets of the owner are open.
            StoreError: there is no room for it on the disk.
        """
        if size > self._limits.max_bytes:
            raise InvalidParameterError(
                f"size={size} is not allowed; allowed: at most {self._limits.max_bytes} bytes.",
                field="size",
                value=size,
                allowed=f"at most {self._limits.max_bytes} bytes",
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
        require_room(self._media.uploads, size)
        self._uploads.add_ticket(ticket)
        return ticket

    def find_ticket(self, secret: str) -> Ticket:
        """The ticket with this secret.

        Raises:
            NotFoundError: there is none.
        """
        ticket = self._uploads.find_ticket(secret)
        if ticket is None:
            raise NotFoundError("there is no such upload ticket; ask for a new one.")
        return ticket

    def redeem(self, ticket: Ticket, data: bytes) -> None:
        """Take in the bytes that a ticket has promised; the same ones may come again.

        Raises:
            InvalidParameterError: they are more or fewer than promised, or others than before.
            UnreadableImageError: they are no usable picture.
            StoreError: the disk is full, or refuses.
        """
        digest = hashlib.sha256(data).hexdigest()
        if ticket.sha256 not in ("", digest):
            raise InvalidParameterError(
                "this upload ticket was used for other bytes; ask for a new one.", field="body"
            )
        if ticket.sha256 and self._media.find(ticket.name) is not None:
            return
        if len(data) != ticket.size:
            raise InvalidParameterError(
                f"{len(data)} bytes came where the ticket has promised {ticket.size}.", field="body"
            )
        format = inspect_picture(data, limits=self._limits, field="body")
        require_room(self._media.uploads, len(data))
        picture = Picture(
            name=ticket.name, size=len(data), sha256=digest, media_type=MEDIA_TYPES[format]
        )
        # The row first: of several that come at once, one is the ticket's, and its file is written.
        if not self._uploads.keep(picture):
            raise InvalidParameterError(
                "this upload ticket is being used for another upload; ask for a new one.",
                field="body",
            )
        self._media.write_upload(ticket.name, data, flush=True)
        self._keep_on_disk()

    def _keep_on_disk(self) -> None:
        try:
            self._database.on_disk()
        except OSError as error:
            raise StoreError(f"the upload cannot be kept just now: {error.strerror}.") from error

    def _write_picture(self, data: bytes, *, field: str, flush: bool) -> Picture:
        format = inspect_picture(data, limits=self._limits, field=field)
        require_room(self._media.uploads, len(data))
        name = f"{new_secret()}.{EXTENSIONS[format]}"
        digest = self._media.write_upload(name, data, flush=flush)
        return Picture(name=name, size=len(data), sha256=digest, media_type=MEDIA_TYPES[format])


def _require_short(request: GenerationRequest, webhook: str | None) -> None:
    """See that texts are no longer than anybody needs: they are read with every poll and list."""
    image = request.control_image
    caps = {
        "prompt": (request.prompt, MAX_PROMPT_CHARACTERS),
        "webhook": (webhook or "", MAX_URL_CHARACTERS),
        "webhook_url": (request.webhook_url or "", MAX_URL_CHARACTERS),
        "control_image": (
            image if isinstance(image, str) and is_url(image) else "",
            MAX_URL_CHARACTERS,
        ),
    }
    for name, (text, most) in caps.items():
        if len(text) > most:
            raise InvalidParameterError(
                f"{name} has {len(text)} characters; allowed: at most {most}.",
                field=name,
                allowed=f"at most {most} characters",
            )


def _fingerprint(fields: Mapping[str, Any], webhook: str | None) -> str:
    """sha256 of what was sent, its seed not yet drawn: a repeat of -1 asks for the same."""
    image = fields.get("control_image")
    # By itself, as it is: a picture of megabytes need not be written as JSON again.
    text = image if isinstance(image, str) else json.dumps(image)
    rest = {name: value for name, value in fields.items() if name != "control_image"}
    digest = hashlib.sha256(json.dumps([rest, webhook], sort_keys=True).encode())
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _require_addresses(request: GenerationRequest) -> None:
    if request.enable_base64_output:
        raise InvalidParameterError(
            "enable_base64_output=True: webhooks carry addresses, not base64; leave one of the "
            "two out.",
            field="enable_base64_output",
            value=True,
            allowed="false together with a webhook",
        )
