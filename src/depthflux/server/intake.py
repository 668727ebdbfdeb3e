"""What comes in: submissions and uploads, judged before, are written.

Everything in here touches the store or the disk and is for threads. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from depthflux.errors import InvalidParameterError, show
from depthflux.images import EXTENSIONS, MEDIA_TYPES, PictureFormat, ReadLimits, format_of
from depthflux.server.database import Database
from depthflux.server.disk import require_room
from depthflux.server.errors import NotFoundError, StoreError
from depthflux.server.judging import Asked, Judged, no_such_picture
from depthflux.server.media import Media
from depthflux.server.names import is_output_name, new_secret
from depthflux.server.predictions import Predictions
from depthflux.server.rows import Caps, NewPrediction, Stored
from depthflux.server.settings import ServerSettings
from depthflux.server.uploads import Picture, Ticket, Uploads

#: A file's ending → the ending that uploads get.
_ENDINGS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}


class Intake:
    """Takes in submissions and uploads."""

    def __init__(
        self,
        settings: ServerSettings,
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
            limits: how large an upload may be.
            database: where it is written.
            media: where pictures are.
            retry_after_s: when to ask again, given how many are before.
            has_several_keys: whether the queue is shared by more than one key.
        """
        self._has_several_keys = has_several_keys
        self._settings, self._limits, self._retry_after_s = settings, limits, retry_after_s
        self._database, self._media = database, media
        self._predictions, self._uploads = Predictions(database), Uploads(database)

    def submit(self, asked: Asked, *, owner: str, base: str) -> tuple[Stored, bool]:
        """Take a submission in; it will end, whatever is killed.

        A worker may begin at once. Before anybody is told that it is accepted, `keep` has to have
        returned, too: then it will end even after a power cut.

        Args:
            asked: the submission.
            owner: whose.
            base: what the client's addresses begin with.

        Returns:
            The prediction, and whether it is new.

        Raises:
            BusyError: too much is waiting.
            IdempotencyError: the key came with another request before.
            StoreError: the disk is full, or refuses.
            UnreadableImageError: the upload or output that it names was deleted just now.
        """
        require_room(self._media.uploads)
        picture = self._picture_of(asked)
        new = NewPrediction(
            owner=owner,
            fields=asked.fields,
            control_url=asked.control_url,
            control_file=picture.name if picture else asked.control_file,
            base=base,
            webhook_url=asked.webhook_url,
            picture=picture,
        )
        is_new = False
        try:
            one, is_new = self._predictions.submit(new, self._caps(), asked.once)
        finally:
            if picture is not None and not is_new:
                self._media.remove_uploads([picture.name])
        if is_new and one.control_file and picture is None:
            self._require_upload(one)
        return one, is_new

    def _require_upload(self, one: Stored) -> None:
        """See that an upload was not deleted before its prediction was there to need it."""
        if self._uploads.find(one.control_file) is None:
            self._predictions.remove([one.id], one.owner)
            raise no_such_picture()

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

    def upload(self, judged: Judged, owner: str) -> Picture:
        """Take in a picture.

        Raises:
            StoreError: the disk is full, or refuses.
        """
        picture = self._write_picture(judged, flush=True)
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

    def redeem(self, ticket: Ticket, judged: Judged) -> None:
        """Take in the picture that a ticket has promised.

        Raises:
            InvalidParameterError: others have come meanwhile.
            StoreError: the disk is full, or refuses.
        """
        data, digest = judged.data, hashlib.sha256(judged.data).hexdigest()
        require_room(self._media.uploads, len(data))
        picture = Picture(
            name=ticket.name, size=len(data), sha256=digest, media_type=MEDIA_TYPES[judged.format]
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

    def _picture_of(self, asked: Asked) -> Picture | None:
        """The control image that goes with a prediction; None for an upload or an address.

        An output becomes one: else it would go with the prediction that it is of.
        """
        if asked.picture is not None:
            return self._write_picture(asked.picture, flush=False)
        if not is_output_name(asked.control_file):
            return None
        name = f"{new_secret()}.{asked.control_file.rpartition('.')[2]}"
        kept = self._media.keep_output(asked.control_file, name)
        format = format_of(kept.first) if kept is not None else None
        if kept is None or format is None:
            self._media.remove_uploads([name])
            raise no_such_picture()
        return _picture(name, kept.size, format, kept.sha256)

    def _write_picture(self, judged: Judged, *, flush: bool) -> Picture:
        data, format = judged.data, judged.format
        require_room(self._media.uploads, len(data))
        name = f"{new_secret()}.{EXTENSIONS[format]}"
        digest = self._media.write_upload(name, data, flush=flush)
        return _picture(name, len(data), format, digest)


def _picture(name: str, size: int, format: PictureFormat, digest: str) -> Picture:
    return Picture(name=name, size=size, sha256=digest, media_type=MEDIA_TYPES[format])
