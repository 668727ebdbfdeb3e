"""What all requests to a side have in common: bounded answers, and what a broken one is called.

Knows nothing of keys, nor of what is asked.
"""

from __future__ import annotations

import http
from collections.abc import Callable

import httpx

from depthflux.bench.hosted.errors import NoAnswerError, UnreachableError
from depthflux.bench.hosted.exchanges import Answer

#: Most bytes of an answer of the API: four pictures of 1536x1536 as PNG in base64 take 38 MB.
MOST_ANSWER_BYTES = 64 * 2**20

#: With these surely nothing was sent: there was no connection to send it through.
NO_CONNECTION = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class TooLargeError(Exception):
    """An answer has more bytes than are read."""


def answer_of(response: httpx.Response, most_bytes: int, check_time: Callable[[], None]) -> Answer:
    """An answer with its whole body.

    Args:
        response: begun.
        most_bytes: of the body, unpacked.
        check_time: called with each piece; raises when it has taken too long.

    Raises:
        TooLargeError: it has more bytes.
        httpx.HTTPError: the connection broke.
    """
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > most_bytes:
            raise TooLargeError
        check_time()
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(status=response.status_code, headers=headers, body=bytes(body))


def broken(error: Exception, authority: str) -> UnreachableError | NoAnswerError:
    """An error of httpx in words of ours; its own may hold a whole address.

    Args:
        error: what was raised.
        authority: the host and port that was asked.
    """
    if isinstance(error, (*NO_CONNECTION, UnicodeError)):
        return UnreachableError(
            f"{authority} cannot be reached ({_reason(error)}); check the address and the network."
        )
    return NoAnswerError(f"{authority} gave no whole answer ({_reason(error)}); try again later.")


def status_words(status: int) -> str:
    """A status as messages say it: the standard's words, not the server's, which may be any."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ProxyError):
        return "the proxy of the environment refuses"
    if "certificate" in text.lower():
        return "its certificate is not valid for this name"
    if isinstance(error, httpx.ConnectError):
        return "TLS failed" if "SSL" in text else "connection refused, no route or no such name"
    if isinstance(error, UnicodeError):
        return "its name is none"
    if isinstance(error, httpx.RemoteProtocolError):
        return "it broke off or spoke no HTTP"
    return type(error).__name__
