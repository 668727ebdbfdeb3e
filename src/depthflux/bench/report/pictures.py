"""A run's pictures as parts of the page: made small, with a link to the original.

What is embedded is a WebP of bounded sides and bytes; figures were taken of the originals, which
are linked by their path in the run's folder. Knows nothing of what is compared.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from PIL import Image

from depthflux.errors import UnreadableImageError, first_line
from depthflux.files import read_regular
from depthflux.images import ReadLimits, read_image
from depthflux.logs import one_line

#: Longest side of a picture on the page, in pixels, tried until its bytes are few enough. The
#: first is what a comparison needs on a screen; rendered pictures fit with it.
PICTURE_SIDES = (896, 768, 640, 512, 384, 256)
#: Depth maps and control images are looked at, not into.
SMALL_SIDES = (384, 256)
#: Most bytes of one embedded picture, before base64 adds a third.
PICTURE_BYTES, SMALL_BYTES = 110_000, 24_000
#: WebP's; 82 hides nothing that can be seen at these sizes, for a sixth of the bytes of 95.
_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """A picture as the page shows it.

    Attributes:
        uri: a data URI of the small picture; empty where there is none.
        link: the original's relative address; empty where its path leaves the folder.
        width: of the original, in pixels; 0 where it could not be read.
        height: likewise.
        small_width: of what is embedded.
        small_height: likewise.
        problem: why it is not shown, one line; empty where it is.
    """

    uri: str
    link: str
    width: int
    height: int
    small_width: int
    small_height: int
    problem: str


def show_picture(
    folder: Path,
    file: str,
    *,
    sides: tuple[int, ...] = PICTURE_SIDES,
    most_bytes: int = PICTURE_BYTES,
) -> Shown:
    """A picture of the run's folder, made small.

    A picture that cannot be read is shown as the reason, since a report must not fail for one.

    Args:
        folder: the run's.
        file: path in it, with slashes.
        sides: longest sides to try, in pixels, falling.
        most_bytes: of the file that is embedded; the smallest side may exceed it.
    """
    if not _stays_inside(file):
        return _not_shown("", "its path leaves the run's folder")
    link = quote(file)
    try:
        source = read_image(read_regular(folder / file), limits=ReadLimits(allow_files=False))
    except UnreadableImageError as error:
        return _not_shown(link, first_line(error))
    except OSError as error:
        return _not_shown(link, error.strerror or type(error).__name__)
    width, height = source.size
    small, data = _shrink(Image.fromarray(source.rgb), sides, most_bytes)
    uri = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
    return Shown(uri, link, width, height, *small.size, problem="")


def withheld(file: str, reason: str) -> Shown:
    """A picture that is linked, but not shown for a reason."""
    return _not_shown(quote(file) if _stays_inside(file) else "", reason)


def _not_shown(link: str, problem: str) -> Shown:
    return Shown("", link, 0, 0, 0, 0, one_line(problem))


def _stays_inside(file: str) -> bool:
    parts = PurePosixPath(file).parts
    # A drive or a scheme would be a colon in the first part; `quote` turns it into %3A anyway.
    return bool(parts) and not file.startswith("/") and ".." not in parts and "\\" not in file


def _shrink(
    picture: Image.Image, sides: tuple[int, ...], most_bytes: int
) -> tuple[Image.Image, bytes]:
    """The largest of the sides whose file is small enough, else the smallest."""
    small, data = picture, b""
    for side in sides:
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=_QUALITY, method=2)
        data = buffer.getvalue()
        if len(data) <= most_bytes:
            break
    return small, data
