"""One client's calls over HTTP, repeated until they are answered.

Knows nothing of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from chaos_server.journal import Journal

#: A locked store is answered for after 30 s.
_TIMEOUT_S = 60.0
#: Pause before a server that does not answer is asked again, and the longest of those that it asks
#: for, in seconds: these clients are less patient than they are told to be.
_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0
#: Answers that ask to be asked again.
_AGAIN = (429, 503)


class NoAnswerError(Exception):
    """Nothing was answered for so long that nothing will be."""


class Calls:
    """A client's calls."""

    def __init__(self, address: str, journal: Journal, is_over: Callable[[], bool]) -> None:
        """Call nothing yet.

        Args:
            address: the server's.
            journal: told of every answer.
            is_over: whether waiting for an answer is in vain.
        """
        self._client = httpx.Client(base_url=address, timeout=_TIMEOUT_S)
        self._journal, self._is_over = journal, is_over

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def insist(
        self, method: str, path: str, *, allowed: tuple[int, ...] = (200,), **named: Any
    ) -> tuple[httpx.Response, int]:
        """Ask until it is answered; the answer, and how often it was asked.

        Args:
            method: such as GET.
            path: with its query, or a whole address.
            allowed: statuses that may be answered; any other is noted as a surprise.
            named: further arguments of httpx.Client.request.

        Raises:
            NoAnswerError: it never was.
        """
        tries = 0
        while not self._is_over():
            tries += 1
            try:
                response = self._client.request(method, path, **named)
            except httpx.TransportError:
                self._journal.note_answer("no answer")
                time.sleep(_PAUSE_S)
                continue
            self._journal.note_answer(str(response.status_code))
            if response.status_code not in _AGAIN:
                if response.status_code not in allowed:
                    self._surprise(method, path, response)
                return response, tries
            if "Retry-After" not in response.headers:
                self._surprise(method, path, response)
            asked_s = float(response.headers.get("Retry-After", 1))
            time.sleep(min(asked_s, _MOST_PAUSE_S))
        raise NoAnswerError(f"{method} {path} was not answered")

    def _surprise(self, method: str, path: str, response: httpx.Response) -> None:
        self._journal.note_surprise(
            f"{method} {path}: {response.status_code} {response.text[:300]}"
        )
