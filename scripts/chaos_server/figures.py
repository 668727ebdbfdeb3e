"""The document of a run: what broke, what was found. Knows nothing of how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from chaos_server.client import WINDOW
from chaos_server.evidence import Evidence, Paint
from chaos_server.journal import Journal
from chaos_server.judge import judge, reasons
from chaos_server.plan import Fault
from chaos_server.recovery import recoveries
from chaos_server.run import CLIENTS
from chaos_server.stage import DEVICES, MOST_QUEUED, PAINT_S

#: Complaints of a kind that are quoted.
_MOST_QUOTED = 10


def describe(
    journal: Journal, evidence: Evidence, plan: Sequence[Fault], seed: int
) -> dict[str, Any]:
    """Figures of a run; `run` and `took` are the caller's to add.

    Args:
        journal: what was noted.
        evidence: what is there.
        plan: what should have been broken.
        seed: of the plan and the wishes.
    """
    complaints = judge(journal, evidence)
    return {
        "seed": seed,
        "setting": {
            "jobs": len(journal.jobs),
            "clients": CLIENTS,
            "jobs_at_a_time": CLIENTS * WINDOW,
            "most_queued": MOST_QUEUED,
            "workers": DEVICES,
            "paint_ms": round(1000 * PAINT_S),
        },
        "found": {kind: len(words) for kind, words in complaints.items()},
        "complaints": {kind: words[:_MOST_QUOTED] for kind, words in complaints.items() if words},
        "faults": dict(Counter(blow.kind for blow in journal.blows)),
        "start_failures": sum(blow.start_failures for blow in journal.blows),
        "jobs": _jobs(journal, evidence),
        "painted": _painted(journal, evidence),
        "failed": reasons(evidence),
        "answers": dict(journal.answers.most_common()),
        "recovery": recoveries(journal, evidence),
        "plan": [asdict(fault) for fault in plan],
    }


def _jobs(journal: Journal, evidence: Evidence) -> dict[str, int]:
    told = [len(documents) for documents in journal.told.values()]
    statuses = Counter(row["status"] for row in evidence.rows.values())
    return {
        "accepted": journal.accepted_count,
        "completed": statuses["completed"],
        "failed": statuses["failed"],
        "deleted": sum(job.is_deleted for job in journal.jobs),
        "cancelled": sum(job.is_cancelled for job in journal.jobs),
        "uploads": len(evidence.uploads),
        "repeated_submissions": sum(job.tries > 1 for job in journal.jobs),
        "begun_again": sum(row["attempts"] > 1 for row in evidence.rows.values()),
        "webhooks": len(told),
        "webhooks_that_came_again": sum(count > 1 for count in told),
    }


def _painted(journal: Journal, evidence: Evidence) -> dict[str, int]:
    """How often jobs were begun and painted whole: killed in between, one is begun again."""
    doing = Counter(
        _was_painting(evidence.paints, pid, blow.at) for blow in journal.blows for pid in blow.pids
    )
    begun = Counter(paint.seed for paint in evidence.paints if paint.word == "begin")
    whole = Counter(paint.seed for paint in evidence.paints if paint.word == "end")
    ends = sum(paint.word != "begin" for paint in evidence.paints)
    return {
        "begun": begun.total(),
        "broken_off_by_a_death": begun.total() - ends,
        "jobs_painted_whole_more_than_once": sum(count > 1 for count in whole.values()),
        "killed_while_painting": doing[True],
        "killed_before_or_after": doing[False],
    }


def _was_painting(paints: Sequence[Paint], pid: int, at: float) -> bool:
    """Whether a process had a painting on its way at a moment."""
    own = [paint for paint in paints if paint.pid == pid and paint.born_at < at]
    before = [paint.word for paint in own if paint.at <= at]
    return bool(before) and before[-1] == "begin"
