"""Large answers go out in pieces, each when the client has taken the one before.

So what a slow reader costs is a piece, however much it has asked for. Of a file a piece is also all
that is read ahead. Knows nothing of what is sent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from io import FileIO

from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

#: Of an answer that is in memory beside what the system keeps for the connection. Most pictures
#: are one or a few of them; with as many connections as there may be they are 256 MB.
PIECE_BYTES = 256 * 1024
#: In a request's scope: tells whether its client is gone; where it is not there, none ever is.
IS_GONE = "depthflux.is_gone"


class OpenFile:
    """A file that is to be sent. It stays whole although its name is deleted meanwhile.

    Attributes:
        size: in bytes.
        first: its first piece.
    """

    def __init__(self, file: FileIO) -> None:
        """Read the first piece.

        Args:
            file: opened for reading; closed from now on by this, at once where that was all.

        Raises:
            OSError: it cannot be read.
        """
        self._file = file
        try:
            self.size = os.fstat(file.fileno()).st_size
            self.first = file.read(PIECE_BYTES)
        except OSError:
            file.close()
            raise
        if len(self.first) >= self.size:
            file.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece; each is read when it is asked for."""
        left, piece = self.size, self.first
        while piece:
            yield piece
            left -= len(piece)
            size = min(left, PIECE_BYTES)
            piece = await run_in_threadpool(self._file.read, size) if size else b""

    def close(self) -> None:
        """Read no more of it; again, it does nothing."""
        self._file.close()


class FileAnswer(Response):
    """An answer that is a file; closes it, however sending ends."""

    def __init__(self, file: OpenFile, *, media_type: str, headers: Mapping[str, str]) -> None:
        """Send nothing yet.

        Args:
            file: what is sent.
            media_type: what it is.
            headers: of the answer, beside its kind and length.
        """
        super().__init__(
            media_type=media_type, headers={**headers, "Content-Length": str(file.size)}
        )
        self._file = file

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it; of a HEAD request's answer only the headers."""
        with contextlib.closing(self._file):
            await _begin(self, send)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
            else:
                await _send_pieces(self._file.pieces(), self._file.size, scope, send)


class DocumentAnswer(JSONResponse):
    """An answer that is a document in memory, sent in pieces where it is large."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if len(self.body) <= PIECE_BYTES:
            await super().__call__(scope, receive, send)
            return
        await _begin(self, send)
        await _send_pieces(_cut(bytes(self.body)), len(self.body), scope, send)


async def _begin(answer: Response, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": answer.raw_headers,
        }
    )


async def _send_pieces(pieces: AsyncIterator[bytes], left: int, scope: Scope, send: Send) -> None:
    is_gone = scope.get(IS_GONE, lambda: False)
    async for piece in pieces:
        left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
        if left <= 0:
            return
        # Sending waits before it writes, not afterwards: this one returns when the piece is taken,
        # and only then is the next one made.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        if is_gone():
            return


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
