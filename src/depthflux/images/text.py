"""A text → the picture's bytes: is it a URL, a data URI, base64, or a path?

The order of the questions, each answered by the text itself before the disk is touched: a scheme
decides first; base64 is known by how an encoded PNG, JPEG or WebP begins; what is left names a
file. Knows nothing of what is inside the bytes.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes
from urllib.request import url2pathname

from depthflux.errors import show, without_secrets
from depthflux.images.container import PictureProblemError
from depthflux.images.limits import ReadLimits, megabytes

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)

#: How base64 of the three signatures begins; the URL-safe alphabet writes "_" for "/".
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "_9j_", "UklGR")
_URL_SAFE = str.maketrans("-_", "+/")

#: No file system here or elsewhere takes longer paths, and no picture is shorter in base64.
_MAX_PATH_CHARACTERS = 4096
#: Paths are shown whole up to here, since their end tells most.
_SHOWN_PATH_CHARACTERS = 300
#: A text of so many base64 characters and nothing else is hardly a file name.
_BASE64_GUESS_CHARACTERS = 64


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a text turned out to be.

    Attributes:
        origin: one short word for records and logs.
        shown: how an error names it; never a query string, a password or megabytes of text.
        load: gets the bytes; raises `PictureProblemError` or `ImageFetchError`.
    """

    origin: str
    shown: str
    load: Callable[[], bytes]


def is_url(text: str) -> bool:
    """Whether a text says by its scheme that it is an http or https URL."""
    found = _SCHEME.match(text.lstrip())
    return found is not None and found.group(1).lower() in ("http", "https")


def bytes_of_text(text: str, *, limits: ReadLimits, field: str) -> Given:
    """Tell what a text is; nothing is read, decoded or fetched before `load` is called.

    Raises:
        PictureProblemError: it is empty, or its scheme is none that is read.
    """
    if not text.strip():
        raise PictureProblemError("is empty", "give a path, a URL, a data URI or base64")
    found = _SCHEME.match(text.lstrip())
    scheme = found.group(1).lower() if found else ""
    if is_url(text):
        # httpx costs 0.2 s to import, which reading a file must not pay.
        from depthflux.images import fetch

        address = fetch.shown_url(text)
        return Given(
            origin=address,
            shown=show(address),
            load=lambda: fetch.fetch(text, limits=limits, field=field),
        )
    if scheme == "data":
        shown = f"a data URI of {len(text)} characters"
        return Given(origin="data URI", shown=shown, load=lambda: bytes_of_data_uri(text, limits))
    if scheme == "file":
        path = _path_of_file_uri(text.strip())
    elif scheme and "://" in text[: len(scheme) + 8]:
        raise PictureProblemError(f"has the scheme {scheme}", "only http and https are fetched")
    elif text.lstrip().startswith(_BASE64_STARTS) and not _is_file(text, limits):
        shown = f"base64 of {len(text)} characters"
        return Given(origin="base64", shown=shown, load=lambda: bytes_of_base64(text, limits))
    else:
        path = text
    is_short = len(path) <= _SHOWN_PATH_CHARACTERS
    shown = without_secrets(repr(path)) if is_short else show(path)
    return Given(origin=path, shown=shown, load=lambda: bytes_of_path(path, limits))


def bytes_of_path(path: str, limits: ReadLimits) -> bytes:
    """The bytes of a file, read only if it is a regular one within the cap.

    Raises:
        PictureProblemError: it is not there, no file, too large, or may not be read.
    """
    if not limits.allow_files:
        raise PictureProblemError(
            "is neither a URL, a data URI nor base64 of a picture",
            "files of this machine are not read here; upload the picture or send it as base64",
        )
    if _looks_like_base64(path):
        raise PictureProblemError(
            "is neither a file nor base64 of a PNG, JPEG or WebP picture",
            "check what was encoded",
        )
    try:
        place = Path(path).expanduser()
        status = place.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PictureProblemError("is a folder", "name a picture in it")
        # Opening a pipe would wait for its writer, and a device may never end.
        if not stat.S_ISREG(status.st_mode):
            raise PictureProblemError("is no regular file", "give a picture's path")
        _check_bytes(status.st_size, limits)
        with place.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise PictureProblemError("there is no such file", _near_miss(place)) from error
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: a NUL character in the path; RuntimeError: "~nobody" has no home.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PictureProblemError(f"cannot be read ({reason})", "check the path") from error


def bytes_of_data_uri(text: str, limits: ReadLimits) -> bytes:
    """The bytes in a data URI (RFC 2397), base64 or percent-encoded; its media type is ignored.

    Raises:
        PictureProblemError: it has no comma, is no base64, or is over the cap.
    """
    head, comma, body = text.strip().partition(",")
    if not comma:
        raise PictureProblemError(
            "has no comma", "a data URI reads data:image/png;base64,… and then the picture"
        )
    if head.lower().rstrip().endswith(";base64"):
        return bytes_of_base64(unquote(body), limits)
    # Each byte takes one to three characters, so this refuses nothing that would fit.
    _check_bytes(len(body) // 3, limits)
    data = unquote_to_bytes(body)
    _check_bytes(len(data), limits)
    return data


def bytes_of_base64(text: str, limits: ReadLimits) -> bytes:
    """The bytes of standard or URL-safe base64, padded or not, broken into lines or not.

    Raises:
        PictureProblemError: a character or the length is not base64's, or it is over the cap.
    """
    # Four characters hold three bytes; whitespace may add a little, which is judged again below.
    _check_bytes(len(text) * 3 // 5, limits)
    compact = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    _check_bytes(len(compact) * 3 // 4, limits)
    strange = re.search(r"[^A-Za-z0-9+/]", compact)
    if strange is not None:
        raise PictureProblemError(
            f"is broken base64 (character {strange.group()!r} at {strange.start()})",
            "send it whole and unchanged",
        )
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise PictureProblemError(
            "is broken base64 (its length is impossible)", "send it whole and unchanged"
        ) from error


def _check_bytes(count: int, limits: ReadLimits) -> None:
    if count > limits.max_bytes:
        raise PictureProblemError(
            f"has {megabytes(count)}",
            f"at most {megabytes(limits.max_bytes)} are read; make it smaller",
        )


def _path_of_file_uri(text: str) -> str:
    # Not urlsplit, which would cut names at "?" and "#".
    path = text.partition(":")[2]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise PictureProblemError("names a file of another machine", "give a path of this one")
        path = slash + path
    return url2pathname(path)


def _is_file(text: str, limits: ReadLimits) -> bool:
    if not limits.allow_files or len(text) > _MAX_PATH_CHARACTERS:
        return False
    return os.path.isfile(text)


def _looks_like_base64(text: str) -> bool:
    compact = "".join(text.split())
    if len(compact) > _MAX_PATH_CHARACTERS:
        return True
    # Absolute paths begin with a slash; of what base64 encodes, only JPEG does, which is known.
    alphabet = re.fullmatch(r"[A-Za-z0-9+_-][A-Za-z0-9+/_-]+={0,2}", compact) is not None
    return alphabet and len(compact) >= _BASE64_GUESS_CHARACTERS and not os.path.exists(text)


def _near_miss(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent))
    except OSError:
        return f"nor is there a folder {str(path.parent)!r}"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"the nearest is {close[0]!r}" if close else f"its folder is {path.parent.resolve()}"
