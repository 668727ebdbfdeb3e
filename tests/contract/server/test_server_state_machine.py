"""Whatever is asked for in whatever order, and whatever is killed, a plain model stays right.

Hypothesis draws sequences of submissions, polls, cancellations, deletions, uploads and kills, runs
them against a real server, and compares each answer with a model of a few lines: what was accepted
is there until it is deleted, goes from created over processing to one end, and is then never again
different. All sequences share one server, and what one of them has left behind is deleted at its
end, so the next one's list begins empty and its Idempotency-Keys are new.

DEPTHFLUX_SEQUENCES sets how many sequences there are; 5, unless it is there. They are the same in
each run; with DEPTHFLUX_RANDOM=1 they are new ones.
"""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from stand_in.running import PICTURE, SUBMIT, StandInServer, grey_picture

ORDER = {"created": 0, "processing": 1, "completed": 2, "failed": 2}
CANCELLED, OUT_OF_MEMORY, INTERNAL = 1405, 1403, 5000
#: What a prompt must come to; every other one is completed, unless it is cancelled.
FAILURES = {"memory": OUT_OF_MEMORY, "bug": INTERNAL}
#: Kills in a sequence beside the one at its end: each takes a second or two.
MOST_KILLS = 1

prompts = st.sampled_from(["paint", "flagged", "slow 0.3", "memory", "bug"])
#: What each sequence begins with, and what is under way when its last kill comes.
BEGINNING = ("paint", "slow 0.3", "memory")
kills = st.sampled_from(["the worker", "the server", "the server, gently"])
words = st.sampled_from(["one", "two"])
wrong_fields = st.sampled_from(
    [
        {"prompt": " "},
        {"size": "100*100"},
        {"num_images": 5},
        {"seed": "seven"},
        {"control_image": "/etc/passwd"},
        {"control_image": PICTURE[:-20]},
        {"enable_base64_output": True, "webhook_url": "http://127.0.0.1:9/"},
    ]
)


@dataclass
class Known:
    """What is known of an accepted prediction.

    Attributes:
        id: its id.
        prompt: what it was asked for.
        status: the last that was seen.
        ended: its document once it has ended; addresses without their host.
        is_cancelled: whether somebody has asked it to stop.
        pictures: where its pictures are: outputs, and what came inside its request.
    """

    id: str
    prompt: str
    status: str = "created"
    ended: dict[str, Any] | None = None
    is_cancelled: bool = False
    pictures: list[str] = field(default_factory=list)

    def see(self, data: dict[str, Any]) -> None:
        """Compare what the server says with what is known."""
        assert data["id"] == self.id
        assert ORDER[data["status"]] >= ORDER[self.status], (self, data)
        plain = {name: value for name, value in data.items() if name not in ("input", "progress")}
        plain["outputs"] = [path_of(address) for address in data["outputs"]]
        plain["urls"] = path_of(data["urls"]["get"]).removesuffix("/result")
        if self.ended is not None:
            assert plain == self.ended
        elif data["status"] in ("completed", "failed"):
            self._judge_end(data)
            self.ended = plain
            self.pictures += plain["outputs"]
        self.status = data["status"]

    def _judge_end(self, data: dict[str, Any]) -> None:
        expected = FAILURES.get(self.prompt.split()[0])
        if data["status"] == "completed":
            assert expected is None
            assert len(data["outputs"]) == 1
        else:
            allowed = {expected} | ({CANCELLED} if self.is_cancelled else set())
            assert data["code"] in allowed, (self, data)
            assert data["error"]
            assert data["outputs"] == []


def path_of(address: str) -> str:
    """An address without scheme and host: a server that is started again has another port."""
    return re.sub(r"^http://[^/]+", "", address)


def _may_kill(machine: Machine) -> bool:
    """While there is something to lose."""
    return machine.kills < MOST_KILLS and len(machine.known) >= 2


