"""How long it took to go on after a kill, by what was noted. Knows nothing of making kills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from chaos_server.evidence import Evidence, Paint
from chaos_server.journal import Journal


def recoveries(journal: Journal, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Seconds from kills until something went on: count, median and most of each.

    After a worker's death: until a worker that had not painted before begins. After the server's:
    until a submission that was sent later is accepted, and until such a worker has painted.
    """
    accepted = sorted((job.asked_at, job.accepted_at) for job in journal.jobs if job.id)
    arrivals = _first_of(evidence.paints, "begin")
    painted = _first_of(evidence.paints, "end")
    workers = [blow.at for blow in journal.blows if blow.kind == "kill worker"]
    servers = [blow.at for blow in journal.blows if blow.kind == "kill server"]
    return {
        "worker_killed_until_its_successor_paints": _spread(_waits(workers, arrivals)),
        "server_killed_until_accepted": _spread(_waits(servers, accepted)),
        "server_killed_until_painted": _spread(_waits(servers, painted)),
    }


def _first_of(paints: Sequence[Paint], word: str) -> list[tuple[float, float]]:
    """When each process was begun and when it first said this."""
    first: dict[tuple[int, float], tuple[float, float]] = {}
    for paint in paints:
        if paint.word == word:
            first.setdefault(paint.process, (paint.born_at, paint.at))
    return list(first.values())


def _waits(kills: Iterable[float], goings_on: Sequence[tuple[float, float]]) -> list[float]:
    """From each kill to the earliest end of what was begun after it."""
    waits = []
    for at in kills:
        ends = [end for begun, end in goings_on if begun > at]
        if ends:
            waits.append(min(ends) - at)
    return waits


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    if not seconds:
        return {"count": 0, "median_s": None, "max_s": None}
    return {
        "count": len(seconds),
        "median_s": round(median(seconds), 2),
        "max_s": round(max(seconds), 2),
    }
