"""Thousands of broken requests: each is refused or taken in the server's own form, nothing leaks.

A seeded generator damages pictures, data URIs, JSON, multipart forms and HTTP itself. The first
part of the requests warms the server up; then the rest must leave its memory, its open files and
its processes as they are.

DEPTHFLUX_FUZZ multiplies the number of requests; DEPTHFLUX_FUZZ_SEED draws others.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from broken_requests import damaged, form_body, garbage, json_body

from depthflux.server.worker import TAKERS
from stand_in.running import SUBMIT, StandInServer

SEED = int(os.environ.get("DEPTHFLUX_FUZZ_SEED", "20261130"))
FACTOR = float(os.environ.get("DEPTHFLUX_FUZZ", "1"))
#: Requests of each kind; the first third of them are the warm-up.
COUNT = round(700 * FACTOR)
RAW_COUNT = round(200 * FACTOR)
#: No request has more to do than to read some kilobytes; a machine that is busy takes longer.
MOST_SECONDS = 10.0
#: What a process' memory may grow by after the warm-up, in MiB. A worker begins with 67 and comes
#: to 79, once, when it first meets what is rare, such as an address to fetch from; that may be late
#: in this run. Measured: 1 for the server, at most 8 for the worker; in one 13 times as long 1.3
#: and 0.2 (docs/experiments.md). So 10 KiB a request that are never given back are found here, and
#: 1 KiB in the long run.
MOST_GROWTH_MIB = 16.0
#: What a decoder's memory may come to, in MiB. It is replaced after some hundred pictures, so what
#: it grows by says little. Measured: 52.
MOST_DECODER_MIB = 80.0
#: One for each picture that a worker reads at a time, and one that is idle.
MOST_DECODERS = TAKERS + 1
#: Its pipes, and nowhere for what is printed.
DECODER_FILES = 4
#: Files that the pools of connections and threads may still open after the warm-up.
MOST_NEW_FILES = 8
UPLOAD = "/api/v3/media/upload/binary"


@dataclass
class Corpus:
    """Sends requests, and judges every answer.

    Attributes:
        server: who gets them.
        chance: what draws them.
        statuses: answers, by kind and HTTP status.
        accepted: ids of predictions that were taken.
        tickets: where bytes were promised.
        longest_s: the longest time that a request took.
    """

    server: StandInServer
    chance: random.Random
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    tickets: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    def send_json(self) -> None:
        kind = self.chance.choice(["application/json"] * 9 + ["text/plain", ""])
        self._post("json", SUBMIT, json_body(self.chance), kind)

    def send_form(self) -> None:
        kind, body = form_body(self.chance)
        self._post("form", UPLOAD, body, kind)

    def send_bytes(self) -> None:
        """A ticket, then bytes for it: often as many as it has promised, and damaged."""
        data = damaged(self.chance)
        size = max(len(data) + self.chance.choice([0, 0, 0, 1]), 1)
        answer = self.server.client.post(
            "/api/v3/media/uploads", json={"filename": "a.png", "size": size}
        )
        # Damaged bytes leave their tickets open, and there may not be too many open ones; then an
        # older one gets them, that has promised another size.
        if answer.status_code != 429:
            self.tickets.append(urlsplit(answer.json()["data"]["upload"]["url"]).path)
        ticket = self.tickets[-1] if answer.is_success else self.chance.choice(self.tickets)
        self._send("bytes", "PUT", ticket, data, "image/png")

    def _post(self, name: str, path: str, body: bytes, kind: str) -> None:
        self._send(name, "POST", path, body, kind)

    def _send(self, name: str, method: str, path: str, body: bytes, kind: str) -> None:
        begun = time.monotonic()
        answer = self.server.client.request(
            method, path, content=body, headers={"Content-Type": kind.encode("latin-1")}
        )
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
        self.judge(name, answer.status_code, answer.content, (kind, body[:2000]))

    def judge(self, name: str, status: int, content: bytes, sent: object) -> None:
        """An answer is ours, and it is no surprise."""
        self.statuses[name, status] += 1
        assert status < 500, (status, content, sent)
        if name == "bytes" and status == 200:
            return
        document = json.loads(content)
        assert document["code"] == status, (document, sent)
        if status == 200:
            if name == "json":
                self.accepted.append(document["data"]["id"])
            return
        assert document["message"] == document["error"]
        assert document["message"].isprintable(), (document, sent)
        assert len(document["message"]) < 3000, (document, sent)

    def send_raw(self) -> None:
        """Bytes that are hardly HTTP; an answer, if there is one, is ours, or the parser's 400."""
        address = urlsplit(self.server.address)
        with socket.create_connection(
            (address.hostname, address.port), timeout=MOST_SECONDS
        ) as line:
            begun = time.monotonic()
            try:
                line.sendall(garbage(self.chance))
                line.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda: line.recv(65_536), b""))
            except ConnectionError:
                got = b""
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
        if got:
            status = int(got.split(b" ", 2)[1])
            self.statuses["raw", status] += 1
            assert status < 500, got


