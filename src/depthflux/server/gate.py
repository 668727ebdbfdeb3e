"""The gate: what comes from a web page that is not ours goes no further, on any method and route.

A page that somebody visits may send requests to every address that their browser reaches, this
server among them, and by DNS rebinding under a name of its own. So before a route is looked for or
a byte of a body read:

    Host            a name that is ours, or an IP address, which needs no resolving     else 421
    Origin          where it is sent: this server's own, or public_url's                 else 403
    Sec-Fetch-Site  where it is sent: same-origin, or none, which is a person's typing   else 403

Programs send neither of the last two. A picture may stand in other sites' pages, as it does with
the hosted endpoint, for its name cannot be guessed; so GET and HEAD of one pass these two, never
the first. No browser says either of a plain GET to an address that is neither https nor loopback:
nothing that such a GET does changes anything, and its answer is shown to no other page.

Knows nothing of keys or of what routes do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from depthflux.errors import InvalidParameterError, RequestError, show
from depthflux.server.errors import ForeignPageError, MisdirectedError
from depthflux.server.hosts import Host, origin_at, read_host, read_origin
from depthflux.server.routes.telling import refusal
from depthflux.server.settings import ANY_HOST, ServerSettings

#: A picture's address: the one that other sites' pages may show.
_PICTURE = re.compile(r"/media/[^/]+")
#: Where a browser may say that a request comes from: our own page, or nobody's.
_OWN_SITES = ("same-origin", "none")


class Gate:
    """Refuses what web pages of others send; all else goes on to the application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, hostname: str | None = None) -> None:
        """Learn the names once: a name that this machine gets later was not meant when it began.

        Args:
            app: what is behind the gate.
            settings: `public_url` and `allowed_hosts`.
            hostname: this machine's name; None asks it.
        """
        self._app = app
        self._public = None if settings.public_url is None else read_origin(settings.public_url)
        names = settings.allowed_host_names
        self._takes_any = ANY_HOST in names
        self._names = {*names, *_names_of(hostname or socket.gethostname())}
        if self._public is not None:
            self._names.add(self._public.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request; what goes on finds its origin in its state."""
        if scope["type"] == "http":
            try:
                host = self._require_ours(scope)
            except RequestError as error:
                await refusal(error.http_status, str(error))(scope, receive, send)
                return
            # As it was written, since addresses in answers are to look as the client's do.
            scope.setdefault("state", {})["origin"] = f"{scope['scheme']}://{host}"
        await self._app(scope, receive, send)

    def _require_ours(self, scope: Scope) -> str:
        """The Host header of a request that may go on."""
        headers = Headers(scope=scope)
        text, host = _host_of(headers.getlist("host"))
        if not self._is_ours(host):
            raise MisdirectedError(
                f"Host={show(text)} is no name of this server; allowed: IP addresses, localhost, "
                "this machine's own name, that of public_url, and those of the setting "
                "allowed_hosts (depthflux serve --allowed-hosts).",
                field="Host",
                value=text,
            )
        if not _is_picture(scope):
            self._require_own_page(headers, scope["scheme"], host)
        return text

    def _is_ours(self, host: Host) -> bool:
        if self._takes_any or host.is_address:
            return True
        # Browsers take these to this machine and ask nobody.
        is_local = host.name == "localhost" or host.name.endswith(".localhost")
        return is_local or host.name in self._names

    def _require_own_page(self, headers: Headers, scheme: str, host: Host) -> None:
        """See that a browser which says whose page asks names one of ours."""
        own = {origin_at(scheme, host), self._public}
        for origin in _together(headers.getlist("origin")):
            # None is public_url's where there is none, and of what is no origin.
            if (read := read_origin(origin)) is None or read not in own:
                raise _foreign("Origin", origin)
        for site in _together(headers.getlist("sec-fetch-site")):
            if site not in _OWN_SITES:
                raise _foreign("Sec-Fetch-Site", site)


def _host_of(texts: Sequence[str]) -> tuple[str, Host]:
    """The one Host header, as it was written and as it was read."""
    if len(texts) != 1:
        raise InvalidParameterError(
            f"Host: came {len(texts)} times; allowed: once.", field="Host", allowed="once"
        )
    host = read_host(texts[0])
    if host is None:
        raise InvalidParameterError(
            f"Host={show(texts[0])} is no host name or address.", field="Host", value=texts[0]
        )
    return texts[0], host


def _is_picture(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and bool(_PICTURE.fullmatch(scope["path"]))


def _together(values: Sequence[str]) -> Iterator[str]:
    """A header's value; several of them are one that nothing allows."""
    if values:
        yield ", ".join(values)


def _foreign(header: str, value: str) -> ForeignPageError:
    return ForeignPageError(
        f"{header}={show(value)}: web pages of others may not ask this server; allowed: programs, "
        "and pages under its own address, which public_url names behind a proxy.",
        field=header,
        value=value,
    )


def _names_of(hostname: str) -> Iterator[str]:
    """The names that a machine goes by in its own network; none where it has no usable one."""
    host = read_host(hostname)
    if host is not None and host.port is None:
        yield host.name
        yield f"{host.name.partition('.')[0]}.local"
