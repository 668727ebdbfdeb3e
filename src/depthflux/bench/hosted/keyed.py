"""Requests that carry the API key: the only room that has it sent.

The key goes to the base address and nowhere else: the address is made here of the base's host and
a path of ours, no redirect is followed, no cookie kept, no netrc read, and over http a connection
to a public address is given up before a byte is sent. A proxy of the environment is used for https
alone, where it sees no key. Knows nothing of what is asked, nor of trying again.
"""

from __future__ import annotations

import json
import ssl
import urllib.request
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx

from depthflux.bench.hosted.base_url import BaseUrl, in_the_clear
from depthflux.bench.hosted.connections import (
    MOST_ANSWER_BYTES,
    TooLargeError,
    answer_of,
    broken,
    status_words,
)
from depthflux.bench.hosted.errors import (
    HostedError,
    KeyRefusedError,
    NoAnswerError,
    UnreadableAnswerError,
)
from depthflux.bench.hosted.exchanges import Answer, Recorder, Request
from depthflux.bench.hosted.key_cover import bytes_without_key, without_key
from depthflux.bench.hosted.lines import Line, Lines
from depthflux.bench.hosted.replies import message_of
from depthflux.errors import SettingsError, show
from depthflux.images.addresses import is_public
from depthflux.images.container import PictureProblemError
from depthflux.images.limits import megabytes
from depthflux.images.url import parse_url, redirected_url

#: Idle connections are not used again after so many seconds: servers close them after 5 (uvicorn)
#: or more, and a submission into one that just closes would count as lost.
_KEEPALIVE_S = 3.0
#: Of each thread, which asks one thing at a time.
_CONNECTIONS = httpx.Limits(
    max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_S
)
#: An answer with success that is longer holds no refusal.
_MOST_REFUSAL_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Call:
    """What the API is asked.

    Attributes:
        method: such as `POST`.
        path: below the base address, beginning with a slash; of our words alone.
        timeout_s: longest silence, in seconds; an exchange takes no longer than two of them and
            the connecting.
        content: the body; None for none.
        media_type: of the body.
        sent: what the recording says of the body.
    """

    method: str
    path: str
    timeout_s: float
    content: bytes | None = None
    media_type: str = "application/json"
    sent: Any = None

    @classmethod
    def of_json(cls, path: str, sent: Any, *, timeout_s: float) -> Self:
        """A `POST` of JSON, which the recording keeps as it is."""
        content = json.dumps(sent).encode()
        return cls(method="POST", path=path, timeout_s=timeout_s, content=content, sent=sent)


