"""Control images for a worker: fetched, or from the store, and decoded in a process of their own.

Where no decoder can be started that is nobody's request's fault, and may pass: it is tried again
for a while, and then this process is given up, not the prediction, which loses no attempt by it.

Knows nothing of painting, or of how a process is given up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from depthflux.errors import UnreadableImageError
from depthflux.images import IsolatedDecoder, NoDecoderError, ReadLimits, SourceImage, read_image
from depthflux.images.container import Header
from depthflux.images.decoding import Pixels
from depthflux.server.media import Media
from depthflux.server.rows import Stored

#: How long a decoder is tried to be started, in seconds.
PATIENCE_S = 60.0
#: How long to wait before it is tried again, in seconds.
RETRY_S = 0.5


class Controls:
    """Reads control images; several threads may do so at a time."""

    def __init__(
        self,
        media: Media,
        decoder: IsolatedDecoder,
        limits: ReadLimits,
        may_give_up: Callable[[], bool],
    ) -> None:
        """Read nothing yet.

        Args:
            media: where uploads are.
            decoder: decodes.
            limits: within which pictures are read.
            may_give_up: whether giving this process up would cost no other prediction its work.
        """
        self._media, self._decoder, self._limits = media, decoder, limits
        self._may_give_up = may_give_up
        self._waiting: set[int] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether a decoder is waited for: another picture would only wait beside this one."""
        return bool(self._waiting)

    def read(self, job: Stored, require_wanted: Callable[[], None]) -> SourceImage:
        """A prediction's control image.

        Args:
            job: the prediction.
            require_wanted: raises where it is to be stopped; asked while a decoder is waited for.

        Raises:
            UnreadableImageError: it is no usable picture, or no longer here.
            ImageFetchError: it could not be fetched.
            NoDecoderError: no decoder starts, whatever the picture.
        """
        limits, decoder = self._limits, partial(self._decode, require_wanted)
        if not job.control_file:
            return read_image(job.control_url, limits=limits, decoder=decoder)
        data = self._media.read(job.control_file)
        if data is None:
            raise UnreadableImageError(
                "control_image: the uploaded picture is no longer here; upload it again.",
                field="control_image",
            )
        return read_image(data, limits=limits, decoder=decoder)

    def _decode(
        self, require_wanted: Callable[[], None], data: bytes, header: Header, limits: ReadLimits
    ) -> Pixels:
        ends_at, own = time.monotonic() + PATIENCE_S, threading.get_ident()
        try:
            while True:
                try:
                    return self._decoder.decode(data, header, limits)
                except NoDecoderError:  # the log has it already
                    self._waiting.add(own)
                    if time.monotonic() > ends_at and self._may_give_up():
                        raise
                require_wanted()
                time.sleep(RETRY_S)
        finally:
            self._waiting.discard(own)
