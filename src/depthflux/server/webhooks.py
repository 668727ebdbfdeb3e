"""Telling clients that their predictions have ended: signed, retried, never into private networks.

What has to be told is in the store's outbox, so it survives whatever is killed. The signature is
the hosted endpoint's: HMAC-SHA256 under the owner's secret, without its prefix, over
`{webhook-id}.{webhook-timestamp}.{body}`. Knows nothing of what a webhook says.

Source: https://wavespeed.ai/docs/docs-api/verifying_webhook
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from depthflux.errors import InvalidParameterError, first_line
from depthflux.images import ReadLimits
from depthflux.images.addresses import Resolver, approved_addresses, resolve
from depthflux.images.container import PictureProblemError
from depthflux.images.fetch import Wanted, check_url
from depthflux.images.pinned import Deadline, exchange
from depthflux.images.url import parse_url
from depthflux.server.database import STORE_PROBLEMS
from depthflux.server.metrics import Metrics
from depthflux.server.names import now_ms
from depthflux.server.outbox import SECRET_PREFIX, Letter, Outbox, State

logger = logging.getLogger("depthflux")

WEBHOOK = Wanted(
    accept="*/*",
    allowed="a public http or https URL that takes POST requests",
    error=InvalidParameterError,
)

#: Pauses after the first, second … failed attempt, in seconds; after the last of them it is given
#: up. Together nine hours: a receiver may be down for a night's maintenance.
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)
#: Sent at a time, and to one host: a slow receiver must not hold up the others.
MOST_AT_ONCE, MOST_TO_A_HOST = 8, 2
#: Read at a time: more than are on their way, which are due in the store until they have ended.
_MOST_READ = 32
#: How long to wait before what became of a letter is noted again, in seconds.
_STORE_PAUSE_S = 1.0
#: How often the outbox is looked into without being told, in seconds.
_LOOK_S = 5.0
#: How long the tasks of what is on its way may take to notice that they are cancelled, in seconds.
_LEAVE_S = 5.0
#: Version of the signature, as its header names it.
_VERSION = "v3"


class DeliveryError(Exception):
    """Why a webhook was not received; one line, without the URL's query."""


def check_webhook_url(url: str) -> None:
    """See that a webhook's URL could be told.

    Raises:
        InvalidParameterError: it is no plain http or https URL.
    """
    check_url(url, wanted=WEBHOOK, field="webhook_url")


def signed_headers(id: str, timestamp_s: int, body: bytes, secret: str) -> dict[str, str]:
    """The headers by which a receiver knows who sent a webhook.

    Args:
        id: the event's.
        timestamp_s: when it is sent, seconds since 1970; receivers refuse old ones.
        body: as it is sent.
        secret: the owner's, with its prefix.
    """
    key = secret.removeprefix(SECRET_PREFIX).encode()
    signed = f"{id}.{timestamp_s}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).hexdigest()
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"{_VERSION},{digest}",
    }


