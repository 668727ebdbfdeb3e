"""A worker: what its threads share, and a real process of it with a stand-in painter."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from store_fixtures import DONE, Store, at_once

from depthflux.images import IsolatedDecoder
from depthflux.server import taking
from depthflux.server.database import Database
from depthflux.server.media import Media
from depthflux.server.messages import (
    Alive,
    Cancel,
    Drain,
    Dropped,
    Ended,
    FromWorker,
    Ready,
    Refused,
    Start,
    Step,
    Wake,
    parse_from_worker,
)
from depthflux.server.rows import CANCELLED, output_names
from depthflux.server.taking import Bell, Running, Speaker
from depthflux.server.worker import Worker
from stand_in import painter
from stand_in.running import SOURCE

ROOT = Path(__file__).resolve().parents[3]


# The line to the server -------------------------------------------------------------------------


def test_lines_of_several_threads_do_not_mix() -> None:
    reading, writing = os.pipe()
    speaker = Speaker(io.FileIO(writing, "wb"))
    lines: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as stream:
            lines.extend(stream)

    reader = threading.Thread(target=read)
    reader.start()

    def say(number: int) -> None:
        for step in range(20):
            # Longer than what a pipe takes at once.
            speaker.say(Step(id=str(number) * 100_000, step=step, total=20))

    at_once(say, 4)
    speaker._stream.close()
    reader.join(10)

    messages = [parse_from_worker(line) for line in lines]
    assert len(messages) == 4 * 20
    for number in range(4):
        mine = [m for m in messages if isinstance(m, Step) and m.id[0] == str(number)]
        assert [message.step for message in mine] == list(range(20))
        assert {message.id for message in mine} == {str(number) * 100_000}


@pytest.mark.parametrize("end", ["the server's", "our own"])
def test_speaking_where_nobody_listens_any_more_does_nothing(end: str) -> None:
    reading, writing = os.pipe()
    stream = io.FileIO(writing, "wb")
    speaker = Speaker(stream)
    os.close(reading)
    if end == "our own":
        stream.close()

    speaker.say(Alive())

    stream.close()
    assert stream.closed


# The bell ---------------------------------------------------------------------------------------


def test_a_bell_wakes_all_that_wait() -> None:
    bell = Bell()
    heard = bell.count
    woken: list[float] = []

    def wait() -> None:
        bell.wait(heard, 30)
        woken.append(time.monotonic())

    waiting = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in waiting:
        thread.start()
    time.sleep(0.05)
    before = list(woken)
    bell.ring()
    for thread in waiting:
        thread.join(5)

    assert before == []
    assert len(woken) == 4


def test_a_bell_that_was_rung_between_looking_and_waiting_is_not_missed() -> None:
    bell = Bell()
    heard = bell.count
    bell.ring()
    started = time.monotonic()

    bell.wait(heard, 30)

    assert time.monotonic() - started < 1
    assert bell.count == heard + 1


def test_waiting_for_a_bell_ends_by_itself() -> None:
    bell = Bell()
    started = time.monotonic()

    bell.wait(bell.count, 0.05)

    assert 0.04 < time.monotonic() - started < 5


# What was taken ---------------------------------------------------------------------------------


def test_another_one_is_taken_when_the_first_is_about_to_end_and_not_before() -> None:
    """Else it would be this worker's while another one has nothing to do."""
    rung: list[bool] = []
    running = Running(lambda: rung.append(True))
    room = [running.has_room]

    running.add("a")
    room.append(running.has_room)
    running.note_read("a")
    running.note_painting("a")
    room.append(running.has_room)
    running.note_step("a", 1, 1000)
    time.sleep(0.02)
    running.note_step("a", 2, 1000)
    room.append(running.has_room)
    far_from_it = list(rung)
    running.note_step("a", 999, 1000)
    room.append(running.has_room)
    running.add("b")
    room.append(running.has_room)
    running.remove("b")
    running.remove("a")
    room.append(running.has_room)

    assert room == [True, False, False, False, True, False, True]
    assert (far_from_it, rung) == ([], [True])


def test_another_one_is_taken_while_the_first_waits_for_a_slow_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taking, "READ_AHEAD_S", 0.05)
    running = Running(lambda: None)

    running.add("a")
    at_once = running.has_room
    time.sleep(0.06)
    after_a_while = running.has_room
    running.note_read("a")
    running.note_painting("a")

    assert (at_once, after_a_while, running.has_room) == (False, True, False)


