"""A whole run: a server, its clients, its faults, until everything has ended.

Knows nothing of what must come out of it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from chaos_server.client import Client, Setting
from chaos_server.evidence import Evidence, gather, nameless_files
from chaos_server.faults import Faults
from chaos_server.journal import Job, Journal
from chaos_server.plan import Amounts, Fault
from chaos_server.receiver import Receiver
from chaos_server.stage import Stage, file_system_of, keep_copy, stage
from chaos_server.wishes import Wish

CLIENTS = 6
#: When for so long nothing was accepted and nothing has ended, nothing will.
STALL_S = 120.0
#: How long webhooks are waited for after everything has ended, in seconds: two pauses and some.
_TOLD_S = 90.0
#: How long a started server may need to sweep away what was left over, in seconds.
_SWEPT_S = 20.0
#: Beyond the age from which on the server sweeps what nothing names.
_SWEEP_AHEAD_S = 2 * 3600.0
#: How often is said how far it is, in seconds.
_SAY_S = 15.0
_PAGE = 100
#: How the journal, and what the server has shown last, are called where they are kept.
JOURNAL, DOCUMENTS = "journal.json", "documents.json"


class Turns(Iterator[Job]):
    """The jobs, each given to one client."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs, self._lock = iter(jobs), threading.Lock()

    def __next__(self) -> Job:
        with self._lock:
            return next(self._jobs)


def run(
    wishes: list[Wish],
    plan: Sequence[Fault],
    amounts: Amounts,
    *,
    folder: Path | None,
    keep: Path | None,
) -> tuple[Journal, Evidence, dict[str, Any]]:
    """Run it: what was noted, what is there afterwards, and how long it took.

    Args:
        wishes: the jobs.
        plan: the faults.
        amounts: what the plan was made for.
        folder: where the server's folder is made; None for the system's temporary one.
        keep: where the server's data and the journal are copied to; None for nowhere.

    Raises:
        ChaosError: this machine lacks something, or the server could not be started again.
    """
    journal = Journal(wishes)
    with stage(folder, len(wishes), full_disk=amounts.disk_s > 0, clock=amounts.has_clock) as on:
        begun_at, file_system = time.monotonic(), file_system_of(on)
        with Receiver(journal) as receiver:
            _ask(on, journal, plan, receiver.url)
            asked_s = time.monotonic() - begun_at
            _wait_for_webhooks(journal)
            documents = _list_all(on)
            _stop(on, journal)
            _sweep(on)
            _stop(on, journal)
            for command in on.survivors():
                journal.note_surprise(f"a process has outlived its server: {command}")
        evidence = gather(on.server.data_dir, on.paints, on.server.log, documents)
        if keep is not None:
            keep_copy(on, keep)
            journal.save(keep / JOURNAL)
            (keep / DOCUMENTS).write_text(json.dumps(documents), encoding="utf-8")
        took = {
            "jobs_seconds": round(asked_s, 1),
            "whole_seconds": round(time.monotonic() - begun_at, 1),
            "file_system": file_system,
        }
    return journal, evidence, took


def _ask(on: Stage, journal: Journal, plan: Sequence[Fault], webhook_url: str) -> None:
    """Let the clients work while the faults come, until all jobs have ended or nothing moves."""
    stop = threading.Event()

    def is_over() -> bool:
        return stop.is_set() or time.monotonic() - journal.moved_at > STALL_S

    setting = Setting(
        address=on.server.address,
        webhook_url=webhook_url,
        once_folder=str(on.once_folder),
        is_over=is_over,
    )
    turns = Turns(journal.jobs)
    clients = [Client(number, journal, turns, setting) for number in range(CLIENTS)]
    faults = Faults(plan, on, journal, is_over)
    for thread in (*clients, faults):
        thread.start()
    try:
        _wait(clients, faults, journal, is_over)
    finally:
        stop.set()
    threads: list[Client | Faults] = [*clients, faults]
    for thread in threads:
        thread.join()
        if thread.error is not None:
            raise thread.error


def _wait(
    clients: Sequence[Client], faults: Faults, journal: Journal, is_over: Callable[[], bool]
) -> None:
    said_at = time.monotonic()
    while any(client.is_alive() for client in clients) or faults.is_alive():
        if faults.error is not None or is_over():
            return
        if time.monotonic() - said_at > _SAY_S:
            said_at = time.monotonic()
            _say(f"{journal.accepted_count} accepted, {len(journal.blows)} faults")
        time.sleep(0.05)


def _wait_for_webhooks(journal: Journal) -> None:
    ends_at = time.monotonic() + _TOLD_S
    wanted = [
        job.id for job in journal.jobs if job.wish.has_webhook and job.id and not job.is_deleted
    ]
    while time.monotonic() < ends_at and any(id not in journal.told for id in wanted):
        time.sleep(0.1)
    journal.late = [id for id in wanted if id not in journal.told]


def _list_all(on: Stage) -> list[dict[str, Any]]:
    """Every prediction as the server shows it."""
    documents: list[dict[str, Any]] = []
    with httpx.Client(base_url=on.server.address, timeout=60) as client:
        while True:
            page = len(documents) // _PAGE + 1
            query = {"page": page, "page_size": _PAGE}
            answer = client.get("/api/v3/predictions", params=query).raise_for_status()
            items = answer.json()["data"]["items"]
            documents += items
            if len(items) < _PAGE:
                return documents


def _stop(on: Stage, journal: Journal) -> None:
    if code := on.server.stop():
        journal.note_surprise(f"the server was told to end, and ended with {code}")


def _sweep(on: Stage) -> None:
    """Start it once more, two hours later by its clock: it sweeps away what nothing names."""
    if on.clock is not None:
        on.clock.jump(_SWEEP_AHEAD_S)
    else:
        _make_pictures_old(on.server.data_dir)
    on.start_again()
    ends_at = time.monotonic() + _SWEPT_S
    while time.monotonic() < ends_at and nameless_files(on.server.data_dir):
        time.sleep(0.1)


def _make_pictures_old(data_dir: Path) -> None:
    """As if the clock had jumped, to whom asks for a file's age."""
    then = time.time() - _SWEEP_AHEAD_S
    for folder in ("outputs", "uploads"):
        for path in (data_dir / folder).iterdir():
            os.utime(path, (then, then), follow_symlinks=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