class Machine(RuleBasedStateMachine):
    """A client that remembers, of a server that must not forget."""

    server: ClassVar[StandInServer]
    predictions = Bundle("predictions")
    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.by_word: dict[str, tuple[str, dict[str, Any]]] = {}
        self.deleted: list[Known] = []
        self.uploaded: set[str] = set()
        self.kills = 0
        self.last_kill = "the worker"

    @property
    def client(self) -> httpx.Client:
        """The present server's."""
        return self.server.client

    # Submitting ----------------------------------------------------------------------------------

    def _body(self, prompt: str, **fields: Any) -> dict[str, Any]:
        common = {"size": "512*512", "num_inference_steps": 2, "control_image": PICTURE}
        return {"prompt": prompt, **common, **fields}

    def _submit(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> Known:
        answer = self.client.post(SUBMIT, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert data["id"] not in {one.id for one in self.deleted}
        one = self.known.setdefault(data["id"], Known(data["id"], body["prompt"]))
        # Sync mode that has waited long enough says processing of one that may wait still.
        if data.get("code") != 5004:
            one.see(data)
        return one

    @initialize(target=predictions, last_kill=kills)
    def begin(self, last_kill: str) -> Any:
        self.last_kill = last_kill
        return multiple(*(self._submit(self._body(prompt)) for prompt in BEGINNING))

    @rule(target=predictions, prompt=prompts, grey=st.integers(0, 255))
    def submit(self, prompt: str, grey: int) -> Known:
        before = set(self.known)
        one = self._submit(self._body(prompt, control_image=grey_picture(grey)))
        assert one.id not in before
        return one

    @rule(wrong=wrong_fields)
    def submit_something_wrong(self, wrong: dict[str, Any]) -> None:
        answer = self.client.post(SUBMIT, json=self._body("paint") | wrong)
        assert answer.status_code == 400
        assert next(iter(wrong)) in answer.json()["message"]

    @rule(target=predictions, prompt=st.sampled_from(["paint", "memory"]))
    def submit_and_wait_for_the_answer(self, prompt: str) -> Known:
        return self._submit(self._body(prompt, enable_sync_mode=True))

    @rule(target=predictions, word=words, prompt=prompts)
    def submit_under_a_word(self, word: str, prompt: str) -> Any:
        body, headers = self._body(prompt), {"Idempotency-Key": word}
        if word not in self.by_word:
            one = self._submit(body, headers)
            self.by_word[word] = (one.id, body)
            return one
        id, first = self.by_word[word]
        answer = self.client.post(SUBMIT, json=body, headers=headers)
        assert answer.status_code == (200 if body == first else 422)
        if body == first:
            assert answer.json()["data"]["id"] == id
        return multiple()

    @rule(word=words)
    def repeat(self, word: str) -> None:
        if word in self.by_word:
            id, body = self.by_word[word]
            assert self._submit(body, {"Idempotency-Key": word}).id == id

    @rule(target=uploads, grey=st.integers(0, 255))
    def upload(self, grey: int) -> str:
        buffer = io.BytesIO()
        Image.new("RGB", (3, 3), (grey, grey, grey)).save(buffer, format="PNG")
        answer = self.client.post(
            "/api/v3/media/upload/binary", files={"file": ("grey.png", buffer.getvalue())}
        )
        path = path_of(answer.json()["data"]["download_url"])
        assert self.client.get(path).content == buffer.getvalue()
        self.uploaded.add(path)
        return path

    @rule(target=predictions, path=uploads)
    def submit_with_an_upload(self, path: str) -> Known:
        return self._submit(self._body("paint", control_image=f"{self.server.address}{path}"))

    # Reading -------------------------------------------------------------------------------------

    @rule(one=predictions, end=st.sampled_from(["", "/result"]))
    def read(self, one: Known, end: str) -> None:
        answer = self.client.get(f"/api/v3/predictions/{one.id}{end}")
        if one.id not in self.known:
            assert answer.status_code == 404
            return
        assert answer.status_code == 200
        one.see(answer.json()["data"])

    @rule(one=predictions)
    def wait(self, one: Known) -> None:
        if one.id in self.known:
            one.see(self.server.wait(one.id))
            self._look_at_pictures(one)

    def _look_at_pictures(self, one: Known) -> None:
        assert one.ended is not None
        for path in one.ended["outputs"]:
            with Image.open(io.BytesIO(self.client.get(path).content)) as picture:
                picture.load()
                assert picture.size == (512, 512)

    @rule()
    def list_all(self) -> None:
        data = self.client.get("/api/v3/predictions", params={"page_size": 100}).json()["data"]
        assert data["total"] == len(self.known)
        assert [item["id"] for item in data["items"]] == list(reversed(self.known))
        for item in data["items"]:
            one = self.known[item["id"]]
            one.see(item)
            self._note_inner_picture(one, item)

    def _note_inner_picture(self, one: Known, item: dict[str, Any]) -> None:
        path = path_of(item["input"]["control_image"])
        if path not in one.pictures and path not in self.uploaded:
            one.pictures.append(path)

    @rule(status=st.sampled_from(list(ORDER)), size=st.integers(1, 3))
    def list_by_status(self, status: str, size: int) -> None:
        query = {"status": status, "page_size": size}
        data = self.client.post("/api/v3/predictions", json=query).json()["data"]
        assert {item["status"] for item in data["items"]} <= {status}
        assert len(data["items"]) == min(size, data["total"])
        for item in data["items"]:
            self.known[item["id"]].see(item)

    # Ending --------------------------------------------------------------------------------------

    @rule(one=predictions)
    def cancel(self, one: Known) -> None:
        answer = self.client.post(f"/api/v3/predictions/{one.id}/cancel")
        if one.id not in self.known:
            assert answer.status_code == 404
            return
        one.is_cancelled = True
        one.see(answer.json()["data"])
        # What waits is over at once; what runs is at its next step.
        assert one.status != "created"

    @rule(one=consumes(predictions))
    def delete(self, one: Known) -> None:
        answer = self.client.delete(f"/api/v3/predictions/{one.id}")
        assert answer.status_code == (200 if one.id in self.known else 404)
        self._forget([one])

    @rule(some=st.lists(predictions, max_size=3), unknown=st.booleans())
    def delete_several(self, some: list[Known], unknown: bool) -> None:
        ids = [one.id for one in some] + ["0" * 32] * unknown
        there = {id for id in ids if id in self.known}
        answer = self.client.post("/api/v3/predictions/delete", json={"ids": ids})
        assert answer.json()["data"] == {"deleted_count": len(there)}
        self._forget([one for one in some if one.id in there])

    def _forget(self, some: list[Known]) -> None:
        for one in some:
            if self.known.pop(one.id, None) is not None:
                self.deleted.append(one)
            self.by_word = {w: (id, b) for w, (id, b) in self.by_word.items() if id != one.id}

    @rule()
    def what_is_deleted_stays_away(self) -> None:
        for one in self.deleted:
            for end in ("", "/result"):
                path = f"/api/v3/predictions/{one.id}{end}"
                assert self.client.get(path).status_code == 404
            for path in one.pictures:
                assert self.client.get(path).status_code == 404
        for path in self.uploaded:
            assert self.client.get(path).status_code == 200

    # Killing -------------------------------------------------------------------------------------

    @precondition(_may_kill)
    @rule(what=kills)
    def kill(self, what: str) -> None:
        self.kills += 1
        self._kill(what)

    def _kill(self, what: str) -> None:
        if what == "the worker":
            (worker,) = self.server.until(lambda: self.server.worker_pids() or None)
            os.kill(worker, signal.SIGKILL)
            return
        if what == "the server":
            self.server.kill()
        else:
            assert self.server.stop() == 0
        self.server.start()

    def teardown(self) -> None:
        """Nothing accepted disappears: all of it has ended, and has its pictures."""
        try:
            # Every sequence ends in a kill, with something under way and something waiting.
            for prompt in BEGINNING:
                self._submit(self._body(prompt))
            self._kill(self.last_kill)
            for one in self.known.values():
                one.see(self.server.wait(one.id))
                self._look_at_pictures(one)
            self.list_all()
            self.what_is_deleted_stays_away()
        finally:
            ids = list(self.known)
            self.client.post("/api/v3/predictions/delete", json={"ids": ids})


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Machine]]:
    """The machine around a server whose kills fail no prediction."""
    folder = tmp_path_factory.mktemp("machine") / "data"
    with StandInServer(
        folder,
        stand_in={"seconds": 0.02},
        max_attempts=10,
        sync_timeout_s=10,
        key_requests_per_minute=0,
    ) as server:
        Machine.server = server
        yield Machine


def test_a_plain_model_of_the_server_stays_right_whatever_is_asked_and_killed(
    machine: type[Machine],
) -> None:
    settings = hypothesis.settings(
        max_examples=int(os.environ.get("DEPTHFLUX_SEQUENCES", "5")),
        stateful_step_count=40,
        derandomize="DEPTHFLUX_RANDOM" not in os.environ,
        database=None,
        deadline=None,
        # Shrinking would start servers a hundred times; the sequence as it was is told, too.
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    run_state_machine_as_test(machine, settings=settings)
