"""One HTTP exchange with an address that was judged: what fetching and telling have in common.

A name is resolved and judged by the caller; here the connection goes to the address alone, while
the Host header and the certificate stay the name's. Follows no redirect, knows no proxy, keeps no
cookie, and writes no URL into a log.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx

from depthflux.images.container import PictureProblemError
from depthflux.images.url import Target


@contextmanager
def exchange(
    method: str,
    target: Target,
    address: str,
    *,
    headers: Mapping[str, str],
    timeout: httpx.Timeout,
    content: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    trace: Callable[[str, dict[str, Any]], None] | None = None,
) -> Iterator[httpx.Response]:
    """Ask an address, and read the answer while the block lasts.

    Args:
        method: such as `GET`.
        target: the URL in parts; its host is what Host header and certificate say.
        address: of the host, judged.
        headers: further ones.
        timeout: for connecting, and for each silence.
        content: the body; None for none.
        tls: what certificates are trusted; None = certifi's, whatever the environment says.
        trace: called with what the connection does.

    Raises:
        httpx.HTTPError: the exchange failed.
        httpx.InvalidURL: it cannot be asked for.
    """
    extensions: dict[str, Any] = {"timeout": timeout.as_dict()}
    if trace is not None:
        extensions["trace"] = trace
    if not _is_address(target.host):
        # The URL holds an address now; the certificate must still be the name's.
        extensions["sni_hostname"] = target.host
    request = httpx.Request(
        method,
        target.at(address),
        headers={**headers, "Host": target.authority},
        content=content,
        extensions=extensions,
    )
    # The transport and not a client: no cookies, no proxies, no redirects, and no log line with
    # the whole URL. One for each exchange, so that no connection is used for another name.
    with httpx.HTTPTransport(verify=_context(target, tls), trust_env=False) as transport:
        response = transport.handle_request(request)
        try:
            yield response
        finally:
            response.close()


class Deadline:
    """The end of an exchange, kept even against a server that sends one byte now and then.

    Time limits of sockets begin anew with each byte, so when the time is up a timer shuts the
    connection down, which ends any read that waits on it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expired = False
        self._end = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    @property
    def remaining_s(self) -> float:
        """Seconds left, never 0, which sockets would take for "do not wait"."""
        return max(self._end - time.monotonic(), 0.001)

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Take note of each new connection; httpx calls this as its "trace" extension."""
        if event != "connection.connect_tcp.complete":
            return
        # A duplicate, since TLS takes the original's descriptor away.
        connection = info["return_value"].get_extra_info("socket").dup()
        with self._lock:
            self._connections.append(connection)
        if self.expired:
            self._expire()

    def check(self) -> None:
        """Raise when the time is up."""
        if self.expired or time.monotonic() > self._end:
            raise PictureProblemError(
                f"the host took longer than {self.seconds:g} s", "use a faster host"
            )

    def _expire(self) -> None:
        self.expired = True
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # closed by the other side already


def _context(target: Target, tls: ssl.SSLContext | None) -> ssl.SSLContext:
    if target.scheme == "http":
        # Never used, so the 140 authorities of certifi need not be loaded.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return tls or httpx.create_ssl_context(trust_env=False)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
