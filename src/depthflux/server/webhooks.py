"""Telling clients that their predictions have ended: signed, retried, never into private networks.

What has to be told is in the store's outbox, so it survives whatever is killed. The signature is
the hosted endpoint's: HMAC-SHA256 under the owner's secret, without its prefix, over
`{webhook-id}.{webhook-timestamp}.{body}`.

Source: https://wavespeed.ai/docs/docs-api/verifying_webhook
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
from sqlalchemy.exc import OperationalError

from depthflux.errors import InvalidParameterError, first_line
from depthflux.images import ReadLimits
from depthflux.images.addresses import Resolver, approved_addresses, resolve
from depthflux.images.container import PictureProblemError
from depthflux.images.fetch import Wanted, check_url
from depthflux.images.pinned import Deadline, exchange
from depthflux.images.url import parse_url, shown_url
from depthflux.server.metrics import Metrics
from depthflux.server.names import now_ms
from depthflux.server.outbox import SECRET_PREFIX, Letter, Outbox

logger = logging.getLogger("depthflux")

WEBHOOK = Wanted(
    accept="*/*",
    allowed="a public http or https URL that takes POST requests",
    error=InvalidParameterError,
)

#: Pauses after the first, second … failed attempt, in seconds; after the last of them it is given
#: up. Together nine hours: a receiver may be down for a night's maintenance.
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)
#: Sent at a time: a slow receiver must not hold up the others.
MOST_AT_ONCE = 8
#: How often the outbox is looked into without being told, in seconds.
_LOOK_S = 5.0
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
                    timeout=httpx.Timeout(deadline.remaining_s),
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

    def ring(self) -> None:
        """Say that something new may be in the outbox."""
        self._news.set()

    async def run(self) -> None:
        """Send what is due, again and again, until cancelled."""
        while True:
            self._news.clear()
            try:
                due = await asyncio.to_thread(self._outbox.due, now_ms(), 2 * MOST_AT_ONCE)
                self._begin(due)
                wait_s = await asyncio.to_thread(self._until_next)
            except OperationalError as error:
                _complain(error)
                wait_s = 1.0
            await self._wait(wait_s)

    def _begin(self, due: Sequence[Letter]) -> None:
        """Begin to send letters, as many as may be on their way at a time."""
        for letter in due:
            id = letter.prediction.id
            if id not in self._on_their_way and len(self._on_their_way) < MOST_AT_ONCE:
                self._on_their_way[id] = asyncio.create_task(self._deliver(letter))

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return

    def _until_next(self) -> float:
        """How long nothing is due, in seconds, at the most as long as it is good to wait."""
        next_at = self._outbox.next_at()
        if next_at is None:
            return _LOOK_S
        # What is due now and not begun waits for one on its way to end, which rings.
        overdue = next_at <= now_ms()
        return _LOOK_S if overdue else min((next_at - now_ms()) / 1000 + 0.01, _LOOK_S)

    async def _deliver(self, letter: Letter) -> None:
        try:
            await asyncio.to_thread(self._send, letter)
        except OperationalError as error:
            _complain(error)  # it is still in the outbox
        finally:
            del self._on_their_way[letter.prediction.id]
            self._news.set()

    def _send(self, letter: Letter) -> None:
        """Send a letter once, and note what became of it."""
        one = letter.prediction
        body = self._body_of(letter)
        headers = signed_headers(one.id, int(time.time()), body, self._outbox.secret(one.owner))
        try:
            self._post.send(one.webhook_url, body, headers)
        except DeliveryError as error:
            self._postpone(letter, str(error))
        else:
            self._metrics.webhooks.labels("delivered").inc()
            self._outbox.note(one.id, state="delivered")

    def _postpone(self, letter: Letter, problem: str) -> None:
        one, url = letter.prediction, shown_url(letter.prediction.webhook_url)
        if letter.attempts >= len(self._pauses_s):
            self._metrics.webhooks.labels("given_up").inc()
            logger.warning("webhook of %s to %s is given up: %s", one.id, url, problem)
            self._outbox.note(one.id, state="given_up", problem=problem)
            return
        pause_s = self._pauses_s[letter.attempts]
        self._metrics.webhooks.labels("failed").inc()
        logger.info("webhook of %s to %s: %s; again in %g s", one.id, url, problem, pause_s)
        self._outbox.note(
            one.id, state="waiting", next_at=now_ms() + round(1000 * pause_s), problem=problem
        )


def _complain(error: OperationalError) -> None:
    logger.warning("the outbox cannot be used: %s", first_line(error.orig or error))