def test_another_one_is_taken_beside_one_whose_painter_is_not_done_with_what_comes_before_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As fetching LoRAs; one that waits behind another one's painting makes no room."""
    monkeypatch.setattr(taking, "READ_AHEAD_S", 0.05)
    running = Running(lambda: None)
    room = []

    running.add("a")
    running.note_read("a")
    room.append(running.has_room)
    time.sleep(0.06)
    room.append(running.has_room)
    running.add("b")
    running.note_read("b")
    running.note_painting("b")
    running.note_step("b", 1, 1)
    time.sleep(0.06)
    room.append(running.has_room)
    running.remove("b")
    room.append(running.has_room)
    time.sleep(0.06)
    room.append(running.has_room)

    assert room == [False, True, False, False, True]


def test_one_with_a_single_step_makes_room_when_it_is_done() -> None:
    rung: list[bool] = []
    running = Running(lambda: rung.append(True))
    running.add("a")
    running.note_read("a")
    running.note_painting("a")

    running.note_step("a", 1, 1)

    assert running.has_room
    assert rung == [True]


def test_what_was_taken_is_to_be_stopped_until_it_ends_and_nothing_else() -> None:
    running = Running(lambda: None)
    running.add("mine")
    running.add("not told of")

    running.stop("mine")
    running.stop("another worker's")
    stopped = [running.is_stopped(id) for id in ("mine", "not told of", "another worker's")]
    running.remove("mine")

    assert stopped == [True, False, False]
    assert not running.is_stopped("mine")


def test_a_word_to_stop_that_comes_before_what_it_is_of_is_heeded() -> None:
    """The server's word may be quicker than the store's answer."""
    running = Running(lambda: None)

    running.stop("early")
    before = running.is_stopped("early")
    running.add("another")
    running.add("early")

    assert not before
    assert running.is_stopped("early")
    assert not running.is_stopped("another")


def test_of_words_that_came_too_early_so_many_are_remembered_the_newest() -> None:
    """Most of them are of what other workers have."""
    running = Running(lambda: None)

    for number in range(2500):
        running.stop(f"{number}")
    for number in (1499, 1500, 2499):
        running.add(f"{number}")

    assert [running.is_stopped(id) for id in ("1499", "1500", "2499")] == [False, True, True]
    assert len(running._early) == 1000


def test_a_word_to_stop_that_comes_while_one_is_taken_is_not_lost() -> None:
    running = Running(lambda: None)
    ids = [f"{number}" for number in range(900)]

    def race(number: int) -> None:
        for id in ids:
            if number == 0:
                running.add(id)
            else:
                running.stop(id)

    at_once(race, 2)

    assert all(running.is_stopped(id) for id in ids)


def test_beside_one_that_is_to_be_alone_nothing_is_taken_to_its_very_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taking, "READ_AHEAD_S", 0.02)
    rung: list[bool] = []
    running = Running(lambda: rung.append(True))
    room = []

    running.add("a", alone=True)
    time.sleep(0.03)
    room.append(running.has_room)
    running.note_read("a")
    time.sleep(0.03)
    room.append(running.has_room)
    running.note_painting("a")
    for step in range(1, 5):
        running.note_step("a", step, 4)
        room.append(running.has_room)
    running.remove("a")
    room.append(running.has_room)

    assert room == [False] * 6 + [True]
    assert rung == []


def test_one_that_comes_again_and_need_not_be_alone_any_more_makes_room_as_any_other() -> None:
    running = Running(lambda: None)
    running.add("a", alone=True)
    running.remove("a")

    running.add("a")
    running.note_read("a")
    running.note_painting("a")
    running.note_step("a", 1, 1)

    assert running.has_room


def test_it_is_known_whether_anything_is_taken() -> None:
    running = Running(lambda: None)
    empty = [running.is_empty]
    running.stop("a")
    empty.append(running.is_empty)
    running.add("a")
    running.add("b")
    running.note_read("a")
    running.note_painting("a")
    running.note_step("a", 1, 1)
    running.remove("a")
    empty.append(running.is_empty)
    running.remove("b")
    empty.append(running.is_empty)

    assert empty == [True, True, False, True]


def test_more_than_so_many_are_not_fetched_at_a_time_nor_more_of_one_owner() -> None:
    running = Running(lambda: None)
    seen = [running.here_only_of]

    for id, owner in (("1", "a"), ("2", None), ("3", "a"), ("4", "b")):
        running.add(id, fetched_for=owner)
        seen.append(running.here_only_of)
    running.note_read("3")
    seen.append(running.here_only_of)
    running.add("5", fetched_for="b")
    running.remove("1")
    seen.append(running.here_only_of)

    assert seen == [[], [], [], ["a"], None, [], ["b"]]


