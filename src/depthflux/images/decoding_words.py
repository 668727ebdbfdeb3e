"""What is said between a process and its decoder: a JSON line, and raw bytes behind it.

    → a decoder    Job      a picture's header and bounds; its bytes follow
    from it →      Ready    its limits are set, and it takes pictures
                   Answer   the pixels follow, or what is wrong with the picture

Nothing that runs is ever sent. Knows neither processes nor pictures.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from depthflux.images.container import Header, PictureFormat
from depthflux.images.limits import ReadLimits

#: What a decoder exits with when a picture would have taken more memory than it may.
EXIT_MEMORY = 71
#: Longest line of either side. A problem is one sentence of Pillow's or ours.
LONGEST_LINE_BYTES = 4096
_SENTENCE = Annotated[str, Field(max_length=1000)]

#: What the interpreter, numpy and Pillow take before the first picture: 128 MiB of addresses were
#: measured; another build may take more.
_IDLE_BYTES = 192 * 2**20
#: Bytes of a pixel at the worst moment, and copies of the file then. Measured: 23 for WebP, 20 for
#: PNG with alpha, 18 for progressive CMYK JPEG, 14 and less for all else.
_PIXEL_BYTES, _FILE_COPIES = 24, 4


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def line(self) -> bytes:
        """As it is sent."""
        return self.model_dump_json().encode() + b"\n"


class Job(_Line):
    """A picture to decode.

    Attributes:
        format: which of the three it is.
        width: pixels as stored.
        height: pixels as stored.
        orientation: 1 to 8 as EXIF numbers them.
        size: how many bytes follow.
        memory_bytes: most memory that decoding may take, all in all.
        cpu_s: most seconds of computing.
    """

    format: PictureFormat
    width: int
    height: int
    orientation: int
    size: int
    memory_bytes: int
    cpu_s: int

    @property
    def header(self) -> Header:
        """The header, as judged by the sender."""
        return Header(
            format=self.format,
            width=self.width,
            height=self.height,
            frames=1,
            orientation=self.orientation,
        )


class Ready(_Line):
    """The decoder takes pictures."""

    kind: Literal["ready"] = "ready"


class Answer(_Line):
    """What became of a picture.

    Attributes:
        problem: what is wrong with it; empty where its pixels follow.
        advice: what to do about it.
        has_grey16: whether 16-bit grey follows the colours.
    """

    problem: _SENTENCE = ""
    advice: _SENTENCE = ""
    has_grey16: bool = False


def memory_for(limits: ReadLimits) -> int:
    """How much memory the largest picture within some limits can need, in bytes."""
    return _IDLE_BYTES + _FILE_COPIES * limits.max_bytes + _PIXEL_BYTES * limits.max_pixels
