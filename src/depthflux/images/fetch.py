"""A URL → the bytes behind it, for URLs that strangers choose.

Follows redirects by hand, so that every hop is judged like the first; connects to an address that
was judged, not to a name that may answer differently the next time; and bounds bytes and time.
Does not know what the bytes are. No message of it contains a query string or a password, which is
also why errors of httpx, which hold the whole URL, are not kept as causes.
"""

from __future__ import annotations

import http
import io
import ssl
from dataclasses import dataclass
from typing import BinaryIO

import httpx

from depthflux.errors import ImageFetchError, RequestError, show
from depthflux.images.addresses import Resolver, approved_addresses, resolve
from depthflux.images.container import PictureProblemError
from depthflux.images.limits import ReadLimits, megabytes
from depthflux.images.pinned import Deadline, exchange
from depthflux.images.url import Target, parse_url, redirected_url, shown_url

__all__ = ["PICTURE", "Wanted", "check_url", "fetch", "fetch_into", "shown_url"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a fetch is for, which decides what it asks for and what its errors say.

    Attributes:
        accept: the Accept header.
        allowed: what may be given, in words.
        error: what is raised.
        advice: what to do about any problem, where each problem's own advice would not help.
        https_only: whether http is refused, on every hop.
    """

    accept: str
    allowed: str
    error: type[RequestError]
    advice: str = ""
    https_only: bool = False


PICTURE = Wanted(
    accept="image/png, image/jpeg, image/webp",
    allowed="a public http or https URL of a PNG, JPEG or WebP picture",
    error=ImageFetchError,
)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    # Nothing has to be unpacked, so nothing can unpack to more than it was.
    "Accept-Encoding": "identity",
    "Connection": "close",
    # Some hosts refuse clients without a name.
    "User-Agent": "depthflux",
}


def fetch(
    url: str,
    *,
    limits: ReadLimits,
    field: str = "control_image",
    resolver: Resolver = resolve,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """Get the bytes of a picture's URL; see `fetch_into`.

    Raises:
        ImageFetchError: the URL is refused, unreachable, too slow, too large, or answers with
            anything but 200.
    """
    body = io.BytesIO()
    fetch_into(body, url, limits=limits, wanted=PICTURE, field=field, resolver=resolver, tls=tls)
    return body.getvalue()


def check_url(url: str, *, wanted: Wanted = PICTURE, field: str = "control_image") -> None:
    """See that a URL is one that could be asked, without asking anybody.

    Raises:
        RequestError: of the wanted kind: it is no plain http or https URL.
    """
    try:
        parse_url(url.strip())
    except PictureProblemError as problem:
        raise _refused(url, problem, wanted, field) from None


def fetch_into(
    body: BinaryIO,
    url: str,
    *,
    limits: ReadLimits,
    wanted: Wanted,
    field: str,
    resolver: Resolver = resolve,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Write the bytes of a URL to a file as they come.

    Args:
        body: written to; after an error it holds what had come by then.
        url: http or https, without user name or password.
        limits: bytes, times, redirects, and whether private addresses are allowed.
        wanted: what it is for.
        field: the request field it was given for, named in errors.
        resolver: turns names into addresses, once for each hop.
        tls: what certificates are trusted; None = certifi's, whatever the environment says.

    Raises:
        RequestError: of the wanted kind: the URL is refused, unreachable, too slow, too large, or
            answers with anything but 200.
        OSError: the file cannot be written.
    """
    try:
        with Deadline(limits.total_timeout_s) as deadline:
            _Fetch(body, limits, wanted, deadline, resolver, tls).follow(url.strip())
    except PictureProblemError as problem:
        raise _refused(url, problem, wanted, field) from None


def _refused(url: str, problem: PictureProblemError, wanted: Wanted, field: str) -> RequestError:
    advice = wanted.advice or problem.advice
    advice = f"; {advice}" if advice else ""
    return wanted.error(
        f"{field}={show(shown_url(url))}: {problem}{advice}.",
        field=field,
        value=shown_url(url),
        allowed=wanted.allowed,
    )


class _Redirect:
    """An answer that says to look elsewhere."""

    def __init__(self, location: str) -> None:
        self.location = location


class _Fetch:
    """One fetch with all its hops."""

    def __init__(
        self,
        body: BinaryIO,
        limits: ReadLimits,
        wanted: Wanted,
        deadline: Deadline,
        resolver: Resolver,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._body = body
        self._limits = limits
        self._wanted = wanted
        self._deadline = deadline
        self._resolver = resolver
        self._tls = tls

    def follow(self, url: str) -> None:
        """Take the bytes at the end of the redirects."""
        is_secure = False
        for _ in range(self._limits.max_redirects + 1):
            target = parse_url(url)
            if self._wanted.https_only and target.scheme != "https":
                raise PictureProblemError("only https URLs are fetched here", "check the scheme")
            if is_secure and target.scheme != "https":
                raise PictureProblemError(
                    "the server redirects from https to http", "use the URL it ends at"
                )
            is_secure = target.scheme == "https"
            redirect = self._hop(target)
            if redirect is None:
                return
            url = redirected_url(url, redirect.location)
        raise PictureProblemError(
            f"the server redirects more than {self._limits.max_redirects} times",
            "use the URL it ends at",
        )

    def _hop(self, target: Target) -> _Redirect | None:
        """Ask one host: the first of its addresses that accepts a connection."""
        addresses = approved_addresses(
            target.host,
            target.port,
            resolver=self._resolver,
            allow_private=self._limits.allow_private_addresses,
            timeout_s=min(self._limits.connect_timeout_s, self._deadline.remaining_s),
        )
        reason = ""
        for address in addresses:
            try:
                return self._get(target, address)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = _reason(error)
                self._deadline.check()
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self._deadline.check()
                raise PictureProblemError(
                    f"the connection to {target.host} failed ({_reason(error)})", "try again"
                ) from None
        raise PictureProblemError(
            f"the host {target.host} cannot be reached ({reason})", "check the URL and the network"
        )

    def _get(self, target: Target, address: str) -> _Redirect | None:
        read_s = min(self._limits.read_timeout_s, self._deadline.remaining_s)
        connect_s = min(self._limits.connect_timeout_s, self._deadline.remaining_s)
        with exchange(
            "GET",
            target,
            address,
            headers={**_HEADERS, "Accept": self._wanted.accept},
            timeout=httpx.Timeout(read_s, connect=connect_s),
            tls=self._tls,
            trace=self._deadline.watch,
        ) as response:
            return self._read(response)

    def _read(self, response: httpx.Response) -> _Redirect | None:
        """Take the answer's bytes, or the place it sends us to."""
        if response.status_code in _REDIRECTS and "Location" in response.headers:
            return _Redirect(response.headers["Location"])
        if response.status_code != 200:
            raise PictureProblemError(
                f"the server answered {_status(response.status_code)}", "check the URL"
            )
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise PictureProblemError("the server sent a compressed answer nobody asked for")
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced[:20]) > self._limits.max_bytes:
            raise self._too_large()
        count = 0
        for piece in response.iter_raw():
            count += len(piece)
            if count > self._limits.max_bytes:
                raise self._too_large()
            self._body.write(piece)
            self._deadline.check()
        self._deadline.check()
        return None

    def _too_large(self) -> PictureProblemError:
        return PictureProblemError(
            f"the answer has more than {megabytes(self._limits.max_bytes)}", "make it smaller"
        )


def _status(code: int) -> str:
    # The standard's words, not the server's, which may say anything.
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower():
        return "its certificate is not valid for this name"
    if isinstance(error, httpx.ConnectError):
        return "TLS failed" if "SSL" in text else "connection refused or no route"
    if isinstance(error, httpx.RemoteProtocolError):
        return "it broke off or spoke no HTTP"
    return type(error).__name__