@dataclass(frozen=True)
class State:
    """The server's processes at a moment: memory in MiB, open files, by process.

    Decoders, which meet the hostile bytes, stand apart: they come and go.
    """

    memory: dict[int, float]
    files: dict[int, int]
    decoders: dict[int, float]
    decoders_files: dict[int, int]

    @classmethod
    def of(cls, server: StandInServer) -> State:
        """Look."""
        pids = [server.pid, *server.worker_pids()]
        decoders = [pid for worker in server.worker_pids() for pid in _children(worker)]
        return cls(
            {pid: _resident_mib(pid) for pid in pids},
            {pid: _open_files(pid) for pid in pids},
            {pid: _resident_mib(pid) for pid in decoders},
            {pid: _open_files(pid) for pid in decoders},
        )


def _children(pid: int) -> list[int]:
    """What any thread of a process has started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in _words(thread / "children")]


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Corpus, State, State]]:
    """All requests sent: the corpus, and the server after the warm-up and at the end."""
    folder = tmp_path_factory.mktemp("fuzz") / "data"
    with StandInServer(
        folder, stand_in={"seconds": 0.005}, key_requests_per_minute=0, max_queued=100_000
    ) as server:
        corpus = Corpus(server, random.Random(SEED))
        kinds = [corpus.send_json, corpus.send_form, corpus.send_bytes] * COUNT
        kinds += [corpus.send_raw] * RAW_COUNT
        corpus.chance.shuffle(kinds)
        third = len(kinds) // 3
        for send in kinds[:third]:
            send()
        _settle(corpus)
        before = State.of(server)
        for send in kinds[third:]:
            send()
        _settle(corpus)
        yield corpus, before, State.of(server)


def _settle(corpus: Corpus) -> None:
    """Until nothing waits or runs: that is no leak, and its decoders come and go."""
    client = corpus.server.client
    corpus.server.until(lambda: client.get("/readyz").json()["queued"] == 0 or None, timeout_s=120)
    for id in corpus.accepted[-2 * TAKERS :]:
        corpus.server.wait(id, timeout_s=60)


def test_every_broken_request_is_answered_in_our_form_and_soon(
    fuzzed: tuple[Corpus, State, State],
) -> None:
    """What each answer must be is asserted when it comes, in `Corpus.judge`."""
    corpus, _, _ = fuzzed

    by_kind = Counter[str]()
    for (name, status), count in corpus.statuses.items():
        by_kind[f"{name} {'taken' if status == 200 else 'refused'}"] += count
    assert min(by_kind[f"{name} taken"] for name in ("json", "form", "bytes")) >= 10, by_kind
    assert min(by_kind[f"{name} refused"] for name in ("json", "form", "bytes", "raw")) >= 10
    assert corpus.longest_s < MOST_SECONDS


def test_every_accepted_prediction_ends(fuzzed: tuple[Corpus, State, State]) -> None:
    corpus, _, _ = fuzzed

    ended = Counter(corpus.server.wait(id, timeout_s=60)["status"] for id in corpus.accepted)

    assert set(ended) <= {"completed", "failed"}
    assert ended["completed"] >= 10


def test_nothing_goes_wrong_inside(fuzzed: tuple[Corpus, State, State]) -> None:
    corpus, _, _ = fuzzed

    lines = corpus.server.log.read_text().splitlines()

    assert [line for line in lines if line.startswith(("error:", "Traceback", "  | "))] == []
    # What is wrong with a form goes into its answer: anybody could fill a log with it.
    assert [line for line in lines if "boundary" in line] == []


def test_no_process_ends_and_none_grows(fuzzed: tuple[Corpus, State, State]) -> None:
    _, before, after = fuzzed

    assert list(after.memory) == list(before.memory)
    for pid, mib in after.memory.items():
        assert mib - before.memory[pid] < MOST_GROWTH_MIB, (before, after)
        assert after.files[pid] - before.files[pid] <= MOST_NEW_FILES, (before, after)


def test_decoders_stay_few_and_small(fuzzed: tuple[Corpus, State, State]) -> None:
    _, before, after = fuzzed

    assert len(before.decoders) <= MOST_DECODERS
    assert len(after.decoders) <= MOST_DECODERS
    seen = {**before.decoders, **after.decoders}
    assert seen
    assert max(seen.values()) < MOST_DECODER_MIB, (before, after)
    files = {**before.decoders_files, **after.decoders_files}
    assert set(files.values()) == {DECODER_FILES}, (before, after)
