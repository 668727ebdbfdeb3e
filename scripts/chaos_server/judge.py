"""What must not be after a run: each such thing is one complaint, in words.

Holds what the clients were told against what is there. Changes nothing, and knows nothing of how
it came about.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from chaos_server.evidence import Evidence, Paint, PictureFile
from chaos_server.journal import OVER, Job, Journal
from chaos_server.wishes import Wish

#: What a run promises to find none of → in words.
KINDS = {
    "lost": "accepted, not deleted by its client, and not there or not ended",
    "accepted_twice": "two predictions under one Idempotency-Key, or one that nobody asked for",
    "ended_twice": "a prediction that ended more than once, or was another one after its end",
    "painted_twice_at_a_time": "a prediction that two workers painted at the same time",
    "went_back": "a status that went back",
    "half_written": "a file that is not whole, or is missing, or that nothing names",
    "wrong_picture": "a picture of another size or grey than its own control image's",
    "no_reason": "a failure without a documented code and a reason",
    "wrong_end": "an end that its prompt does not explain",
    "not_told": "a webhook that never came, or much too late",
    "surprises": "an answer that is not documented, such as 500, or a broken task in the log",
    "store": "a store that SQLite finds damaged",
}

#: Codes of tasks that docs/http-api.md names.
_CODES = (1200, 1401, 1402, 1403, 1405, 5000, 5003)
#: What a kind of prompt may fail with → the reason's words.
_OWN_REASONS = {
    "memory": (1403, r"memory ran out"),
    "bug": (5000, r"Something went wrong inside; the server's log names error [0-9a-f]{8}\."),
}
_CANCELLED = (1405, r"The prediction was cancelled by its owner\.")
_DIED = (1405, r"The worker ended unexpectedly in each of (\d+) attempts\.")
_FULL = (5003, r"a picture cannot be written just now: ")
_RANK = {"created": 0, "processing": 1, "completed": 2, "failed": 2}
#: What JPEG and WebP may change of a plain grey.
_GREY_TOLERANCE = 3
#: What an end consists of; `model` may be learnt by the server after it.
_END = ("status", "outputs", "error", "code", "has_nsfw_contents", "timings")

Complaint = tuple[str, str]


def judge(journal: Journal, evidence: Evidence) -> dict[str, list[str]]:
    """All complaints, by kind; every kind is there, with none where there are none."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for complaints in (
        _lost(journal, evidence),
        _accepted_twice(journal, evidence),
        _ended_twice(journal, evidence),
        _painted_twice(journal, evidence.paints),
        _went_back(journal),
        _half_written(evidence),
        _wrong_pictures(journal, evidence),
        _reasons(journal, evidence),
        _not_told(journal, evidence),
        _surprises(journal, evidence),
    ):
        for kind, words in complaints:
            found[kind].append(words)
    return found


def reasons(evidence: Evidence) -> dict[str, int]:
    """How many failed why; what differs each time is left out."""
    words = Counter(
        f"{row['code']}: {re.sub('[0-9a-f]{8}', 'WORD', row['error'])}"
        for row in evidence.rows.values()
        if row["status"] == "failed"
    )
    return dict(words.most_common())


