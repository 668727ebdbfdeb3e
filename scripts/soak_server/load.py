"""Result polls at a fixed rate while eight clients submit, poll and download.

The poller is an open loop: each poll has its time, whether or not earlier ones were answered, and
its latency counts from that time. So a server that stalls is charged for all polls that would have
come meanwhile, as its clients would be.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from soak_server.calls import POLL_PAUSE_S, SIDE, Calls
from soak_server.figures import quantiles
from soak_server.stage import PAINT_S, STEPS, CpuTime, Stage, flush_times_ms
from soak_server.tally import Tally
from soak_server.wire import Pool

CLIENTS = 8
#: Connections of the poller. More requests than these at a time wait, and their latency with them.
_POLLERS = 64
#: Predictions that are polled: the latest ones, running and ended.
_POLLED = 64
#: How often the queue's depth is looked at, in seconds.
_LOOK_S = 0.5
#: A poll's latency that the highest rate must keep, in milliseconds.
MOST_P99_MS = 50.0


async def measure_load(on: Stage, rates: Iterable[float], seconds: float) -> dict[str, Any]:
    """All figures of this part.

    Args:
        on: the server.
        rates: polls a second, one step after the other.
        seconds: of each step.
    """
    flush_ms = flush_times_ms(on.server.data_dir)
    steps = [await _measure_step(on, rate, seconds) for rate in rates]
    kept = [
        step["polls_per_second"]
        for step in steps
        if step["poll_ms"]["p99"] < MOST_P99_MS and not step["failures_count"]
    ]
    return {
        "setting": {
            "clients": CLIENTS,
            "client_poll_pause_ms": 1000 * POLL_PAUSE_S,
            "paint_ms": 1000 * PAINT_S,
            "steps": STEPS,
            "size": f"{SIDE}*{SIDE}",
            "seconds": seconds,
            "most_p99_ms": MOST_P99_MS,
        },
        "flush_ms": flush_ms,
        "rates": steps,
        "highest_polls_per_second": max(kept, default=None),
        "failures_count": sum(step["failures_count"] for step in steps),
    }


async def _measure_step(on: Stage, rate: float, seconds: float) -> dict[str, Any]:
    """One rate."""
    step = Step(on, seconds)
    cpu = CpuTime(on)
    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(step.be_client())
        tasks.create_task(step.watch_queue())
        await tasks.create_task(step.poll_at(rate))
    took_s = time.perf_counter() - began_s
    step.close()
    return {"wanted_polls_per_second": rate, **step.report(took_s), "cpu": cpu.cores()}


class Step:
    """One rate's traffic.

    Attributes:
        tally: of its requests.
        whole_ms: from submission to the downloaded picture.
        late_ms: how late the generator itself was with polls, which their latency includes.
        queued: depths of the queue.
        begun_s: when the first poll was due.
        last_answer_s: when the last poll was answered.
    """

    def __init__(self, on: Stage, seconds: float) -> None:
        """Send nothing yet."""
        self.tally = Tally()
        self._polls = Pool(on.server.address, most=_POLLERS)
        # A connection for each client, and one for the queue's depth.
        self._others = Pool(on.server.address, most=CLIENTS + 1)
        self._poller, self._calls = Calls(self._polls, self.tally), Calls(self._others, self.tally)
        self._ids: deque[str] = deque(maxlen=_POLLED)
        self._seconds = seconds
        self.begun_s = time.perf_counter()
        self._end_s = self.begun_s + seconds
        self.last_answer_s = self._end_s
        self.whole_ms: list[float] = []
        self.late_ms: list[float] = []
        self.queued: list[float] = []

    def close(self) -> None:
        """Close the connections."""
        self._polls.close()
        self._others.close()

    def report(self, took_s: float) -> dict[str, Any]:
        """Rates and times of it all.

        Args:
            took_s: from the first submission to the last picture, in seconds.
        """
        done, times = self.tally.done, self.tally.milliseconds()
        return {
            "polls_per_second": round(done["open_poll"] / (self.last_answer_s - self.begun_s), 1),
            "client_polls_per_second": round(done["client_poll"] / took_s, 1),
            "submissions_per_second": round(done["submit"] / took_s, 1),
            "pictures_per_second": round(done["download"] / took_s, 1),
            "poll_ms": times.get("open_poll", quantiles([])),
            "poll_sent_late_ms": quantiles(self.late_ms),
            "client_poll_ms": times.get("client_poll", quantiles([])),
            "submit_ms": times.get("submit", quantiles([])),
            "download_ms": times.get("download", quantiles([])),
            "until_picture_ms": quantiles(self.whole_ms),
            "queued": quantiles(self.queued),
            **self.tally.report(),
        }

    async def be_client(self) -> None:
        """Submit, poll until it has ended, download; again and again until the time is over."""
        address = await self._calls.upload()
        while address is not None and time.perf_counter() < self._end_s:
            start_s = time.perf_counter()
            data = await self._calls.submit("submit", address)
            if data is None:
                await asyncio.sleep(POLL_PAUSE_S)
                continue
            self._ids.append(data["id"])
            if (ended := await self._calls.end_of("client_poll", data["id"])) is not None:
                await self._calls.download(ended)
                self.whole_ms.append(1000 * (time.perf_counter() - start_s))

    async def watch_queue(self) -> None:
        """Note how many predictions wait."""
        while time.perf_counter() < self._end_s:
            answer = await self._calls.ask("readyz", "GET", "/readyz")
            if answer is not None:
                self.queued.append(json.loads(answer.body)["queued"])
            await asyncio.sleep(_LOOK_S)

    async def poll_at(self, rate: float) -> None:
        """Poll so often a second until the time is over, then wait for the answers."""
        while not self._ids and time.perf_counter() < self._end_s:
            await asyncio.sleep(0.01)
        self.begun_s = time.perf_counter()
        async with asyncio.TaskGroup() as polls:
            for number in range(round(rate * (self._end_s - self.begun_s))):
                due_s = self.begun_s + number / rate
                if (early_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(early_s)
                polls.create_task(self._poll(self._ids[number % len(self._ids)], due_s))

    async def _poll(self, id: str, due_s: float) -> None:
        self.late_ms.append(1000 * (time.perf_counter() - due_s))
        path = f"/api/v3/predictions/{id}/result"
        answer = await self._poller.ask("open_poll", "GET", path, since_s=due_s)
        if answer is not None:
            self.last_answer_s = answer.at_s