def test_where_all_are_of_one_owner_no_place_is_kept_for_another() -> None:
    running = Running(lambda: None, has_several_owners=False)
    seen = []

    for id in "123":
        running.add(id, fetched_for="")
        seen.append(running.here_only_of)

    assert seen == [[], [], None]


# A process --------------------------------------------------------------------------------------


class WorkerProcess:
    """A worker with a stand-in painter, told and heard by the test instead of a server."""

    def __init__(
        self,
        data_dir: Path,
        lease: str = "a-lease",
        code: str = "",
        *,
        leads_group: bool = False,
        prediction_timeout_s: float = 3600,
        has_several_keys: bool = True,
        **stand_in: Any,
    ) -> None:
        self.lease = lease
        self._process = subprocess.Popen(
            [sys.executable, *(("-c", code) if code else ("-m", "stand_in.painter"))],
            start_new_session=leads_group,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(SOURCE), str(ROOT / "scripts"))),
                "STAND_IN": json.dumps(stand_in),
            },
        )
        self.heard: list[FromWorker] = []
        self._came = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.tell(
            Start(
                target="stand-in",
                settings={},
                data_dir=str(data_dir),
                slot=0,
                lease=lease,
                fail_when_all_flagged=False,
                prediction_timeout_s=prediction_timeout_s,
                has_several_keys=has_several_keys,
            )
        )

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = parse_from_worker(line)
            assert message is not None, line
            with self._came:
                self.heard.append(message)
                self._came.notify_all()

    def tell(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(message.line())
        self._process.stdin.flush()

    def hear(self, kind: type, timeout_s: float = 30, **fields: Any) -> Any:
        """The first message of a kind with some fields, once it has come."""

        def find() -> Any:
            return next(
                (
                    message
                    for message in self.heard
                    if isinstance(message, kind)
                    and all(getattr(message, name) == value for name, value in fields.items())
                ),
                None,
            )

        with self._came:
            assert self._came.wait_for(find, timeout_s), f"{kind.__name__} did not come"
            return find()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end_input(self) -> None:
        """As when the server dies."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        return self._process.wait(30)

    def poll(self) -> int | None:
        """The exit code; None while it lives."""
        return self._process.poll()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


Work = Callable[..., WorkerProcess]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Starts workers, and ends them after the test."""
    workers: list[WorkerProcess] = []

    def start(lease: str = "a-lease", code: str = "", **options: Any) -> WorkerProcess:
        workers.append(WorkerProcess(tmp_path, lease, code, **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def picture(media: Media) -> str:
    """The name of an upload, a grey picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (77, 77, 77)).save(buffer, format="PNG")
    name = "g" * 32 + ".png"
    media.write_upload(name, buffer.getvalue(), flush=False)
    return name


@pytest.fixture
def asked(database: Database, picture: str) -> Callable[..., str]:
    """Submits a prediction about the grey picture, and gives its id."""
    store = Store(database)

    def submit(prompt: str = "paint", **fields: Any) -> str:
        given = {"size": "512*512", "num_inference_steps": 4, "control_file": picture, **fields}
        return store.submit(prompt=prompt, control_url="", **given).id

    return submit


def test_a_worker_paints_what_waits_and_ends_it_in_the_store_before_it_says_so(
    database: Database, media: Media, asked: Callable[..., str], work: Work
) -> None:
    id = asked(num_images=2)
    worker = work()

    ended = worker.hear(Ended)

    one = Store(database).read(id)
    assert (ended.id, ended.status) == (id, "completed")
    assert (one.status, one.model, one.attempts) == ("completed", "depthflux/stand-in", 1)
    assert one.outputs == output_names(one)
    for name in one.outputs:
        path = media.find(name)
        assert path is not None
        with Image.open(path) as image:
            assert image.size == (512, 512)
            assert image.getpixel((0, 0)) == (77, 77, 77)
    steps = [message.step for message in worker.heard if isinstance(message, Step)]
    assert steps == list(range(1, 9))
    assert isinstance(worker.hear(Ready), Ready)


def test_a_worker_writes_a_depth_map_alone_as_one_file_and_tells_no_step(
    database: Database, media: Media, asked: Callable[..., str], work: Work
) -> None:
    id = asked(num_images=3, only_depth_map=True)
    worker = work()

    ended = worker.hear(Ended)

    one = Store(database).read(id)
    assert (ended.id, ended.status) == (id, "completed")
    assert (len(one.outputs), one.flags) == (1, [False])
    assert media.find(one.outputs[0]) is not None
    assert not any(isinstance(message, Step) for message in worker.heard)


def test_a_worker_that_is_woken_looks_at_once_and_works_on_after_any_failure(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store, worker = Store(database), work()
    worker.hear(Ready)
    ids = {word: asked(word) for word in ("memory", "bug", "flagged", "paint")}
    lost = asked(control_file="x" * 32 + ".png")
    worker.tell(Wake())

    for id in (*ids.values(), lost):
        worker.hear(Ended, id=id)

    ends = {word: store.read(id) for word, id in {**ids, "lost": lost}.items()}
    assert {word: (one.status, one.code) for word, one in ends.items()} == {
        "memory": ("failed", 1403),
        "bug": ("failed", 5000),
        "flagged": ("completed", 0),
        "paint": ("completed", 0),
        "lost": ("failed", 1402),
    }
    assert "a secret detail" not in ends["bug"].error
    assert ends["flagged"].flags == [True]
    assert "upload it again" in ends["lost"].error


def test_a_worker_that_is_told_to_stop_one_stops_between_two_steps(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    id = asked("slow 30", num_inference_steps=50)
    worker = work()
    worker.hear(Step, id=id)

    worker.tell(Cancel(id=id))

    assert worker.hear(Ended, id=id, status="failed").code == 1405
    one = Store(database).read(id)
    assert (one.error, one.outputs) == (CANCELLED, [])


def test_what_was_taken_back_or_deleted_meanwhile_is_dropped_and_leaves_no_file(
    database: Database, media: Media, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    taken, deleted = asked("slow 1"), ""
    worker = work()
    worker.hear(Step, id=taken)
    store.jobs.release("a-lease", most_attempts=3)
    assert store.jobs.claim("another") is not None
    worker.hear(Dropped, id=taken)
    deleted = asked("slow 1", num_images=1)
    worker.tell(Wake())
    worker.hear(Step, id=deleted)
    names = store.predictions.remove([deleted], "")[0].files

    worker.hear(Dropped, id=deleted)

    assert [media.find(name) for name in names] == [None]
    one = store.read(taken)
    assert (one.status, one.lease) == ("processing", "another")
    assert store.jobs.complete(taken, "another", DONE)
    assert not any(isinstance(message, Ended) for message in worker.heard)


def test_a_worker_that_drains_ends_what_runs_takes_nothing_new_and_ends(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    running = asked("slow 1", num_inference_steps=20)
    worker = work()
    worker.hear(Step, id=running)
    waiting = asked()

    worker.tell(Drain())

    assert worker.wait() == 0
    assert store.read(running).status == "completed"
    assert (store.read(waiting).status, store.read(waiting).attempts) == ("created", 0)


def test_a_worker_whose_server_is_dead_ends_at_once_and_leaves_the_rest_to_the_next(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    id = asked("slow 30", num_inference_steps=50)
    worker = work()
    worker.hear(Step, id=id)
    started = time.monotonic()

    worker.end_input()

    assert worker.wait() == 70
    assert time.monotonic() - started < 5
    assert Store(database).read(id).lease == "a-lease"


def test_a_worker_that_is_told_to_stop_what_it_takes_up_later_does_not_paint_it(
    database: Database, picture: str, work: Work
) -> None:
    store, worker = Store(database), work()
    worker.hear(Ready)
    id = "c" * 32
    worker.tell(Cancel(id=id))
    time.sleep(0.2)

    store.submit(id=id, prompt="slow 30", control_url="", control_file=picture)
    worker.tell(Wake())

    assert worker.hear(Ended, id=id, status="failed").code == 1405
    assert store.read(id).error == CANCELLED
    assert not any(isinstance(message, Step) for message in worker.heard)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_gets_a_signal_goes_on_since_ending_is_the_servers_to_order(
    database: Database, asked: Callable[..., str], work: Work, number: int
) -> None:
    id = asked("slow 1", num_inference_steps=20)
    worker = work(load_seconds=0.5)
    worker.hear(Alive)
    worker.signal(number)
    worker.hear(Step, id=id)

    worker.signal(number)

    assert worker.hear(Ended, id=id).status == "completed"
    worker.tell(Drain())
    assert worker.wait() == 0


def test_a_worker_that_is_told_to_drain_while_it_loads_ends_at_once(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    id = asked()
    worker = work(load_seconds=60)
    worker.hear(Alive)
    started = time.monotonic()

    worker.tell(Drain())

    assert worker.wait() == 0
    assert time.monotonic() - started < 5
    assert Store(database).read(id).attempts == 0


def test_a_worker_whose_server_dies_while_it_loads_ends_at_once(work: Work) -> None:
    worker = work(load_seconds=60)
    worker.hear(Alive)
    started = time.monotonic()

    worker.end_input()

    assert worker.wait() == 70
    assert time.monotonic() - started < 5


def test_a_worker_that_is_woken_while_it_loads_looks_once_it_can_paint(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    worker = work(load_seconds=0.5)
    worker.hear(Alive)
    id = asked()
    worker.tell(Wake())
    worker.tell(Cancel(id="another" * 4))

    assert worker.hear(Ended, id=id).status == "completed"
    assert Store(database).read(id).attempts == 1


#: A worker that forks while it loads, as torch.compile does; the child has all that it holds.
FORKS = """
import os, time
from pathlib import Path
from depthflux.server.worker import end, run_worker
from stand_in import painter

def load(start):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    Path(start.data_dir, "child").write_text(str(child))
    return painter.load(start)

end(run_worker(load))
"""


@pytest.mark.parametrize("load_seconds", [0, 60], ids=["ready", "loads"])
def test_a_worker_whose_server_is_dead_takes_along_what_it_has_started_and_frees_its_place(
    tmp_path: Path, work: Work, load_seconds: int
) -> None:
    first = work("first", FORKS, leads_group=True, load_seconds=load_seconds)
    first.hear(Alive if load_seconds else Ready)
    child = tmp_path / "child"
    ends_at = time.monotonic() + 10
    while not (child.exists() and child.read_text()):
        assert time.monotonic() < ends_at
        time.sleep(0.01)

    first.end_input()

    assert first.wait() == -signal.SIGKILL
    # The kernel frees the place when nobody has its file open any more.
    work("second").hear(Ready, timeout_s=10)


#: A worker whose painter fails with an error of ours, which another one has caused.
WRAPS = """
from depthflux.errors import GenerationError
from depthflux.server.worker import end, run_worker
from stand_in import painter

class Wraps(painter.StandIn):
    def paint(self, request, on_step, on_begin):
        if request.prompt != "paint":
            raise GenerationError(f"compiling failed: {request.prompt}")
        return super().paint(request, on_step, on_begin)

end(run_worker(lambda start: Wraps(start, {})))
"""


def test_an_error_of_ours_that_a_broken_device_has_caused_ends_the_worker_and_no_prediction(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    harmless, broken = asked("no compiler is here"), asked("CUDA error: misaligned address")
    worker = work(code=WRAPS)

    assert worker.wait() == 75

    one = store.read(harmless)
    assert (one.status, one.code) == ("failed", 1403)
    assert one.error == "compiling failed: no compiler is here"
    left = store.read(broken)
    assert (left.status, left.lease, left.error) == ("processing", "a-lease", "")


def test_a_worker_that_cannot_load_says_why_and_ends_with_the_errors_code(work: Work) -> None:
    worker = work(refuse="the weights are missing")

    refused = worker.hear(Refused)

    assert refused.error == "the weights are missing"
    assert worker.wait() == 3


def test_a_worker_that_cannot_open_the_store_ends_in_order_and_refuses_nothing(
    tmp_path: Path, work: Work
) -> None:
    # As a store that is locked for too long: another worker may open it the next moment.
    (tmp_path / "depthflux.sqlite3").write_bytes(b"no database" * 1000)
    worker = work()

    assert worker.wait() == 3
    assert not any(isinstance(message, Refused) for message in worker.heard)


def test_a_place_is_taken_only_when_its_earlier_worker_is_gone(
    tmp_path: Path, database: Database, work: Work
) -> None:
    first = work("first")
    first.hear(Ready)
    second = work("second")
    second.hear(Alive)
    time.sleep(0.3)
    waited = not any(isinstance(message, Ready) for message in second.heard)

    first.close()

    assert waited
    second.hear(Ready)


# What takes too long ----------------------------------------------------------------------------

TOO_LONG = (
    "The prediction took longer than 0.5 s and was stopped; ask for fewer steps, fewer pictures or "
    "a smaller size."
)


def test_a_prediction_that_takes_too_long_is_stopped_between_steps_and_the_worker_goes_on(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    slow, after = asked("slow 60", num_inference_steps=50), asked()
    worker = work(prediction_timeout_s=0.5)

    assert worker.hear(Ended, id=slow).code == 1405
    assert worker.hear(Ended, id=after).status == "completed"
    assert Store(database).read(slow).error == TOO_LONG
    assert worker.poll() is None


def test_one_that_heeds_no_stop_is_failed_and_its_worker_ends_without_ending_the_others(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    # The second is taken beside it, since its control image takes long.
    stuck, beside = asked("stuck 60"), asked()
    worker = work(code=READS_SLOWLY, prediction_timeout_s=2)

    assert worker.wait() == 76

    assert worker.hear(Ended, id=stuck).status == "failed"
    one, other = store.read(stuck), store.read(beside)
    assert (one.status, one.code) == ("failed", 1405)
    assert "took longer than 2 s" in one.error
    assert (other.status, other.lease, other.error) == ("processing", "a-lease", "")


#: A worker that takes long to read, and another one beside it.
READS_SLOWLY = """
import time
from depthflux.server import controls, taking, worker
from stand_in import painter

class Slow(controls.Controls):
    def read(self, job, require_wanted):
        time.sleep(0.3)
        return super().read(job, require_wanted)

taking.READ_AHEAD_S, worker.LOOK_S, worker.Controls = 0.1, 0.05, Slow
worker.end(worker.run_worker(painter.load, grace_s=0.5))
"""


def test_one_that_was_read_for_too_long_is_not_painted(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    slow = asked()
    worker = work(code=READS_SLOWLY, prediction_timeout_s=0.05)

    assert worker.hear(Ended, id=slow).code == 1405
    assert "took longer than 0.05 s" in Store(database).read(slow).error
    assert not any(isinstance(message, Step) for message in worker.heard)
    assert worker.poll() is None


#: A worker whose control images never come, where they have to be fetched.
FETCHES_FOR_EVER = READS_SLOWLY.replace("time.sleep(0.3)", "time.sleep(60 * bool(job.control_url))")


def test_slow_hosts_leave_a_taker_for_pictures_that_are_here_and_room_for_another_owner(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    of_a = [store.submit("a").id for _ in range(6)]
    work(code=FETCHES_FOR_EVER).hear(Ready)
    time.sleep(1)
    of_b = [store.submit("b").id for _ in range(6)]
    time.sleep(1)

    here = [asked(owner=owner) for owner in "ab"]

    ends_at = time.monotonic() + 20
    while not all(store.read(id).is_over for id in here) and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert [store.read(id).status for id in here] == ["completed"] * 2
    fetching = [sum(store.read(id).status == "processing" for id in ids) for ids in (of_a, of_b)]
    assert fetching == [2, 1]


def test_without_several_keys_as_many_are_fetched_as_leave_a_taker_for_pictures_that_are_here(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    fetched = [store.submit().id for _ in range(6)]
    worker = work(code=FETCHES_FOR_EVER, has_several_keys=False)
    worker.hear(Ready)
    time.sleep(1)

    here = asked()

    assert worker.hear(Ended, id=here).status == "completed"
    assert sum(store.read(id).status == "processing" for id in fetched) == 3


#: A painter that is never done with what comes before its turn, as with a LoRA's slow host.
NEVER_BEGINS = READS_SLOWLY.replace(
    "worker.end(",
    """
class NeverBegins(painter.StandIn):
    def paint(self, request, on_step, on_begin):
        time.sleep(3600 * (request.prompt == "never"))
        return super().paint(request, on_step, on_begin)

worker.end(""",
    1,
).replace("painter.load", "lambda start: NeverBegins(start, {})")


def test_one_whose_turn_never_comes_holds_up_no_other_and_is_given_up(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    never, beside = asked("never"), asked()
    worker = work(code=NEVER_BEGINS, prediction_timeout_s=3)

    assert worker.hear(Ended, id=beside).status == "completed"
    assert worker.poll() is None
    assert worker.wait() == 76

    one = Store(database).read(never)
    assert (one.status, one.code) == ("failed", 1405)
    assert "took longer than 3 s" in one.error


#: A worker whose takers can write no failure for two seconds; who gives up could.
FAILS_LATE = """
import threading, time
from depthflux.server import jobs, worker
from stand_in import painter

fail, tries = jobs.Jobs.fail, []

def refuse(*given):
    tries.append(time.monotonic())
    if threading.current_thread().name != "overtime" and tries[-1] - tries[0] < 2:
        raise worker.STORE_PROBLEMS[0]("full", None, Exception())
    return fail(*given)

jobs.Jobs.fail, worker.RETRY_S = refuse, 0.05
worker.end(worker.run_worker(painter.load, grace_s=0.5))
"""


def test_one_whose_failure_cannot_be_written_is_no_hung_painter(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    one, after = asked("memory"), asked()
    worker = work(code=FAILS_LATE, prediction_timeout_s=0.5)

    assert worker.hear(Ended, id=one).code != 1405
    assert worker.hear(Ended, id=after).status == "completed"
    assert worker.poll() is None


#: A painter whose turns go by whom it likes: who asks for a plain picture lets another one pass.
LETS_PASS = READS_SLOWLY.replace(
    "worker.end(",
    """
class LetsPass(painter.StandIn):
    def paint(self, request, on_step, on_begin):
        time.sleep(1 if request.prompt == "paint" else 0)
        return super().paint(request, on_step, on_begin)

worker.end(""",
).replace("painter.load", "lambda start: LetsPass(start, {})")


def test_one_that_another_one_has_passed_is_not_blamed_for_it(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    passed, stuck = asked("paint"), asked("stuck 60")
    worker = work(code=LETS_PASS, prediction_timeout_s=3)

    assert worker.wait() == 76

    one, other = store.read(stuck), store.read(passed)
    assert (one.status, one.code) == ("failed", 1405)
    assert (other.status, other.lease, other.error) == ("processing", "a-lease", "")


# What no decoder can be started for -------------------------------------------------------------

#: A worker whose decoders are started by a program that a test takes away and gives back.
DECODES_BY = """
from pathlib import Path
from depthflux.images import IsolatedDecoder
from depthflux.images.isolated import COMMAND
from depthflux.server import controls, taking, worker
from stand_in import painter

controls.RETRY_S, worker.LOOK_S = 0.05, 0.05
controls.PATIENCE_S, taking.READ_AHEAD_S = {patience_s}, {read_ahead_s}
decoder = IsolatedDecoder(command=({program!r}, *COMMAND[1:]), pictures=1)
worker.end(worker.run_worker(painter.load, decoder=decoder))
"""


def make_program(path: Path) -> None:
    """As Python itself, whole at once."""
    new = path.with_suffix(".new")
    new.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    new.chmod(0o700)
    new.rename(path)


def decodes_by(program: Path, *, patience_s: float, read_ahead_s: float = 1) -> str:
    return DECODES_BY.format(program=str(program), patience_s=patience_s, read_ahead_s=read_ahead_s)


def test_a_decoder_that_cannot_be_started_for_a_while_costs_no_prediction(
    tmp_path: Path, database: Database, asked: Callable[..., str], work: Work
) -> None:
    id, program = asked(), tmp_path / "python"
    worker = work(code=decodes_by(program, patience_s=60))
    worker.hear(Ready)
    time.sleep(0.5)
    before = Store(database).read(id).status

    make_program(program)

    assert before == "processing"
    assert worker.hear(Ended, id=id).status == "completed"


def test_a_decoder_that_cannot_be_started_ends_the_worker_and_no_prediction(
    tmp_path: Path, database: Database, asked: Callable[..., str], work: Work
) -> None:
    id = asked()
    worker = work(code=decodes_by(tmp_path / "python", patience_s=0.3))

    # By a code of its own, at which no attempt is counted.
    assert worker.wait() == 77

    one = Store(database).read(id)
    assert (one.status, one.lease, one.attempts, one.error) == ("processing", "a-lease", 1, "")
    assert isinstance(worker.hear(Ready), Ready)


def test_while_a_decoder_is_waited_for_nothing_else_is_taken(
    tmp_path: Path, database: Database, asked: Callable[..., str], work: Work
) -> None:
    store, program = Store(database), tmp_path / "python"
    ids = [asked() for _ in range(3)]
    worker = work(code=decodes_by(program, patience_s=3600, read_ahead_s=0.05))
    worker.hear(Ready)
    time.sleep(1)
    statuses = [store.read(id).status for id in ids]

    make_program(program)

    assert statuses == ["processing", "created", "created"]
    assert [worker.hear(Ended, id=id).status for id in ids] == ["completed"] * 3


def test_one_that_waits_for_a_decoder_is_stopped_all_the_same(
    tmp_path: Path, database: Database, asked: Callable[..., str], work: Work
) -> None:
    id = asked()
    worker = work(code=decodes_by(tmp_path / "python", patience_s=3600))
    worker.hear(Ready)
    # Reading has begun long since: a word that came before it would be heeded elsewhere.
    while Store(database).read(id).status != "processing":
        time.sleep(0.01)
    time.sleep(0.5)

    worker.tell(Cancel(id=id))

    assert worker.hear(Ended, id=id).code == 1405
    assert Store(database).read(id).error == CANCELLED


def test_a_worker_without_a_decoder_ends_only_when_what_it_paints_is_done(
    tmp_path: Path, database: Database, asked: Callable[..., str], work: Work
) -> None:
    store, program = Store(database), tmp_path / "python"
    make_program(program)
    painted = asked("slow 3", num_inference_steps=50)
    worker = work(code=decodes_by(program, patience_s=0.1, read_ahead_s=1000))
    worker.hear(Step, id=painted)
    program.unlink()

    unread = asked()
    worker.tell(Wake())

    assert worker.hear(Ended, id=painted).status == "completed"
    assert worker.wait() == 77
    assert (store.read(unread).status, store.read(unread).attempts) == ("processing", 1)
    begun, ended = store.read(unread).started_at, store.read(painted).finished_at
    assert begun is not None
    assert ended is not None
    assert begun < ended


def test_one_that_was_deleted_and_heeds_no_stop_ends_its_worker_all_the_same(
    database: Database, asked: Callable[..., str], work: Work
) -> None:
    store = Store(database)
    stuck = asked("stuck 60")
    worker = work(prediction_timeout_s=1, grace_seconds=0.3)
    worker.hear(Ready)
    while store.read(stuck).status != "processing":
        time.sleep(0.01)

    store.predictions.remove([stuck], "")

    assert worker.wait() == 76
    assert not any(isinstance(message, Ended) for message in worker.heard)


def test_what_has_ended_when_its_worker_would_give_it_up_stays_as_it_is(
    tmp_path: Path, database: Database
) -> None:
    store = Store(database)
    one = store.running(lease="a-lease")
    start = Start(
        target="stand-in",
        settings={},
        data_dir=str(tmp_path),
        slot=0,
        lease="a-lease",
        fail_when_all_flagged=False,
        prediction_timeout_s=1,
        has_several_keys=False,
    )
    said = io.BytesIO()
    worker = Worker(start, painter.StandIn(start, {}), Speaker(said), IsolatedDecoder())
    assert store.jobs.complete(one.id, "a-lease", DONE)

    # It would end this process if it took the prediction for one that hangs.
    worker._give_up(one.id)

    assert store.read(one.id).status == "completed"
    assert said.getvalue() == b""


# What kills workers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_attempts", "second_attempts", "side_by_side"),
    [(0, 0, True), (0, 1, False), (1, 0, False)],
    ids=[
        "both are new",
        "one comes again behind a new one",
        "a new one behind one that comes again",
    ],
)
def test_a_worker_takes_up_one_that_was_begun_before_alone(
    database: Database,
    asked: Callable[..., str],
    work: Work,
    first_attempts: int,
    second_attempts: int,
    side_by_side: bool,
) -> None:
    store = Store(database)
    first, second = asked("slow 0.8", num_inference_steps=20), asked()
    store.set(first, attempts=first_attempts)
    store.set(second, attempts=second_attempts)
    worker = work()

    for id in (first, second):
        assert worker.hear(Ended, id=id).status == "completed"

    ended, begun = store.read(first).finished_at, store.read(second).started_at
    assert ended is not None
    assert begun is not None
    assert (begun < ended) is side_by_side
    assert [store.read(id).attempts for id in (first, second)] == [
        first_attempts + 1,
        second_attempts + 1,
    ]


#: A worker that dies in the last step of what is poisonous, when another one was taken beside it.
DIES_OF_POISON = """
import os, time
from depthflux.server.worker import end, run_worker
from stand_in import painter

class Mortal(painter.StandIn):
    def paint(self, request, on_step, on_begin):
        def step(number, total):
            on_step(number, total)
            if request.prompt == "poison" and number == total:
                time.sleep(0.3)
                os._exit(139)
        return super().paint(request, step, on_begin)

end(run_worker(lambda start: Mortal(start, {})))
"""


@pytest.mark.parametrize("place", [0, 1], ids=["behind it", "before it"])
def test_who_is_neighbour_of_what_kills_workers_is_painted_at_last(
    database: Database, asked: Callable[..., str], work: Work, place: int
) -> None:
    """It loses an attempt beside it, and only one."""
    store = Store(database)
    prompts = ["poison", "paint", "paint"]
    prompts[0], prompts[place] = prompts[place], prompts[0]
    ids = [asked(prompt) for prompt in prompts]
    poison = ids[prompts.index("poison")]
    deaths = 0

    # As the supervisor does; a worker that has nothing left to do drains.
    while store.jobs.attempts_of_next() is not None:
        worker = work(f"lease-{deaths}", DIES_OF_POISON)
        try:
            while not all(store.read(id).is_over for id in ids):
                code = worker.poll()
                if code is not None:
                    assert code == 139
                    deaths += 1
                    break
                time.sleep(0.01)
        finally:
            worker.close()
        store.jobs.release(worker.lease, most_attempts=3)

    ends = {id: store.read(id) for id in ids}
    assert deaths == 3
    assert (ends[poison].status, ends[poison].attempts) == ("failed", 3)
    assert [one.status for id, one in ends.items() if id != poison] == ["completed"] * 2
    # One of them was taken beside it the first time, so there was something to protect.
    assert max(one.attempts for id, one in ends.items() if id != poison) == 2
