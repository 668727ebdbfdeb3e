"""What the server adds to a request, and single calls: one client, one request at a time.

Reading the control image is the engine's work, whichever door a request comes through. So the
added time is measured with one so small that reading it takes no time; a third kind has one as
clients send them, beside the time that reading it takes.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from depthflux.images import read_image
from soak_server.calls import SIDE, Calls
from soak_server.figures import quantiles
from soak_server.stage import PAINT_S, STEPS, CpuTime, Stage, flush_times_ms
from soak_server.tally import Tally
from soak_server.wire import Pool

#: Requests before those that count, for connections and caches; no more than count themselves.
_WARM_UP = 10

#: Sides of the control images, in pixels.
SMALL, LARGE = 64, 1024
SYNC_URL, SYNC_INLINE, SYNC_LARGE = "sync_url", "sync_inline", "sync_inline_large"
SINGLE_CALLS = ("livez", "poll", "submit_url", "submit_inline", "upload")


async def measure_overhead(on: Stage, count: int) -> dict[str, Any]:
    """All figures of this part.

    Args:
        on: the server.
        count: requests of each kind.
    """
    before = flush_times_ms(on.server.data_dir)
    tally = Tally()
    pool = Pool(on.server.address, most=1)
    small, large = Calls(pool, tally, side=SMALL), Calls(pool, tally, side=LARGE)
    await _ask_each(small, large, min(_WARM_UP, count))
    tally.seconds.clear()
    cpu = CpuTime(on)
    await _ask_each(small, large, count)
    cores = cpu.cores()
    pool.close()
    return {
        "setting": {
            "count": count,
            "paint_ms": 1000 * PAINT_S,
            "steps": STEPS,
            "size": f"{SIDE}*{SIDE}",
            "control_image": {"side": SMALL, "bytes": len(small.picture)},
            "large_control_image": {"side": LARGE, "bytes": len(large.picture)},
        },
        "flush_ms": before,
        "read_ms": {SYNC_INLINE: _reading_ms(small), SYNC_LARGE: _reading_ms(large)},
        "added_ms": {
            kind: quantiles([1000 * (s - PAINT_S) for s in tally.seconds[kind]])
            for kind in (SYNC_URL, SYNC_INLINE, SYNC_LARGE)
        },
        "calls_ms": tally.milliseconds(*SINGLE_CALLS),
        "cpu": cores,
        **tally.report(),
    }


async def _ask_each(small: Calls, large: Calls, count: int) -> None:
    """Every kind in turn, so that whatever else happens on the machine meets all of them."""
    for _ in range(count):
        await small.ask("livez", "GET", "/livez")
        address = await small.upload()
        if address is None:
            return
        for kind, image in ((SYNC_URL, address), (SYNC_INLINE, small.inline)):
            if (data := await _ask_in_sync_mode(small, kind, image)) is not None:
                await small.poll("poll", data["id"])
        await _ask_in_sync_mode(large, SYNC_LARGE, large.inline)
        for kind, image in (("submit_url", address), ("submit_inline", small.inline)):
            if (data := await small.submit(kind, image)) is not None:
                # Waited for, so that nothing is painted while the next one is timed.
                await small.end_of("wait", data["id"])


async def _ask_in_sync_mode(calls: Calls, kind: str, image: str) -> dict[str, Any] | None:
    return calls.require(kind, await calls.submit(kind, image, enable_sync_mode=True))


def _reading_ms(calls: Calls) -> float:
    """Decoding the control image and averaging it, which the stand-in does beside its 50 ms."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        read_image(calls.picture).rgb.mean()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 3)
