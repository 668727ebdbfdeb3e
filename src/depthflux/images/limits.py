"""How much of a picture is accepted, and how far a fetch may go.

Knows only numbers. It does not know where they are set (`depthflux.settings` fills them) nor how
they are enforced; every one of them is checked before the work it bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from depthflux.settings import EngineSettings


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """Bounds within which `read_image` accepts a source image.

    Attributes:
        max_bytes: most bytes of an encoded picture, read from a file, a URL or a text. 32 MiB holds
            a 60-megapixel camera's JPEG and still fits, as base64, into the record of a PNG.
        max_pixels: most pixels, width times height, checked in the header before decoding. 2**26
            (67 million) lets a phone's 64-megapixel picture (9248x6936) in, which takes 0.5 GiB
            while it is read as JPEG (more with alpha), and stays below the 89 million from which
            Pillow warns. Whatever is set here, Pillow itself refuses more than 178 million.
        max_side: most pixels of one side; a JPEG can have no more, and a picture that is all side
            is large in one direction whatever it is scaled to.
        max_frames: most frames of an animated WebP or PNG; the first one is used.
        allow_files: whether a text may name a file on this machine. A server sets False, since its
            callers must not read its disk; then the answer does not say whether a file exists.
        allow_private_addresses: whether a URL may lead to loopback, private, link-local and other
            addresses that are not public.
        connect_timeout_s: longest wait for a name to resolve, and for one address to accept.
        read_timeout_s: longest silence of a server.
        total_timeout_s: longest time of one fetch with all its redirects, in seconds.
        max_redirects: most redirects followed.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 2**26
    max_side: int = 65_535
    max_frames: int = 1
    allow_files: bool = True
    allow_private_addresses: bool = False
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    total_timeout_s: float = 30.0
    max_redirects: int = 3

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        """The limits that the settings say."""
        return cls(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            allow_private_addresses=settings.allow_private_addresses,
            total_timeout_s=settings.fetch_timeout_s,
        )


DEFAULT_LIMITS = ReadLimits()


def megabytes(count: int) -> str:
    """A byte count as messages say it, such as "32 MiB"."""
    return f"{count / 2**20:.1f} MiB".replace(".0 ", " ") if count >= 2**20 else f"{count} bytes"
