"""Bytes → requests, where a request's line and headers are bounded and can be read in one way only.

Knows nothing of time, and not how a refusal is sent: it says what is wrong and stops.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from depthflux.server.crowd import Patience

_VERSIONS = ("1.0", "1.1")
#: How a request target may begin. Of an address only the path counts here: who is asked is what the
#: Host header says, which the gate judges.
_TARGETS = (b"/", b"http://", b"https://")
#: Headers of a request to talk in another protocol, which is not done.
_UPGRADING = (b"upgrade", b"http2-settings")
#: What only proxies are asked: to hand all that follows on to somebody else.
_TUNNELLING = b"CONNECT"


class Heads(HttpToolsProtocol):
    """uvicorn's protocol with bounds.

    Attributes:
        patience: the bounds.
        problem: what is wrong with what came, as HTTP status and words; nothing is parsed then.
        awaits_head: whether the next bytes belong to a request's head, and else to a body.
        has_asked: whether a whole head has ever come.
        unparsed: bytes of which nothing came yet: neither a whole head nor a piece of a body.
        body_size: bytes of the latest request's body so far.
    """

    def __init__(
        self,
        patience: Patience,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self.patience = patience
        self.problem: tuple[int, str] | None = None
        self.awaits_head, self.has_asked = True, False
        self.unparsed = self.body_size = 0
        self._parsed = self._head_size = 0
        #: The head of a request to talk in another protocol, without that.
        self._plain_head = b""
        #: Whether it is what is being parsed.
        self._is_plain = False

    def parse(self, data: bytes) -> None:
        """Parse what has come, and no byte more than is allowed."""
        while data and self.problem is None:
            room = self.patience.head_bytes - self.unparsed
            if room <= 0:
                self.problem = self._too_large
                return
            # A header is kept by the parser until it is whole: it gets no more than is allowed.
            piece = data[:room] if self.awaits_head else data
            data = self._parse_piece(piece) + data[len(piece) :]

    def _parse_piece(self, piece: bytes) -> bytes:
        """Parse a piece; what of it is to be parsed anew comes back."""
        before, rest = self._parsed, b""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_plain_head()
            rest = piece[upgrade.args[0] :]
        except httptools.HttpParserCallbackError:
            self.problem = self.problem or (400, "the request target cannot be read.")
        except httptools.HttpParserError as error:
            # Its words are the parser's own: nothing in them is the caller's.
            self.problem = 400, f"the request is no HTTP/1.1: {error}."
        self.unparsed = 0 if self._parsed != before else self.unparsed + len(piece)
        return rest

    # What the parser calls ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_size, self._plain_head = 0, b""

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        self._head_size += len(url)
        if len(self.url) > (most := self.patience.target_bytes):
            self.deny(414, f"the request target has more than {most} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one that comes behind a body is passed over, since it was judged without."""
        self._head_size += len(name) + len(value) + 4
        is_one_more = self.awaits_head and len(self.headers) >= self.patience.headers
        if is_one_more or self._head_size > self.patience.head_bytes:
            self.deny(*self._too_large)
        if self.awaits_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is whole: its request goes to the application, or waits behind others."""
        self._require_plain()
        if self.parser.should_upgrade():
            if self._is_plain:
                # It would come back here for ever.
                self.deny(400, "the request to talk in another protocol cannot be read.")
            self._plain_head = self._head_without_upgrade()
            return
        self.body_size = 0
        super().on_headers_complete()
        self.awaits_head, self.has_asked = False, True
        self._parsed += 1

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self.body_size += len(body)
        self._parsed += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self._plain_head:
            return  # so says the parser, who leaves the body to the other protocol
        self.awaits_head = True
        self._parsed += 1
        super().on_message_complete()

    def deny(self, status: int, message: str) -> NoReturn:
        """End the parsing; the parser makes an error of its own of this one, without its words."""
        self.problem = status, message
        raise httptools.HttpParserError(message)

    def _require_plain(self) -> None:
        """Refuse what two programs in a row could read in two ways, or what only a proxy is asked.

        The parser itself refuses most of it, such as two lengths, or a length and chunks.
        """
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self.deny(400, "HTTP/1.1 and HTTP/1.0 are spoken here.")
        if self.parser.get_method() == _TUNNELLING:
            self.deny(400, "CONNECT is for proxies, and this is none; ask with GET or POST.")
        if not self.url.lower().startswith(_TARGETS):
            self.deny(400, "the request target has to be a path, such as /livez.")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version != "1.1"):
            self.deny(400, "Transfer-Encoding: allowed: chunked alone, in HTTP/1.1.")

    @property
    def _too_large(self) -> tuple[int, str]:
        most, size = self.patience.headers, self.patience.head_bytes
        text = f"line and headers are too much; allowed: {most} headers, {size} bytes in all."
        return 431, text

    # A request to talk in another protocol ---------------------------------------------------

    def _head_without_upgrade(self) -> bytes:
        """A head as if HTTP/1.1 had been asked for, in which the answer may be.

        The parser would take the body for the other protocol and drop it.
        """
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name == b"connection":
                words = (word.strip() for word in value.lower().split(b","))
                kept = b", ".join(word for word in words if word not in _UPGRADING)
                lines.append(b"connection: " + kept)
            elif name not in _UPGRADING:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _parse_plain_head(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn does: what follows a last request is passed over.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._is_plain = True
        self._parse_piece(self._plain_head)
        self._is_plain = False
