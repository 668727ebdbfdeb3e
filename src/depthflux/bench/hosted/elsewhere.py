"""Requests to addresses that the side names: outputs and upload tickets. They never carry the key.

Each address is a stranger's: judged, connected to as it was judged, and asked without key, cookie,
netrc or proxy. Private addresses are for a side that is private itself, at its own address, unless
all of them are allowed. Knows nothing of what the bytes are.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from depthflux.bench.hosted.base_url import BaseUrl
from depthflux.bench.hosted.connections import NO_CONNECTION, TooLargeError, answer_of, broken
from depthflux.bench.hosted.errors import (
    HostedError,
    NoAnswerError,
    NotAskedError,
    UnreachableError,
    UnusableOutputError,
)
from depthflux.bench.hosted.exchanges import Answer, Recorder, Request
from depthflux.bench.hosted.key_cover import holds_key
from depthflux.errors import show
from depthflux.images.addresses import Resolver, approved_addresses
from depthflux.images.container import PictureProblemError
from depthflux.images.limits import DEFAULT_LIMITS, megabytes
from depthflux.images.pinned import Deadline, exchange
from depthflux.images.url import Target, parse_url, redirected_url, shown_url

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Most redirects that an output's address may lead through.
_MOST_REDIRECTS = DEFAULT_LIMITS.max_redirects
_HEADERS = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "depthflux"}


@dataclass(frozen=True, kw_only=True)
class _Hop:
    """One request of a chain of redirects.

    Attributes:
        method: such as `GET`.
        headers: beside the usual ones.
        content: the body; None for none.
        most_bytes: of the answer.
        was_secure: whether the request before it went over https.
    """

    method: str
    headers: Mapping[str, str]
    content: bytes | None
    most_bytes: int
    was_secure: bool = False


class Elsewhere:
    """Asks addresses that the side names; several threads may do so at a time."""

    def __init__(
        self,
        base: BaseUrl,
        key: str,
        recorder: Recorder,
        *,
        allow_private: bool,
        connect_s: float,
        resolver: Resolver,
        tls: ssl.SSLContext,
    ) -> None:
        """Connect to nothing yet.

        Args:
            base: the side's own address.
            key: what must not be part of any request.
            recorder: told of each exchange.
            allow_private: whether private addresses beside the side's own may be asked.
            connect_s: longest wait for a name, and for a connection, in seconds.
            resolver: turns names into addresses.
            tls: what certificates are trusted.
        """
        self._base, self._key, self._recorder = base, key, recorder
        self._allow_private, self._connect_s = allow_private, connect_s
        self._resolver, self._tls = resolver, tls

    def get(self, address: str, *, most_bytes: int, timeout_s: float, attempt: int) -> Answer:
        """Fetch what is behind an address, through redirects that are judged like the first.

        Args:
            address: the side's word.
            most_bytes: of the answer.
            timeout_s: longest time of it all, in seconds.
            attempt: its number, for the recording.

        Raises:
            NotAskedError: the address is not to be asked.
            UnusableOutputError: the answer is too large.
            UnreachableError: there is no connection.
            NoAnswerError: no whole answer came in time.
        """
        hop = _Hop(method="GET", headers={"Accept": "image/*"}, content=None, most_bytes=most_bytes)
        request = Request(
            method="GET", address=address, sent=None, attempt=attempt, keeps_body=False
        )
        return self._recorder.measured(request, lambda: self._follow(address, hop, timeout_s))

    def put(
        self, address: str, content: bytes, headers: Mapping[str, str], *, timeout_s: float,
        attempt: int,
    ) -> Answer:  # fmt: skip
        """Send bytes to a ticket's address, with the ticket's headers and no others of note.

        Raises:
            HostedError: as for `get`; a redirect is an answer like others.
        """
        hop = _Hop(method="PUT", headers=headers, content=content, most_bytes=2**20)
        request = Request(
            method="PUT", address=_place(address), sent={"bytes": len(content)}, attempt=attempt
        )

        def ask() -> Answer:
            with Deadline(timeout_s) as deadline:
                return self._judged(address, hop, deadline)

        return self._recorder.measured(request, ask)

    def _follow(self, address: str, hop: _Hop, timeout_s: float) -> Answer:
        shown = address
        with Deadline(timeout_s) as deadline:
            for _ in range(_MOST_REDIRECTS + 1):
                answer = self._judged(address, hop, deadline)
                location = answer.headers.get("location")
                if answer.status not in _REDIRECTS or location is None:
                    return answer
                hop = _Hop(
                    method=hop.method,
                    headers=hop.headers,
                    content=None,
                    most_bytes=hop.most_bytes,
                    was_secure=address.lower().startswith("https:"),
                )
                try:
                    address = redirected_url(address, location)
                except PictureProblemError as problem:
                    raise _refused(shown, str(problem)) from None
        raise _refused(shown, f"it leads through more than {_MOST_REDIRECTS} redirects")

    def _judged(self, address: str, hop: _Hop, deadline: Deadline) -> Answer:
        """Ask one address if it may be asked."""
        shown = address if hop.method == "GET" else _place(address)
        if any(holds_key(text, self._key) for text in (address, *hop.headers.values())):
            raise _refused("a URL", "it holds the API key, which goes to the API alone")
        try:
            target = parse_url(address)
            may_be_plain = self._base.scheme == "http" and not hop.was_secure
            if target.scheme != "https" and not may_be_plain:
                raise _refused(shown, "only https is asked, since the API is asked over https")
            addresses = self._addresses(target, deadline)
        except PictureProblemError as problem:
            raise _refused(shown, str(problem)) from None
        return self._ask(target, addresses, hop, deadline)

    def _addresses(self, target: Target, deadline: Deadline) -> list[str]:
        """The addresses to connect to.

        Raises:
            PictureProblemError: one of them may not be.
            UnreachableError: the name has none just now.
        """
        is_own = (target.scheme, target.host, target.port) == self._base.origin
        try:
            return approved_addresses(
                target.host,
                target.port,
                resolver=self._resolver,
                allow_private=self._allow_private or is_own,
                timeout_s=min(self._connect_s, deadline.remaining_s),
            )
        except PictureProblemError as problem:
            # That a name cannot be resolved may pass, other than what is wrong with an address.
            if isinstance(problem.__cause__, OSError):
                raise UnreachableError(f"{problem}; check the network.") from None
            raise

    def _ask(self, target: Target, addresses: list[str], hop: _Hop, deadline: Deadline) -> Answer:
        """The answer of the first address that accepts a connection."""
        problem: HostedError | None = None
        for address in addresses:
            try:
                return self._exchange(target, address, hop, deadline)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                # Its end breaks the connection, which says nothing about the host.
                problem = _late(target, deadline) or broken(error, target.authority)
                if not isinstance(error, NO_CONNECTION):
                    break
            except TooLargeError:
                raise UnusableOutputError(
                    f"{target.authority} answers with more than {megabytes(hop.most_bytes)}, more "
                    "than a picture has."
                ) from None
        raise problem or UnreachableError(f"{target.authority} has no address; check it.")

    def _exchange(self, target: Target, address: str, hop: _Hop, deadline: Deadline) -> Answer:
        def check_time() -> None:
            if late := _late(target, deadline):
                raise late

        check_time()
        connect_s = min(self._connect_s, deadline.remaining_s)
        with exchange(
            hop.method,
            target,
            address,
            headers={**_HEADERS, **hop.headers},
            timeout=httpx.Timeout(deadline.remaining_s, connect=connect_s),
            content=hop.content,
            tls=self._tls,
            trace=deadline.watch,
        ) as response:
            answer = answer_of(response, hop.most_bytes, check_time)
        check_time()
        return answer


def _late(target: Target, deadline: Deadline) -> NoAnswerError | None:
    """The error where the time is up."""
    if not deadline.expired:
        return None
    return NoAnswerError(
        f"{target.authority} takes longer than {deadline.seconds:g} s; try again later."
    )


def _place(address: str) -> str:
    """Scheme and host of a ticket's address, of which even the path may be its secret."""
    at = address.find("/", len("https://"))
    return shown_url(address if at < 0 else f"{address[:at]}/…")


def _refused(address: str, why: str) -> NotAskedError:
    shown = shown_url(address)
    # Of what cannot be read as one, nothing may be shown.
    named = "an address" if shown == shown_url("") else show(shown)
    return NotAskedError(f"{named} is not asked: {why}; it was named by the side's answer.")
