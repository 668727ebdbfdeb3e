"""What is kept of a request and its answer: everything that says how a side behaves, no secret.

Of addresses, wherever in a text they stand, user, password and query are left out, of headers all
but a few known ones, of texts the API key wherever it stands, and of long ones, such as pictures in
base64, all but their length. Knows nothing of what is asked, or of where exchanges are kept.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from depthflux.bench.hosted.errors import HostedError
from depthflux.bench.hosted.key_cover import HIDDEN, without_key
from depthflux.errors import without_secrets
from depthflux.images.url import shown_url
from depthflux.logs import plain

#: Headers of answers that may be kept: they say how it was served, and none is a credential.
KEPT_HEADERS = frozenset(
    {
        "age", "cache-control", "cf-cache-status", "cf-ray", "content-encoding", "content-length",
        "content-type", "date", "last-modified", "retry-after", "server", "server-timing", "via",
        "x-amz-cf-pop", "x-cache", "x-ratelimit-limit", "x-ratelimit-remaining",
        "x-ratelimit-reset", "x-request-id",
    }
)  # fmt: skip
#: Longer texts are pictures or mistakes; of these only the length is kept. As many as
#: `without_secrets` reads.
_LONGEST_TEXT = 4_096
_LONGEST_HEADER = 300
#: Of an answer that is no JSON this much is kept.
_LONGEST_ODD_BODY = 2_000
#: What a ticket for an upload holds: its address is a permission by itself.
_SECRET_FIELDS = frozenset({"upload", "secret"})
#: An object within an object, so many times: no answer of the API goes as deep.
_DEEPEST = 20
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and what came of it.

    Attributes:
        method: such as `POST`.
        address: without user, password, query and fragment.
        sent: the JSON body, or a few words on another one; None where there was none.
        status: of HTTP; None where no answer came.
        headers: those of `KEPT_HEADERS`, names in lower case.
        body: JSON, or the begin of a text; None for pictures and where there was none.
        size: of the answer's body in bytes.
        problem: why no answer came, one line; empty where one did.
        began_at: when it was sent, seconds since 1970.
        seconds: until the whole answer was here, or none came.
        attempt: 1, or more where it was sent anew.
    """

    method: str
    address: str
    sent: Any
    status: int | None
    headers: dict[str, str]
    body: Any
    size: int
    problem: str
    began_at: float
    seconds: float
    attempt: int

    def as_json(self) -> dict[str, Any]:
        """It as JSON values, as the run's folder keeps it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked, as far as it may be kept.

    Attributes:
        method: such as `POST`.
        address: in full.
        sent: the JSON body, or a few words on another one; None where there is none.
        attempt: 1, or more where it is sent anew.
        keeps_body: whether a good answer's body is kept; not so of pictures.
    """

    method: str
    address: str
    sent: Any
    attempt: int
    keeps_body: bool = True


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: all, names in lower case.
        body: its bytes.
        seconds: until all of it was here.
        is_by_envelope: whether the status is one that its envelope says, and HTTP's was 200.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = 0.0
    is_by_envelope: bool = False


class Recorder:
    """Measures requests and tells of each what may be kept; several threads may use it."""

    def __init__(
        self,
        key: str,
        on_exchange: Callable[[Exchange], None] | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Remember whom to tell.

        Args:
            key: never told.
            on_exchange: told of each exchange, in the thread that asked.
            clock: seconds that only go forward.
            wall: seconds since 1970.
        """
        self._key, self._on_exchange = key, on_exchange
        self._clock, self._wall = clock, wall

    def measured(self, request: Request, ask: Callable[[], Answer]) -> Answer:
        """Ask, measure it and tell of it, whatever becomes of it."""
        began_at, began = self._wall(), self._clock()
        try:
            answer = ask()
        except HostedError as error:
            self._tell(request, None, str(error), began_at, self._clock() - began)
            raise
        seconds = self._clock() - began
        self._tell(request, answer, "", began_at, seconds)
        return dataclasses.replace(answer, seconds=seconds)

    def _tell(
        self,
        request: Request,
        answer: Answer | None,
        problem: str,
        began_at: float,
        seconds: float,
    ) -> None:
        if self._on_exchange is None:
            return
        body = None
        if answer is not None and answer.body and (request.keeps_body or answer.status >= 300):
            body = kept_body(answer.body, self._key)
        self._on_exchange(
            Exchange(
                method=request.method,
                address=without_key(shown_url(request.address), self._key),
                sent=kept_value(request.sent, self._key),
                status=answer.status if answer else None,
                headers=kept_headers(answer.headers, self._key) if answer else {},
                body=body,
                size=len(answer.body) if answer else 0,
                problem=_kept_words(problem, self._key),
                began_at=began_at,
                seconds=seconds,
                attempt=request.attempt,
            )
        )


def kept_headers(headers: Mapping[str, str], key: str) -> dict[str, str]:
    """Of an answer's headers those that may be kept, without the key."""
    return {
        name.lower(): plain(_kept_words(value, key)[:_LONGEST_HEADER])
        for name, value in headers.items()
        if name.lower() in KEPT_HEADERS
    }


def kept_body(data: bytes, key: str) -> Any:
    """An answer's body as JSON without secrets, or the begin of what it is instead."""
    try:
        return kept_value(json.loads(data), key)
    except (ValueError, RecursionError):
        # Cut only after the key is gone, of which else a part could be left at the end; and of
        # JSON that is none the slashes may be escaped.
        text = data[: _LONGEST_ODD_BODY + len(key)].decode("utf-8", "replace").replace("\\/", "/")
        return plain(_kept_words(text, key)[:_LONGEST_ODD_BODY])


def kept_value(value: Any, key: str, depth: int = 0) -> Any:
    """A JSON value without secrets: no key, no queries of addresses, no tickets, no long texts."""
    if isinstance(value, str):
        return _kept_text(value, key)
    if depth >= _DEEPEST and isinstance(value, dict | list):
        return HIDDEN
    if isinstance(value, dict):
        return {
            _kept_text(str(name), key): (
                HIDDEN if name in _SECRET_FIELDS else kept_value(inner, key, depth + 1)
            )
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [kept_value(inner, key, depth + 1) for inner in value]
    return value


def _kept_text(text: str, key: str) -> str:
    if len(text) > _LONGEST_TEXT:
        return f"({len(text)} characters)"
    if _ADDRESS.match(text):
        text = shown_url(text)
    # Halves of surrogate pairs cannot be written to a file.
    return _kept_words(text.encode("utf-8", "replace").decode(), key)


def _kept_words(text: str, key: str) -> str:
    """The first 4096 characters of a text without the key and the secrets of addresses."""
    return without_secrets(without_key(text, key))
