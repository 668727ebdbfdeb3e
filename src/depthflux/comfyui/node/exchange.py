"""One request to a server and its answer, bounded in bytes and time.

No redirect is followed, no proxy of the environment is used, no cookie is kept: what is sent goes
to the address that was judged, and nowhere else. Knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .addresses import ADDRESS_VARIABLE, KEY_VARIABLE, USUAL_ADDRESS, Address, key_for
from .errors import NoAnswerError, NodeError, tell, tell_sentence

#: The largest answer: four pictures that each carry the largest control image in their record.
MOST_ANSWERED_BYTES = 256 * 2**20
#: Longest silence of a server, in seconds.
SILENCE_S = 30.0
#: Longest time that one request and its answer may take altogether, in seconds.
EXCHANGE_S = 300.0
#: How often whoever waits looks for an interrupt meanwhile, in seconds.
LOOK_S = 0.2
#: A body goes in pieces, each of which has SILENCE_S to get through: a large one takes its time.
_PIECE_BYTES = 64 * 2**10
#: A server, or a proxy before one, that says so may answer in a moment.
_NOT_NOW = frozenset({429, 502, 503, 504})
#: Redirects.
_ELSEWHERE = range(300, 400)


class Request(NamedTuple):
    """What is asked.

    Attributes:
        method: such as GET.
        path: from the slash behind the address.
        body: sent as JSON.
        once: an Idempotency-Key: a request that comes twice under it is one.
    """

    method: str
    path: str
    body: dict[str, Any] | None = None
    once: str = ""


def ask(
    address: Address,
    request: Request,
    *,
    look: Callable[[], None] = lambda: None,
    silence_s: float = SILENCE_S,
    exchange_s: float = EXCHANGE_S,
) -> dict[str, Any]:
    """Send a request; its answer's `data`.

    Args:
        address: whom to ask.
        request: what.
        look: called in this thread now and then; what it raises ends the exchange at once.
        silence_s: longest silence of the server.
        exchange_s: longest time for all of it.

    Raises:
        NodeError: the server refuses, or says what is no answer of depthflux; as NoAnswerError,
            where asking again may help.
    """
    exchange = _Exchange(address, request, silence_s)
    thread = threading.Thread(target=exchange.run, daemon=True)
    thread.start()
    end = time.monotonic() + exchange_s
    try:
        thread.join(LOOK_S)
        while thread.is_alive() and time.monotonic() < end:
            look()
            thread.join(min(LOOK_S, max(end - time.monotonic(), 0.0)))
    finally:
        # A server that sends a byte now and then is never silent, and would never end.
        exchange.cut()
    if isinstance(exchange.error, NodeError):
        raise exchange.error
    # UnicodeError: a name that cannot be looked up, such as one with a label of 64 characters.
    known = (OSError, http.client.HTTPException, UnicodeError)
    if exchange.error is not None and not isinstance(exchange.error, known):
        raise exchange.error
    if exchange.answer is None:
        reason = exchange.error or f"not within {exchange_s:g} s"
        raise _silence(address, reason, was_sent=exchange.was_sent) from exchange.error
    return _data_of(address, exchange.answer)


class _Answer(NamedTuple):
    status: int
    wait_s: float
    body: bytes


class _Exchange:
    """An exchange in a thread of its own, which another may cut.

    Attributes:
        was_sent: whether anything of the request may have arrived.
        answer: once it is there.
        error: what was raised instead.
    """

    def __init__(self, address: Address, request: Request, silence_s: float) -> None:
        self._address, self._request = address, request
        self._connection = _connection(address, silence_s)
        self._connected: socket.socket | None = None
        self._is_cut = False
        self.was_sent = False
        self.answer: _Answer | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask, and keep what comes of it."""
        try:
            self.answer = self._ask()
        except Exception as error:  # noqa: BLE001 - whoever started the thread raises it
            self.error = error
        finally:
            self._connection.close()

    def cut(self) -> None:
        """End it, wherever it is; nothing happens to one that has ended."""
        self._is_cut = True
        if (connected := self._connected or self._connection.sock) is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _ask(self) -> _Answer:
        request, body = self._request, self._request.body
        sent = None if body is None else json.dumps(body, allow_nan=False).encode()
        self._connection.connect()
        self._connected = self._connection.sock
        if self._is_cut:
            raise ConnectionAbortedError("it was cut off")
        headers = _headers(self._address, self._connected, has_body=sent is not None)
        if sent is not None:
            headers["Content-Length"] = str(len(sent))
        if request.once:
            headers["Idempotency-Key"] = request.once
        self.was_sent = True
        self._connection.request(
            request.method,
            self._address.path + request.path,
            body=None if sent is None else io.BytesIO(sent),
            headers=headers,
        )
        response = self._connection.getresponse()
        answer = response.read(MOST_ANSWERED_BYTES + 1)
        if len(answer) > MOST_ANSWERED_BYTES:
            raise NodeError(
                f"{self._address.text} answered with more than {MOST_ANSWERED_BYTES} bytes."
            )
        if response.length:
            raise NoAnswerError(f"the answer of {self._address.text} was cut off.")
        return _Answer(response.status, _seconds_of(response.headers["Retry-After"]), answer)