class KeyedApi:
    """Asks the API at the base address; several threads may do so at a time."""

    def __init__(
        self,
        base: BaseUrl,
        key: str,
        recorder: Recorder,
        *,
        key_name: str,
        connect_s: float,
        tls: ssl.SSLContext,
    ) -> None:
        """Connect to nothing yet.

        Args:
            base: where the API is.
            key: sent as a bearer's.
            recorder: told of each exchange.
            key_name: how messages call the key.
            connect_s: longest wait for a connection, in seconds.
            tls: what certificates are trusted.

        Raises:
            SettingsError: the environment names a proxy that cannot be used.
        """
        self._base, self._key, self._recorder = base, key, recorder
        self._key_name, self._connect_s = key_name, connect_s
        # The transport and not a client: no cookies, no redirects, no netrc, no log of addresses.
        proxy = _proxy(base)
        self._lines = Lines(
            lambda: httpx.HTTPTransport(
                verify=tls, trust_env=False, limits=_CONNECTIONS, proxy=proxy
            )
        )

    def close(self) -> None:
        """Close all connections."""
        self._lines.close()

    def ask(self, call: Call, attempt: int = 1) -> Answer:
        """Ask once.

        Args:
            call: what.
            attempt: its number, for the recording.

        Returns:
            Any answer that is no redirect and does not refuse the key. Where success is said and a
            refusal is meant, by the envelope's `code`, the status is that.

        Raises:
            UnreachableError: no connection; nothing was sent.
            NoAnswerError: no whole answer came.
            HostedError: it redirects, which is not followed.
            UnreadableAnswerError: the answer is too large.
            KeyRefusedError: the key is refused.
            SettingsError: an http address turned out to be public; nothing was sent.
        """
        target = self._base.target(call.path)
        address = f"{target.scheme}://{target.authority}{target.path}"
        line = self._lines.mine()
        request = self._request(call, address, line)
        recorded = Request(method=call.method, address=address, sent=call.sent, attempt=attempt)
        answer = self._recorder.measured(
            recorded, lambda: self._send(request, line, call.timeout_s)
        )
        answer = _as_meant(answer)
        self._judge(answer, address)
        return answer

    def refusal(self, answer: Answer, to: str) -> HostedError:
        """The error for an answer that is no success.

        Args:
            answer: its status is not 200.
            to: what it answers, such as `to an upload`.
        """
        message, code = message_of(answer.body)
        said = f": {message}" if message else ""
        return HostedError(
            f"{self._base.authority} answered {_words(answer)} {to}{said}",
            status=answer.status,
            code=code,
        )

    def unreadable(
        self, error: UnreadableAnswerError, prediction_id: str = ""
    ) -> UnreadableAnswerError:
        """The error for an answer that cannot be used, in full.

        Args:
            error: what is wrong with it.
            prediction_id: whose answer it is, where that is known.
        """
        return UnreadableAnswerError(
            f"{self._base.authority} answered what the hosted API does not: {error}; see whether "
            "base_url names it.",
            status=200,
            code=error.code,
            prediction_id=prediction_id,
        )

    def _request(self, call: Call, address: str, line: Line) -> httpx.Request:
        def trace(event: str, info: dict[str, Any]) -> None:
            line.watch(event, info)
            self._judge_peer(event, info)

        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {self._key}",
            "User-Agent": "depthflux",
        }
        if call.content is not None:
            headers["Content-Type"] = call.media_type
        timeout = httpx.Timeout(call.timeout_s, connect=self._connect_s)
        return httpx.Request(
            call.method,
            address,
            headers=headers,
            content=call.content,
            extensions={"timeout": timeout.as_dict(), "trace": trace},
        )

    def _send(self, request: httpx.Request, line: Line, timeout_s: float) -> Answer:
        authority = self._base.authority
        late = NoAnswerError(f"{authority} takes too long to answer; try again later.")

        def check_time() -> None:
            if line.is_late:
                raise late

        try:
            # Generous beside the limit of each silence: it is for an answer that comes in drops.
            with line.at_most(2 * timeout_s + self._connect_s):
                response = line.transport.handle_request(request)
                try:
                    answer = answer_of(response, MOST_ANSWER_BYTES, check_time)
                finally:
                    response.close()
        except TooLargeError:
            raise UnreadableAnswerError(
                f"{authority} answers with more than {megabytes(MOST_ANSWER_BYTES)}; see whether "
                "it is the hosted API."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError) as error:
            # Cut before anything was sent, it is unreachable all the same.
            told = broken(error, authority)
            raise late if line.is_late and isinstance(told, NoAnswerError) else told from None
        # What echoes the key, as proxies do that show a request, must not bring it into messages.
        return replace(answer, body=bytes_without_key(answer.body, self._key))

    def _judge_peer(self, event: str, info: dict[str, Any]) -> None:
        """See who was connected to, before anything is sent; httpx calls this as "trace"."""
        if event != "connection.connect_tcp.complete" or self._base.scheme != "http":
            return
        stream = info["return_value"]
        if is_public(str(stream.get_extra_info("server_addr")[0])):
            stream.close()
            raise in_the_clear(self._base)

    def _judge(self, answer: Answer, address: str) -> None:
        authority = self._base.authority
        if answer.status in (401, 403):
            message, _ = message_of(answer.body)
            raise KeyRefusedError(
                f"{self._key_name} was refused by {authority} ({_words(answer)}"
                f"{': ' + message if message else ''}).",
                fix="Set a key that is valid there; nothing more is asked with this one.",
                status=answer.status,
            )
        if 300 <= answer.status < 400:
            where = without_key(_host_of(address, answer.headers.get("location", "")), self._key)
            raise HostedError(
                f"{authority} redirects to {where} ({status_words(answer.status)}); the API key "
                "was not sent there. Give the address of the API itself as base_url.",
                status=answer.status,
                # "See Other": what was posted has been done.
                may_be_taken=answer.status == 303,
            )


def _as_meant(answer: Answer) -> Answer:
    """An answer with the status that it means: its envelope may refuse where HTTP does not."""
    if answer.status != 200 or len(answer.body) > _MOST_REFUSAL_BYTES:
        return answer
    _, code = message_of(answer.body)
    if code is None or not 400 <= code < 500:
        return answer
    return replace(answer, status=code, is_by_envelope=True)


def _words(answer: Answer) -> str:
    """An answer's status as messages say it."""
    words = status_words(answer.status)
    return f"HTTP status 200 but code={words}" if answer.is_by_envelope else words


def _host_of(address: str, location: str) -> str:
    """The host that a redirect leads to, as a message may name it."""
    try:
        return parse_url(redirected_url(address, location)).authority
    except PictureProblemError:
        return "another place"


def _proxy(base: BaseUrl) -> httpx.Proxy | None:
    """The environment's proxy for the base address; only for https, which it cannot read."""
    if base.scheme != "https" or urllib.request.proxy_bypass(base.host):
        return None
    named = urllib.request.getproxies_environment()
    address = named.get("https") or named.get("all")
    if not address:
        return None
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https"):
        raise SettingsError(
            f"https_proxy={show(address)}: only http and https proxies are known.",
            fix=f"Set another one, or add {base.host} to no_proxy.",
        )
    return proxy
