"""Whether memory stays flat: server and worker watched while a mix of everything is asked.

What flat means is fixed here, before anything is measured. A process is flat if, over the last two
thirds of the time, its resident memory's slope is surely (upper end of the 95 % interval) less than
1 MB in ten minutes, and if it is at its end less than 5 % larger than after the warm-up.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

from soak_server.calls import SIDE, Calls
from soak_server.figures import slope_with_interval
from soak_server.mixed import Mixed
from soak_server.processes import Usage, folder_bytes, usage
from soak_server.receiver import Receiver
from soak_server.stage import PAINT_S, CpuTime, Stage
from soak_server.tally import Tally
from soak_server.wire import Pool

MOST_SLOPE_MB_PER_10_MINUTES = 1.0
MOST_GROWTH_PERCENT = 5.0
#: Caches and pools fill meanwhile; in a shorter run a sixth of it.
WARM_UP_MINUTES = 5.0
#: How often it is looked, in seconds; in a shorter run so often that there are 36 looks.
_EVERY_S, _FEWEST_LOOKS = 5.0, 36
#: Looks that belong together for the interval, and that an end of the growth is the median of.
_BLOCK = 12
#: Rows of the table over time.
_ROWS = 12


async def measure_memory(on: Stage, minutes: float) -> dict[str, Any]:
    """All figures of this part.

    Args:
        on: the server.
        minutes: how long.
    """
    tally = Tally()
    pool = Pool(on.server.address, most=64)
    watching = asyncio.create_task(_watch(on, min(_EVERY_S, 60 * minutes / _FEWEST_LOOKS)))
    cpu = CpuTime(on)
    async with Receiver() as receiver:
        mixed = Mixed(Calls(pool, tally), receiver)
        await mixed.run(60 * minutes)
        cores = cpu.cores()
    watching.cancel()
    pool.close()
    looks = await watching
    times = [look["minute"] for look in looks]
    processes = {
        name: judge(times, [look[f"{name}_mb"] for look in looks]) for name in ("server", "worker")
    }
    return {
        "setting": _setting(minutes) | {"looks_count": len(looks)},
        "processes": processes,
        "looks": _thin(looks),
        "done_count": dict(sorted(tally.done.items())),
        "left_out_count": mixed.left_out,
        "calls_ms": tally.milliseconds(),
        "cpu": cores,
        **tally.report(),
    }


def _setting(minutes: float) -> dict[str, Any]:
    return {
        "minutes": minutes,
        "paint_ms": 1000 * PAINT_S,
        "size": f"{SIDE}*{SIDE}",
        "warm_up_minutes": round(_warm_up(minutes), 3),
        "most_slope_mb_per_10_minutes": MOST_SLOPE_MB_PER_10_MINUTES,
        "most_growth_percent": MOST_GROWTH_PERCENT,
    }


def judge(minutes: Sequence[float], megabytes: Sequence[float]) -> dict[str, Any]:
    """Slope and growth of a process's resident memory, and whether they are flat.

    Args:
        minutes: when it was looked, rising.
        megabytes: what was seen.
    """
    last = minutes[-1]
    late = [index for index, minute in enumerate(minutes) if minute >= last / 3]
    slope, low, high = slope_with_interval(
        [minutes[i] for i in late], [megabytes[i] for i in late], block=_BLOCK
    )
    first = next(index for index, minute in enumerate(minutes) if minute >= _warm_up(last))
    ends = min(_BLOCK, (len(minutes) - first) // 2 or 1)
    before = statistics.median(megabytes[first : first + ends])
    after = statistics.median(megabytes[-ends:])
    growth_percent = 100 * (after - before) / before
    return {
        "slope_mb_per_10_minutes": round(10 * slope, 3),
        "slope_interval_mb_per_10_minutes": [round(10 * low, 3), round(10 * high, 3)],
        "after_warm_up_mb": round(before, 2),
        "at_the_end_mb": round(after, 2),
        "growth_mb": round(after - before, 2),
        "growth_percent": round(growth_percent, 2),
        "most_mb": round(max(megabytes), 2),
        "flat": 10 * high < MOST_SLOPE_MB_PER_10_MINUTES and growth_percent < MOST_GROWTH_PERCENT,
    }


def _warm_up(minutes: float) -> float:
    return min(WARM_UP_MINUTES, minutes / 6)


async def _watch(on: Stage, every_s: float) -> list[dict[str, float]]:
    """Look at both processes and the folder until cancelled."""
    began_s = time.perf_counter()
    looks = []
    try:
        while True:
            looks.append(await asyncio.to_thread(_look, on, began_s))
            await asyncio.sleep(every_s)
    except asyncio.CancelledError:
        return looks


def _look(on: Stage, began_s: float) -> dict[str, float]:
    look = {"minute": round((time.perf_counter() - began_s) / 60, 4)}
    for name, pid in (("server", on.server.pid), ("worker", on.worker)):
        look |= _named(name, usage(pid))
    return look | {"folder_mb": round(folder_bytes(on.server.data_dir) / 1e6, 2)}


def _named(name: str, found: Usage) -> dict[str, float]:
    return {
        f"{name}_mb": round(found.resident_mb, 3),
        f"{name}_own_mb": round(found.own_mb, 3),
        f"{name}_files": found.files,
        f"{name}_threads": found.threads,
    }


def _thin(looks: list[dict[str, float]]) -> list[dict[str, float]]:
    """A few of them at equal distances, the first and the last included."""
    last = len(looks) - 1
    chosen = sorted({round(last * row / _ROWS) for row in range(_ROWS + 1)})
    return [looks[index] for index in chosen]