@dataclass(frozen=True, kw_only=True)
class Post:
    """Sends one body to one URL.

    Attributes:
        limits: times, and whether private addresses may be told.
        resolver: turns names into addresses, once for each attempt.
        tls: what certificates are trusted; None = certifi's.
    """

    limits: ReadLimits
    resolver: Resolver = resolve
    tls: ssl.SSLContext | None = None

    def send(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        """Send it, and return once the receiver has said that it has it.

        Raises:
            DeliveryError: it has not, or is not to be told.
        """
        try:
            with Deadline(self.limits.read_timeout_s) as deadline:
                self._send(url, body, headers, deadline)
        except PictureProblemError as problem:
            raise DeliveryError(str(problem)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Its name alone: its text may hold the whole URL.
            raise DeliveryError(f"the connection failed ({type(error).__name__})") from None

    def _send(self, url: str, body: bytes, headers: dict[str, str], deadline: Deadline) -> None:
        target = parse_url(url.strip())
        addresses = approved_addresses(
            target.host,
            target.port,
            resolver=self.resolver,
            allow_private=self.limits.allow_private_addresses,
            timeout_s=self.limits.connect_timeout_s,
        )
        sent = {**headers, "Content-Type": "application/json", "User-Agent": "depthflux"}
        # The first address that lets us in, or the last one's refusal.
        for number, address in enumerate(addresses, start=1):
            try:
                with exchange(
                    "POST",
                    target,
                    address,
                    headers=sent,
                    # Less for connecting: there may be another address behind a dead one.
                    timeout=httpx.Timeout(
                        deadline.remaining_s,
                        connect=min(self.limits.connect_timeout_s, deadline.remaining_s),
                    ),
                    content=body,
                    tls=self.tls,
                    trace=deadline.watch,
                ) as response:
                    if not response.is_success:
                        raise DeliveryError(f"the receiver answered {response.status_code}")
                    return
            except (httpx.ConnectError, httpx.ConnectTimeout):
                deadline.check()
                if number == len(addresses):
                    raise


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an attempt.

    Attributes:
        label: as counted: delivered, failed or given_up.
        state: the letter's from now on.
        next_at: when it is due again, in milliseconds since 1970.
        problem: why it was not received.
    """

    label: str
    state: State
    next_at: int = 0
    problem: str = ""


class Postman:
    """Empties the outbox, for ever."""

    def __init__(
        self,
        outbox: Outbox,
        metrics: Metrics,
        post: Post,
        body_of: Callable[[Letter], bytes],
        *,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        """Send nothing yet.

        Args:
            outbox: what is to be sent.
            metrics: told what became of each attempt.
            post: how it is sent.
            body_of: what a letter says.
            pauses_s: after the first, second … failed attempt; after the last it is given up.
        """
        self._outbox, self._metrics, self._post = outbox, metrics, post
        self._body_of, self._pauses_s = body_of, pauses_s
        self._news = asyncio.Event()
        self._on_their_way: dict[str, asyncio.Task[None]] = {}
        self._noted: set[str] = set()
        self._hosts: Counter[str] = Counter()
        # Its own: slow receivers must not keep the supervisor from getting a thread.
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, "depthflux-webhook")

    def ring(self) -> None:
        """Say that something new may be in the outbox."""
        self._news.set()

    async def run(self) -> None:
        """Send what is due, again and again, until cancelled."""
        try:
            await self._run()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Wait for nothing that is on its way: it may end, and is in the store in any case."""
        on_their_way = list(self._on_their_way.values())
        for task in on_their_way:
            task.cancel()
        # After that nothing can be begun in a thread, which a task that went on would try.
        self._threads.shutdown(wait=False, cancel_futures=True)
        if on_their_way:
            await asyncio.wait(on_their_way, timeout=_LEAVE_S)

    async def _run(self) -> None:
        looked_at = -math.inf
        while True:
            self._news.clear()
            self._noted.clear()
            try:
                if time.monotonic() - looked_at >= _LOOK_S:
                    await asyncio.to_thread(self._heed_clock)
                    looked_at = time.monotonic()
                read_at = now_ms()
                await self._begin_due(read_at)
                wait_s = await asyncio.to_thread(self._until_next, read_at)
            except STORE_PROBLEMS as error:
                _complain(error)
                wait_s = 1.0
            await self._wait(wait_s)

    def _heed_clock(self) -> None:
        """Let no letter wait longer than its pause because the clock was set back."""
        count = self._outbox.bring_forward(self._pauses_s)
        if count:
            logger.warning("the clock was set back: %d webhooks are due now, not later", count)

    async def _begin_due(self, now: int) -> None:
        """Begin to send what is due, as far as there is room.

        What is read first may all be to one host, so it is looked again without those that have
        enough on their way: each time but the last one at least one letter more is begun.
        """
        for _ in range(MOST_AT_ONCE + 1):
            full = [host for host, count in self._hosts.items() if count >= MOST_TO_A_HOST]
            due = await asyncio.to_thread(self._outbox.due, now, _MOST_READ, full)
            before = len(self._on_their_way)
            self._begin(due)
            has_begun = len(self._on_their_way) > before
            if len(due) < _MOST_READ or not has_begun or len(self._on_their_way) >= MOST_AT_ONCE:
                return

    def _begin(self, due: Sequence[Letter]) -> None:
        """Begin to send letters, as many as may be on their way at a time, and to one host."""
        for letter in due:
            id, host = letter.prediction.id, letter.host
            # What was noted while the outbox was read is due in what was read, and nowhere else.
            is_known = id in self._on_their_way or id in self._noted
            has_room = len(self._on_their_way) < MOST_AT_ONCE
            if not is_known and has_room and self._hosts[host] < MOST_TO_A_HOST:
                self._hosts[host] += 1
                self._on_their_way[id] = asyncio.create_task(self._deliver(letter))

    async def _wait(self, seconds: float) -> None:
        try:
            # Not wait_for, which on Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    def _until_next(self, read_at: int) -> float:
        """How long nothing is due, in seconds, at the most as long as it is good to wait.

        Args:
            read_at: when the outbox was read, in milliseconds since 1970; what has become due
                since then was not seen.
        """
        next_at = self._outbox.next_at()
        if next_at is None:
            return _LOOK_S
        # What is due now and not begun waits for one on its way to end, which rings.
        if next_at <= read_at:
            return _LOOK_S
        return min(max(next_at - now_ms(), 0) / 1000 + 0.01, _LOOK_S)

    async def _deliver(self, letter: Letter) -> None:
        """Send a letter once, and note what became of it, as soon as the store takes it."""
        loop = asyncio.get_running_loop()
        try:
            outcome = await loop.run_in_executor(self._threads, self._send, letter)
            # Until then it counts as on its way: sent again at once, it would be sent in vain.
            while not await loop.run_in_executor(self._threads, self._note, letter, outcome):
                await asyncio.sleep(_STORE_PAUSE_S)
        finally:
            self._noted.add(letter.prediction.id)
            del self._on_their_way[letter.prediction.id]
            self._hosts -= Counter([letter.host])
            self._news.set()

    def _send(self, letter: Letter) -> Outcome:
        """Send a letter once."""
        one = letter.prediction
        try:
            body, secret = self._body_of(letter), self._outbox.secret(one.owner)
            self._post.send(
                one.webhook_url, body, signed_headers(one.id, int(time.time()), body, secret)
            )
        except DeliveryError as error:
            return self._failed(letter, str(error))
        except Exception as error:  # one odd letter must not be tried for ever
            logger.error("the webhook of %s cannot be sent", one.id, exc_info=error)
            return self._failed(letter, f"it cannot be sent ({type(error).__name__})")
        return Outcome(label="delivered", state="delivered")

    def _failed(self, letter: Letter, problem: str) -> Outcome:
        # The host alone: some services put their secret into the path.
        one, host = letter.prediction, letter.host
        if letter.attempts >= len(self._pauses_s):
            logger.warning("webhook of %s to %s is given up: %s", one.id, host, problem)
            return Outcome(label="given_up", state="given_up", problem=problem)
        pause_s = self._pauses_s[letter.attempts]
        logger.info("webhook of %s to %s: %s; again in %g s", one.id, host, problem, pause_s)
        next_at = now_ms() + round(1000 * pause_s)
        return Outcome(label="failed", state="waiting", next_at=next_at, problem=problem)

    def _note(self, letter: Letter, outcome: Outcome) -> bool:
        """Note what became of a letter; False where the store does not take it."""
        try:
            self._outbox.note(
                letter.prediction.id,
                state=outcome.state,
                next_at=outcome.next_at,
                problem=outcome.problem,
            )
        except STORE_PROBLEMS as error:
            _complain(error)
            return False
        self._metrics.webhooks.labels(outcome.label).inc()
        return True


def _complain(error: Exception) -> None:
    logger.warning("the outbox cannot be used: %s", first_line(error))