def _connection(address: Address, silence_s: float) -> http.client.HTTPConnection:
    if address.scheme == "https":
        trusted = ssl.create_default_context()
        return http.client.HTTPSConnection(
            address.host, address.port, timeout=silence_s, context=trusted, blocksize=_PIECE_BYTES
        )
    return http.client.HTTPConnection(
        address.host, address.port, timeout=silence_s, blocksize=_PIECE_BYTES
    )


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


def _silence(address: Address, reason: object, *, was_sent: bool) -> NoAnswerError:
    todo = f"see that `depthflux serve` runs there, and that {ADDRESS_VARIABLE} is right"
    if address.is_this_machine:
        todo = f"start one: depthflux serve --port {address.port}"
    words = f"{address.text} does not answer: {tell(reason)}; {todo}."
    return NoAnswerError(words, was_sent=was_sent)


def _seconds_of(retry_after: str | None) -> float:
    """A Retry-After in seconds; 0 where it is none, or a date."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0


def _data_of(address: Address, answer: _Answer) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
        if key := key_for(address):
            # A server that repeats it must not have it shown on a node, in whatever spelling.
            document = _without(document, key)
    except (ValueError, RecursionError):
        document = None
    if answer.status in _ELSEWHERE:
        raise NodeError(f"{address.text} answers with a redirect, and none is followed.")
    if answer.status != http.HTTPStatus.OK:
        message = document.get("message") if isinstance(document, dict) else None
        raise _refusal(address, answer, message)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict):
        raise NodeError(
            f"{address.text} answers, but not as depthflux does; see that `depthflux serve` "
            "listens there."
        )
    return data


def _without(document: Any, key: str) -> Any:
    """A document of JSON whose texts do not hold a key."""
    if isinstance(document, str):
        return document.replace(key, "…")
    if isinstance(document, list):
        return [_without(entry, key) for entry in document]
    if isinstance(document, dict):
        return {_without(name, key): _without(entry, key) for name, entry in document.items()}
    return document


def _refusal(address: Address, answer: _Answer, message: object) -> NodeError:
    words = f"{address.text} refuses ({answer.status}): {tell_sentence(message)}"
    if answer.status == http.HTTPStatus.UNAUTHORIZED:
        words += (
            f" The key is taken from the variable {KEY_VARIABLE} of ComfyUI's process and goes to "
            f"the address in {ADDRESS_VARIABLE}, or without one to {USUAL_ADDRESS}."
        )
    if answer.status in _NOT_NOW:
        return NoAnswerError(words, wait_s=answer.wait_s)
    return NodeError(words)