def _lost(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    for job in journal.jobs:
        name = _name(job)
        if not job.id:
            yield "lost", f"{name} was never answered"
        elif job.is_deleted:
            if job.id in evidence.rows:
                yield "lost", f"{name} was deleted and is still there"
        elif "gone" in job.statuses:
            yield "lost", f"{name} was accepted, and then answered 404"
        elif job.id not in evidence.rows or job.id not in evidence.documents:
            yield "lost", f"{name} was accepted and is not there"
        elif evidence.rows[job.id]["status"] not in OVER:
            yield "lost", f"{name} has not ended: {evidence.rows[job.id]['status']}"


def _accepted_twice(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    asked = {job.wish.seed: job for job in journal.jobs}
    for id, row in evidence.rows.items():
        job = asked.get(json.loads(row["request"])["seed"])
        if job is None:
            yield "accepted_twice", f"prediction {id} was asked for by nobody"
        elif job.id != id:
            yield "accepted_twice", f"{_name(job)} has another prediction {id}"


def _ended_twice(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    ends = Counter(end["id"] for end in evidence.ends)
    for id, count in ends.items():
        if count > 1:
            yield "ended_twice", f"prediction {id} ended {count} times"
    for job in journal.jobs:
        row, document = evidence.rows.get(job.id), evidence.documents.get(job.id)
        if row is None or document is None:
            continue
        if row["status"] in OVER and ends[job.id] == 0:
            yield "ended_twice", f"{_name(job)} has ended without the store's having written so"
        shown = [job.ended] if job.ended else []
        for other in (*shown, *journal.told.get(job.id, ())):
            if changed := [field for field in _END if other.get(field) != document.get(field)]:
                yield "ended_twice", f"{_name(job)} changed after its end: {', '.join(changed)}"
        digests = [_digest(evidence, name) for name in json.loads(row["outputs"])]
        if job.digests and job.digests != digests:
            yield "ended_twice", f"{_name(job)} has other pictures than it had at its end"


def _digest(evidence: Evidence, name: str) -> str:
    file = evidence.output_files.get(name)
    return file.sha256 if file else ""


def _painted_twice(journal: Journal, paints: list[Paint]) -> Iterator[Complaint]:
    """Paintings of one job that overlap for certain.

    One that has no end was going on for certain until its process's last sign of life: its last
    line, or the moment before it was killed.
    """
    last = {paint.process: paint.at for paint in paints}
    for blow in journal.blows:
        for pid, born_at in list(last):
            if pid in blow.pids and born_at < blow.at:
                last[pid, born_at] = max(last[pid, born_at], blow.at)
    by_seed: dict[int, list[Paint]] = defaultdict(list)
    for paint in paints:
        by_seed[paint.seed].append(paint)
    for seed, own in by_seed.items():
        until = 0.0
        for index, paint in enumerate(own):
            if paint.word != "begin":
                continue
            if paint.at < until:
                yield "painted_twice_at_a_time", f"seed {seed} by process {paint.pid} and another"
            until = max(until, _end_of(own[index + 1 :], paint, last[paint.process]))


def _end_of(later: list[Paint], begin: Paint, last: float) -> float:
    own = (paint.at for paint in later if paint.process == begin.process)
    return next(own, last)


def _went_back(journal: Journal) -> Iterator[Complaint]:
    for job in journal.jobs:
        ranks = [_RANK[status] for status in job.statuses if status in _RANK]
        ends = {status for status in job.statuses if status in OVER}
        if ranks != sorted(ranks) or len(ends) > 1:
            yield "went_back", f"{_name(job)}: {', '.join(job.statuses)}"


def _half_written(evidence: Evidence) -> Iterator[Complaint]:
    for name in evidence.partial_files:
        yield "half_written", f"{name} was begun and left"
    rows = evidence.rows.values()
    named = {name for row in rows for name in json.loads(row["outputs"])}
    for folder, files, names in (
        ("outputs", evidence.output_files, named),
        ("uploads", evidence.upload_files, set(evidence.uploads)),
    ):
        for name in sorted(names - set(files)):
            yield "half_written", f"{folder}/{name} is missing"
        for name in sorted(set(files) - names):
            yield "half_written", f"{folder}/{name} is named by nothing"
        for name, file in files.items():
            if file.problem:
                yield "half_written", f"{folder}/{name} cannot be read: {file.problem}"
    for name, row in evidence.uploads.items():
        found = evidence.upload_files.get(name)
        if found is not None and found.sha256 != row["sha256"]:
            yield "half_written", f"uploads/{name} has other bytes than were taken"


def _wrong_pictures(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    for job in journal.jobs:
        row = evidence.rows.get(job.id)
        if row is None or row["status"] != "completed":
            continue
        names = json.loads(row["outputs"])
        if len(names) != job.wish.pictures:
            yield "wrong_picture", f"{_name(job)} has {len(names)} pictures"
        for name in names:
            file = evidence.output_files.get(name)
            if file is not None and not file.problem and not _is_of(file, job.wish):
                yield "wrong_picture", f"{_name(job)}: {name} is {file.size} in {file.greys}"


def _is_of(file: PictureFile, wish: Wish) -> bool:
    low, high = wish.grey - _GREY_TOLERANCE, wish.grey + _GREY_TOLERANCE
    in_range = low <= file.greys[0] and file.greys[1] <= high
    return file.size == (wish.width, wish.height) and in_range


def _reasons(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    for job in journal.jobs:
        row = evidence.rows.get(job.id)
        if row is None:
            continue
        own = _OWN_REASONS.get(job.wish.kind)
        if row["status"] == "failed":
            if row["code"] not in _CODES or not row["error"].strip():
                yield "no_reason", f"{_name(job)}: code {row['code']}, {row['error']!r}"
            elif not _explains(row, job, own):
                yield "wrong_end", f"{_name(job)} failed: {row['error']}"
        elif row["status"] == "completed" and own is not None:
            yield "wrong_end", f"{_name(job)} was completed, which no such prompt can be"


def _explains(row: dict[str, Any], job: Job, own: tuple[int, str] | None) -> bool:
    """Whether a failure's reason is one that this job can have."""
    possible = [_DIED, _FULL]
    if own is not None:
        possible.append(own)
    if job.is_cancelled:
        possible.append(_CANCELLED)
    for code, words in possible:
        found = re.match(words, row["error"])
        if row["code"] == code and found:
            return not found.groups() or int(found[1]) == row["attempts"]
    return False


def _not_told(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    for job in journal.jobs:
        if not job.wish.has_webhook or job.is_deleted or not job.id:
            continue
        if job.id in journal.late:
            yield "not_told", f"{_name(job)}: its webhook did not come in time"
        elif job.id not in journal.told:
            state = evidence.letters.get(job.id, "not even in the outbox")
            yield "not_told", f"{_name(job)}: its webhook is {state}"


def _surprises(journal: Journal, evidence: Evidence) -> Iterator[Complaint]:
    for words in (*journal.surprises, *evidence.log_surprises):
        yield "surprises", words
    if evidence.integrity != "ok":
        yield "store", evidence.integrity


def _name(job: Job) -> str:
    return f"job {job.wish.number} ({job.wish.kind}, {job.id or 'no id'})"
