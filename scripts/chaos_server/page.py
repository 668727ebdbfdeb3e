"""docs/benchmarks/chaos.md, from chaos.json; only words and tables, nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from chaos_server.judge import KINDS
from fidelity_report.markdown import listed, prose, table

_RECOVERIES = {
    "worker_killed_until_its_successor_paints": "worker killed, until its successor paints",
    "server_killed_until_accepted": "server killed, until a new submission is accepted",
    "server_killed_until_painted": "server killed, until a picture is painted",
}
_FAULTS = {
    "kill worker": "a worker is killed (SIGKILL)",
    "kill server": "the server is killed (SIGKILL), and started again",
    "full disk": "the disk is full",
    "lock": "the store is locked",
    "clock": "the clock jumps",
}
_JOBS = {
    "accepted": "accepted",
    "completed": "completed",
    "failed": "failed",
    "deleted": "deleted by their clients",
    "cancelled": "cancelled by their clients, some too late",
    "uploads": "control images in the store, inline and uploaded",
    "repeated_submissions": "submitted more than once until they were answered",
    "begun_again": "begun more than once, since a worker died",
    "webhooks": "ends that were told",
    "webhooks_that_came_again": "of them more than once, since their receiver or the server failed",
}


def render(document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        document: chaos.json.
    """
    sections = (_head, _found, _faults, _jobs, _failed, _recovery, _answers)
    return "".join(write(document) for write in sections).rstrip() + "\n"


def _head(document: Mapping[str, Any]) -> str:
    run, setting, took = document["run"], document["setting"], document["took"]
    host = run["host"]
    libraries = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (
        "# Chaos\n\n"
        + prose(
            "Whether `depthflux serve` loses anything while what it stands on breaks. Server, "
            f"store and workers are the real ones; the engine is `scripts/stand_in`'s, which takes "
            f"{setting['paint_ms']} ms. {setting['clients']} clients have up to "
            f"{setting['jobs_at_a_time']} jobs on their way, each submitted under an "
            "Idempotency-Key again and again until it is answered; the server has room for "
            f"{setting['most_queued']} that wait and {setting['workers']} workers. This page is "
            "written by `scripts/chaos` from [chaos.json](chaos.json), which has the plan of all "
            "faults, too."
        )
        + prose(
            f"Run {run['date']} at commit {run['commit']} with `{run['command']}`, seed "
            f"{document['seed']}: {setting['jobs']} jobs in {took['jobs_seconds']:.0f} s, "
            f"{host['processors']} cores of {host['cpu']} ({host['machine']}), load average "
            f"{host['load_average_before']} before, data on {took['file_system']}, Python "
            f"{run['python']}, {libraries}."
        )
    )


def _found(document: Mapping[str, Any]) -> str:
    found = document["found"]
    text = "## What was found\n\n" + table(
        ("what must not be", "found"),
        ((words, _count(found[kind])) for kind, words in KINDS.items()),
    )
    if document["complaints"]:
        text += listed(words for several in document["complaints"].values() for words in several)
    return text


def _faults(document: Mapping[str, Any]) -> str:
    made = document["faults"]
    planned = Counter(fault["kind"] for fault in document["plan"])
    seconds = {
        kind: [fault["seconds"] for fault in document["plan"] if fault["kind"] == kind]
        for kind in _FAULTS
    }
    rows = [
        (words, f"{made.get(kind, 0)} of {planned[kind]}", _amounts(kind, seconds[kind]))
        for kind, words in _FAULTS.items()
    ]
    failures = document["start_failures"]
    left_out = [words for kind, words in _FAULTS.items() if not planned[kind]]
    return (
        "## What was broken\n\n"
        + table(("fault", "times", "how"), rows)
        + prose(
            "Each comes after a number of accepted jobs that the seed says. One worker was killed "
            "while the disk was full and the server once while the store was locked, where those "
            f"are in the table. Started again, the server did not come up at once {failures} "
            "times, and was started once more, as a service manager does. The clock is the "
            "server's and its workers' own: what they preload adds the jump to the real time, to "
            "times of files as well. At the end it jumps two hours ahead, so that what nothing "
            "names is old enough to be swept away."
            + (f" **Left out:** {'; '.join(left_out)}." if left_out else "")
        )
    )


def _amounts(kind: str, seconds: list[float]) -> str:
    if kind == "clock":
        return ", ".join(f"{one / 3600:+g} h" for one in seconds) or "-"
    return ", ".join(f"{one:g} s" for one in seconds if one) or "-"


def _jobs(document: Mapping[str, Any]) -> str:
    jobs, painted = document["jobs"], document["painted"]
    return (
        "## Jobs\n\n"
        + table(("jobs", "number"), ((words, str(jobs[name])) for name, words in _JOBS.items()))
        + prose(
            f"Painting was begun {painted['begun']} times and broken off by a death "
            f"{painted['broken_off_by_a_death']} times. Of the workers that were killed, or died "
            f"with their server, {painted['killed_while_painting']} were painting, "
            f"{painted['killed_before_or_after']} took up, read, wrote, ended or waited. "
            f"{painted['jobs_painted_whole_more_than_once']} jobs were painted whole more than "
            "once, one time after the other: their workers died between the last step and the end "
            "in the store. None of that is seen from outside; an end is written once."
        )
    )


def _failed(document: Mapping[str, Any]) -> str:
    rows = ((words, str(count)) for words, count in document["failed"].items())
    return (
        "## Why jobs failed\n\n"
        + table(("code and reason", "jobs"), rows)
        + prose(
            "Some prompts are told to fail: of each hundred jobs, two run out of memory and two "
            "meet an error that nobody meant. Others end their worker or break its device the "
            "first time, and must be completed all the same."
        )
    )


def _recovery(document: Mapping[str, Any]) -> str:
    rows = (
        (words, str(one["count"]), _seconds(one["median_s"]), _seconds(one["max_s"]))
        for name, words in _RECOVERIES.items()
        for one in [document["recovery"][name]]
    )
    return "## How soon it goes on\n\n" + table(("after", "kills", "median s", "max s"), rows)


def _answers(document: Mapping[str, Any]) -> str:
    answers = document["answers"]
    rows = ((answer, str(count)) for answer, count in answers.items())
    return (
        "## What was answered\n\n"
        + table(("answer", "calls"), rows)
        + prose(
            "429 where the queue is full, 503 while the disk is full or the store is locked, both "
            "with Retry-After; no answer while the server is down. 404 is to a deletion that is "
            "repeated, since the first answer was lost."
        )
    )


def _count(count: int) -> str:
    return "0" if count == 0 else f"**{count}**"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"
