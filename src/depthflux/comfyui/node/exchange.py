"""One request to a server and its answer, bounded in bytes and time.

No redirect is followed, no proxy of the environment is used, no cookie is kept: what is sent goes
to the address that was judged, and nowhere else. Knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from .addresses import ADDRESS_VARIABLE, KEY_VARIABLE, Address, key_for
from .errors import NoAnswerError, NodeError, tell

#: The largest answer: four pictures that each carry the largest control image in their record.
MOST_ANSWERED_BYTES = 256 * 2**20
#: Longest silence of a server, in seconds.
SILENCE_S = 30.0
#: Longest time that one request and its answer may take altogether, in seconds.
EXCHANGE_S = 300.0
#: A server that says so may answer in a moment.
_NOT_NOW = frozenset({429, 503})
#: Redirects.
_ELSEWHERE = range(300, 400)


def ask(
    address: Address,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    silence_s: float = SILENCE_S,
    exchange_s: float = EXCHANGE_S,
) -> dict[str, Any]:
    """Send a request; its answer's `data`.

    Args:
        address: whom to ask.
        method: such as GET.
        path: from the slash behind the address.
        body: sent as JSON.
        silence_s: longest silence of the server.
        exchange_s: longest time for all of it.

    Raises:
        NodeError: the server refuses, or says what is no answer of depthflux; as NoAnswerError,
            where asking again may help.
    """
    sent = None if body is None else json.dumps(body).encode()
    connection = _connection(address, silence_s)
    try:
        connection.connect()
        headers = _headers(address, connection.sock, has_body=sent is not None)
        with _cut_off(connection.sock, exchange_s):
            connection.request(method, address.path + path, body=sent, headers=headers)
            response = connection.getresponse()
            answer = response.read(MOST_ANSWERED_BYTES + 1)
    # UnicodeError: a name that cannot be looked up, such as one with a label of 64 characters.
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        start = f"start one: depthflux serve --port {address.port}."
        raise NoAnswerError(f"{address.text} does not answer: {tell(error)}; {start}") from error
    finally:
        connection.close()
    return _data_of(address, response.status, _whole(address, response, answer))


def _whole(address: Address, response: http.client.HTTPResponse, answer: bytes) -> bytes:
    """An answer that is neither too large nor cut off, without the key."""
    if len(answer) > MOST_ANSWERED_BYTES:
        raise NodeError(f"{address.text} answered with more than {MOST_ANSWERED_BYTES} bytes.")
    if response.length:
        raise NoAnswerError(f"the answer of {address.text} was cut off.")
    if key := key_for(address):
        # A server that repeats it must not have it shown on a node.
        answer = answer.replace(key.encode(), "…".encode())
    return answer


def _connection(address: Address, silence_s: float) -> http.client.HTTPConnection:
    if address.scheme == "https":
        trusted = ssl.create_default_context()
        return http.client.HTTPSConnection(
            address.host, address.port, timeout=silence_s, context=trusted
        )
    return http.client.HTTPConnection(address.host, address.port, timeout=silence_s)


def _headers(address: Address, connected: socket.socket, *, has_body: bool) -> dict[str, str]:
    """The request's headers, once it is seen where the connection has led.

    Raises:
        NodeError: a name has led elsewhere, or the key would cross the internet unencrypted.
    """
    peer = str(connected.getpeername()[0]).partition("%")[0]
    if not address.may_reach(peer):
        raise NodeError(
            f"{address.text} leads to {tell(peer)}, which is not this machine; allowed beside it: "
            f"the address in the variable {ADDRESS_VARIABLE} of ComfyUI's process."
        )
    headers = {"Accept": "application/json", "Connection": "close"}
    if has_body:
        headers["Content-Type"] = "application/json"
    if key := key_for(address):
        if address.scheme == "http" and ipaddress.ip_address(peer).is_global:
            raise NodeError(
                f"{address.text}: the API key would cross the internet unencrypted; use https."
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


@contextlib.contextmanager
def _cut_off(connected: socket.socket, seconds: float) -> Iterator[None]:
    """Cut a connection after a time: a server that sends a byte now and then is never silent."""

    def cut() -> None:
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _data_of(address: Address, status: int, answer: bytes) -> dict[str, Any]:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        document = None
    if status in _ELSEWHERE:
        raise NodeError(f"{address.text} answers with a redirect, and none is followed.")
    if status != http.HTTPStatus.OK:
        message = document.get("message") if isinstance(document, dict) else None
        raise _refusal(address, status, message)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict):
        raise NodeError(
            f"{address.text} answers, but not as depthflux does; see that `depthflux serve` "
            "listens there."
        )
    return data


def _refusal(address: Address, status: int, message: object) -> NodeError:
    words = tell(message) if message else "without a word."
    if status == http.HTTPStatus.UNAUTHORIZED:
        words += f" It is taken from the variable {KEY_VARIABLE} of ComfyUI's process."
    kind = NoAnswerError if status in _NOT_NOW else NodeError
    return kind(f"{address.text} refuses ({status}): {words}")
