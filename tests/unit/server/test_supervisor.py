"""Workers from outside: heard, killed, replaced, and nothing computed twice at a time.

The workers here are real processes of a few lines that say what a test wants them to say.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from store_fixtures import Store

from depthflux.errors import SettingsError
from depthflux.server import locks
from depthflux.server.board import Board
from depthflux.server.database import Database
from depthflux.server.jobs import Jobs
from depthflux.server.locks import hold_data_dir
from depthflux.server.metrics import Metrics
from depthflux.server.settings import ServerSettings
from depthflux.server.supervisor import Supervisor

ID = "0123456789abcdef" * 2

#: What every worker begins with: `start` is what it was told, `say` tells the server something.
HEAD = """
import json, os, sys, time
start = json.loads(sys.stdin.readline())
def say(**message):
    print(json.dumps(message), flush=True)
def ready(device="cpu", count=1):
    say(kind="ready", model="a-model", device=device, device_count=count)
"""
#: Stays until it is told to drain, and writes down all that it was told.
STAYS = """
ready()
for line in sys.stdin:
    with open(os.path.join(start["data_dir"], "told"), "a") as file:
        file.write(line)
    if json.loads(line)["kind"] == "drain":
        break
"""
DIES = "ready(); sys.exit(3)"
HANGS = "ready(); time.sleep(60)"


class Workplace:
    """A supervisor with what it needs around it."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        code: str,
        jobs: Jobs | None = None,
        command: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        self.board, self.metrics, self.ends = Board(), Metrics(), 0
        self.supervisor = Supervisor(
            # Without asking what is allowed: some limits are longer than a test should be.
            ServerSettings(data_dir=folder).model_copy(update=settings),
            "a-target",
            {"device": "cpu", "quantize": None},
            jobs=jobs or store.jobs,
            board=self.board,
            metrics=self.metrics,
            on_ended=self._count,
            has_several_keys=True,
            command=command or (sys.executable, "-c", HEAD + code),
        )

    async def start(self) -> None:
        """What a server does first."""
        await self.supervisor.take_over()
        self.supervisor.start()

    def _count(self) -> None:
        self.ends += 1

    @property
    def restarts(self) -> int:
        return int(self.metrics.worker_restarts._value.get())


Work = Callable[[Workplace], Awaitable[None]]


@pytest.fixture
def one_store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def supervise(tmp_path: Path, one_store: Store) -> Callable[..., Workplace]:
    """Runs workers of some lines, does something meanwhile, and drains."""

    def run(code: str, work: Work, jobs: Jobs | None = None, **settings: Any) -> Workplace:
        async def all_of_it() -> Workplace:
            workplace = Workplace(tmp_path, one_store, code, jobs, **settings)
            await workplace.start()
            try:
                async with asyncio.timeout(8):
                    await work(workplace)
            finally:
                async with asyncio.timeout(8):
                    await workplace.supervisor.drain(0.5)
            return workplace

        return asyncio.run(all_of_it())

    return run


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def is_dead(process: int) -> bool:
    """Whether it was killed; it may still wait for this machine's init to take note."""
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def until_ready(workplace: Workplace, places: int = 1) -> None:
    await until(lambda: workplace.supervisor.states == ["ready"] * places)


def told(folder: Path) -> list[dict[str, Any]]:
    file = folder / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# Starting ---------------------------------------------------------------------------------------


def test_a_worker_is_told_what_to_load_and_where(
    tmp_path: Path, supervise: Callable[..., Workplace]
) -> None:
    code = "open(os.path.join(start['data_dir'], 'start'), 'w').write(json.dumps(start))" + STAYS
    lease = ""

    async def look(workplace: Workplace) -> None:
        nonlocal lease
        await until_ready(workplace)
        lease = workplace.supervisor.places[0].lease

    supervise(code, look, moderation="fail", devices="cuda:5")

    assert json.loads((tmp_path / "start").read_text()) == {
        "kind": "start",
        "target": "a-target",
        "settings": {"device": "cuda:5", "quantize": None},
        "data_dir": str(tmp_path),
        "slot": 0,
        "lease": lease,
        "fail_when_all_flagged": True,
        "prediction_timeout_s": 86400,
        "has_several_keys": True,
    }
    assert len(lease) == 32


def test_a_worker_has_the_servers_environment_without_its_api_keys(
    tmp_path: Path, supervise: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_API_KEYS", "a-key-of-these-tests")
    monkeypatch.setenv("HF_HOME", "/weights")
    # Without docstrings diffusers cannot be imported.
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    code = "open(os.path.join(start['data_dir'], 'env'), 'w').write(json.dumps(dict(os.environ)))"

    supervise(code + STAYS, until_ready)

    environment = json.loads((tmp_path / "env").read_text())
    assert environment["HF_HOME"] == "/weights"
    assert "PYTHONOPTIMIZE" not in environment
    assert "a-key-of-these-tests" not in str(environment)


def test_an_error_that_nobody_meant_ends_the_keeping_and_is_told(
    supervise: Callable[..., Workplace],
) -> None:
    async def look(workplace: Workplace) -> None:
        await workplace.supervisor.is_over.wait()

    # Half a surrogate pair, which no line to a worker can hold.
    workplace = supervise(STAYS, look, devices="cpu:\udcff")

    assert isinstance(workplace.supervisor.broken_by, Exception)


def test_every_named_device_has_a_worker_of_its_own(supervise: Callable[..., Workplace]) -> None:
    async def look(workplace: Workplace) -> None:
        await until_ready(workplace, places=3)

    workplace = supervise("ready('cuda:0', 8)" + STAYS, look, devices="cuda:0,cuda:0,cpu")

    places = workplace.supervisor.places
    assert [(place.slot, place.device) for place in places] == [
        (0, "cuda:0"),
        (1, "cuda:0"),
        (2, "cpu"),
    ]
    assert workplace.supervisor.model == "a-model"


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [("cuda:0", 3, [None, "cuda:1", "cuda:2"]), ("cuda:0", 1, [None]), ("cpu", 8, [None])],
    ids=["three GPUs", "one GPU", "the CPU"],
)
def test_without_named_devices_every_gpu_that_a_worker_sees_has_one(
    supervise: Callable[..., Workplace], device: str, count: int, expected: list[str | None]
) -> None:
    async def look(workplace: Workplace) -> None:
        await until_ready(workplace, places=len(expected))
        await asyncio.sleep(0.1)

    # Every worker says the same, as each sees all GPUs.
    code = STAYS.replace("ready()", f"ready({device!r}, {count})")
    workplace = supervise(code, look)

    assert [place.device for place in workplace.supervisor.places] == expected


def test_a_worker_is_told_that_something_waits_or_is_to_be_stopped(
    tmp_path: Path, supervise: Callable[..., Workplace]
) -> None:
    async def tell(workplace: Workplace) -> None:
        await until_ready(workplace)
        workplace.supervisor.wake()
        workplace.supervisor.cancel(ID)
        await until(lambda: len(told(tmp_path)) == 2)

    supervise(STAYS, tell)

    assert told(tmp_path) == [{"kind": "wake"}, {"kind": "cancel", "id": ID}, {"kind": "drain"}]


# Hearing ----------------------------------------------------------------------------------------


def test_steps_and_ends_are_passed_on(supervise: Callable[..., Workplace]) -> None:
    code = f"""
say(kind="step", id="{ID}", step=3, total=28)
say(kind="step", id="other", step=1, total=28)
say(kind="ended", id="other", status="completed", inference_ms=2000, is_told=True)
say(kind="ended", id="of one without a webhook", status="completed", inference_ms=2000)
"""

    async def look(workplace: Workplace) -> None:
        await until_ready(workplace)
        assert workplace.board.progress(ID) == (3, 28)
        assert workplace.board.progress("other") is None

    workplace = supervise(code + STAYS, look)

    assert workplace.ends == 1
    assert workplace.metrics.predictions_ended.labels("completed")._value.get() == 2
    assert workplace.metrics.mean_inference_s == 2


def test_the_progress_of_what_a_worker_dropped_or_took_along_is_void(
    supervise: Callable[..., Workplace],
) -> None:
    code = f"""
say(kind="step", id="dropped", step=3, total=28)
say(kind="dropped", id="dropped")
say(kind="step", id="{ID}", step=3, total=28)
"""

    async def look(workplace: Workplace) -> None:
        await until(lambda: workplace.restarts >= 1)
        assert workplace.board.progress("dropped") is None
        assert workplace.board.progress(ID) is None

    supervise(code + DIES, look)


@pytest.mark.parametrize(
    "garbage",
    ["print('Loading: 100%', flush=True)", "os.write(1, b'\\xff\\xfe\\n')", "print('{}')"],
    ids=["text", "bytes", "no message"],
)
def test_what_is_no_message_is_passed_over(
    supervise: Callable[..., Workplace], garbage: str
) -> None:
    workplace = supervise(garbage + STAYS, until_ready)

    assert workplace.restarts == 0


def test_a_very_long_line_does_not_end_a_place(supervise: Callable[..., Workplace]) -> None:
    """Longer than what asyncio's streams take by default, 64 KiB."""

    async def look(workplace: Workplace) -> None:
        await until(lambda: workplace.supervisor.model == "a-model" or workplace.restarts > 0)

    workplace = supervise("print('x' * 300_000, flush=True)" + STAYS, look)

    assert all(place.task is not None for place in workplace.supervisor.places)
    assert all(not place.task.exception() for place in workplace.supervisor.places if place.task)


# Refusing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("characters", [20, 300_000], ids=["short", "long"])
def test_an_engine_that_cannot_load_ends_all_of_it_with_its_reason(
    supervise: Callable[..., Workplace], characters: int
) -> None:
    """Errors list every missing tensor, so they may be long."""
    code = f"say(kind='refused', error='missing: ' + 'x' * {characters}); sys.exit(3)"

    async def look(workplace: Workplace) -> None:
        await asyncio.wait_for(workplace.supervisor.is_over.wait(), 5)

    workplace = supervise(code, look)

    refused = workplace.supervisor.refused
    assert refused is not None
    assert refused.error == "missing: " + "x" * characters
    assert workplace.supervisor.states == ["stopped"]
    assert workplace.restarts == 0


def test_one_that_cannot_load_any_more_is_tried_again_where_it_could_before(
    tmp_path: Path, supervise: Callable[..., Workplace]
) -> None:
    code = """
before = os.path.join(start["data_dir"], "before")
if not os.path.exists(before):
    open(before, "w").close()
    ready()
    sys.exit(3)
say(kind="refused", error="the memory is still taken")
"""

    async def look(workplace: Workplace) -> None:
        await until(lambda: workplace.restarts >= 2)

    workplace = supervise(code, look)

    assert workplace.supervisor.refused is None
    assert not workplace.supervisor.is_over.is_set()


# Dying ------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_what_it_held_waits_again(
    one_store: Store, supervise: Callable[..., Workplace]
) -> None:
    one = one_store.submit()
    leases = []

    async def kill_it(workplace: Workplace) -> None:
        await until_ready(workplace)
        place = workplace.supervisor.places[0]
        leases.append(place.lease)
        assert one_store.jobs.claim(place.lease) is not None
        assert place.process is not None
        os.kill(place.process.pid, signal.SIGKILL)
        await until(lambda: workplace.restarts == 1)
        await until_ready(workplace)
        leases.append(place.lease)

    workplace = supervise(STAYS, kill_it)

    again = one_store.read(one.id)
    assert (again.lease, again.attempts, again.finished_at) == ("", 1, None)
    assert len(set(leases)) == 2
    assert workplace.ends == 0


def test_a_worker_that_ends_for_want_of_a_decoder_costs_no_attempt_but_counts_as_one_that_died(
    tmp_path: Path, one_store: Store, supervise: Callable[..., Workplace]
) -> None:
    one, other = one_store.submit(), one_store.submit()
    ends = """
ready()
while not os.path.exists(os.path.join(start["data_dir"], start["lease"])):
    time.sleep(0.01)
sys.exit(77)
"""

    async def take_and_end(workplace: Workplace) -> None:
        place = workplace.supervisor.places[0]
        for deaths in (1, 2):
            await until_ready(workplace)
            for _ in range(2):
                assert one_store.jobs.claim(place.lease) is not None
            (tmp_path / place.lease).touch()
            await until(lambda deaths=deaths: place.deaths == deaths)

    # A single attempt that counted would fail them.
    workplace = supervise(ends, take_and_end, max_attempts=1)

    found = [one_store.read(id) for id in (one.id, other.id)]
    assert [(one.lease, one.attempts, one.finished_at) for one in found] == [("", 0, None)] * 2
    assert workplace.ends == 0


def test_what_has_killed_too_many_workers_fails_and_is_told(
    one_store: Store, supervise: Callable[..., Workplace]
) -> None:
    one = one_store.submit(webhook_url="https://receiver.example/")

    async def kill_it(workplace: Workplace) -> None:
        await until_ready(workplace)
        place = workplace.supervisor.places[0]
        assert one_store.jobs.claim(place.lease) is not None
        assert place.process is not None
        os.kill(place.process.pid, signal.SIGKILL)
        await workplace.board.wait(one.id, 10)

    workplace = supervise(STAYS, kill_it, max_attempts=1)

    assert one_store.read(one.id).status == "failed"
    assert workplace.ends == 1
    assert workplace.metrics.predictions_ended.labels("failed")._value.get() == 1


def test_a_silent_worker_is_killed_with_all_that_it_has_started_and_replaced(
    tmp_path: Path, supervise: Callable[..., Workplace]
) -> None:
    code = """
import subprocess
child = subprocess.Popen(["sleep", "60"])
open(os.path.join(start["data_dir"], "child"), "a").write(f"{child.pid}\\n")
"""

    async def look(workplace: Workplace) -> None:
        await until(lambda: workplace.restarts == 1)

    supervise(code + HANGS, look, worker_silence_s=0.5)

    assert is_dead(int((tmp_path / "child").read_text().split()[0]))


def test_a_worker_that_dies_while_a_child_holds_its_pipe_is_noticed_at_once_and_all_are_killed(
    tmp_path: Path, supervise: Callable[..., Workplace]
) -> None:
    """As when a kernel's compiler was forked and the worker then died of a segmentation fault."""
    code = """
file = os.path.join(start["data_dir"], "child")
if not os.path.exists(file):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    ready()
    say(kind="ended", id="its last word", status="completed", inference_ms=2000, is_told=True)
    open(file, "w").write(str(child))
    os._exit(139)
"""
    child = 0
    was_dead = False
    waited_s = 0.0

    async def look(workplace: Workplace) -> None:
        nonlocal child, was_dead, waited_s
        await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
        child = int((tmp_path / "child").read_text())
        started = asyncio.get_running_loop().time()
        await until(lambda: workplace.restarts == 1)
        waited_s = asyncio.get_running_loop().time() - started
        was_dead = is_dead(child)
        await until_ready(workplace)

    try:
        # Long: it is not to be its silence that tells.
        workplace = supervise(code + STAYS, look, worker_silence_s=60)
    finally:
        if child and not is_dead(child):
            os.kill(child, signal.SIGKILL)

    assert was_dead
    assert waited_s < 3
    assert workplace.ends == 1


def test_a_worker_that_cannot_be_started_is_tried_again_until_it_can(
    tmp_path: Path, one_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """As while the environment is being installed anew, or no process may be made any more."""
    program = tmp_path / "worker"

    async def run() -> None:
        workplace = Workplace(tmp_path, one_store, "", command=(str(program),))
        await workplace.start()
        async with asyncio.timeout(8):
            await until(lambda: "worker 0 cannot be started: " in caplog.text)
        assert workplace.supervisor.states != ["stopped"]
        written = tmp_path / "written"
        written.write_text(f"#!{sys.executable}\n{HEAD}{STAYS}")
        written.chmod(0o700)
        written.rename(program)
        try:
            async with asyncio.timeout(8):
                await until_ready(workplace)
        finally:
            await workplace.supervisor.drain(5)
        assert workplace.supervisor.states == ["stopped"]

    asyncio.run(run())

    assert one_store.jobs.attempts_of_next() is None


def test_the_first_replacement_comes_at_once_and_the_next_ones_ever_later(
    supervise: Callable[..., Workplace],
) -> None:
    moments: list[float] = []

    async def look(workplace: Workplace) -> None:
        for count in (1, 2, 3):
            await until(lambda count=count: workplace.restarts == count)
            moments.append(asyncio.get_running_loop().time())

    supervise(DIES, look)

    first, second = (later - earlier for earlier, later in itertools.pairwise(moments))
    assert first < 0.9
    assert second > 1


def test_a_place_whose_workers_have_died_for_days_is_still_kept(
    supervise: Callable[..., Workplace],
) -> None:
    async def look(workplace: Workplace) -> None:
        place = workplace.supervisor.places[0]
        place.deaths = 2000
        await until(lambda: workplace.restarts == 1)
        await asyncio.sleep(0.1)
        assert place.task is not None
        assert not place.task.done()

    supervise(DIES, look)


FULL = OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))
NO_CONNECTION = PoolTimeoutError("QueuePool limit of size 8 overflow 72 reached")


class FailingJobs(Jobs):
    """The store's, where the first lease cannot be taken back."""

    def __init__(self, database: Database, problem: Exception) -> None:
        super().__init__(database)
        self.problems = [problem]

    def release(self, lease: str, *, most_attempts: int, counted: bool = True) -> list[str]:
        """Fail once."""
        if self.problems:
            raise self.problems.pop()
        return super().release(lease, most_attempts=most_attempts, counted=counted)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (FULL, "(sqlite3.OperationalError) database or disk is full"),
        (NO_CONNECTION, "QueuePool limit of size 8 overflow 72 reached"),
    ],
    ids=["full", "no connection"],
)
def test_a_place_is_kept_and_its_lease_taken_back_though_the_store_fails_for_a_moment(
    one_store: Store,
    supervise: Callable[..., Workplace],
    caplog: pytest.LogCaptureFixture,
    problem: Exception,
    said: str,
) -> None:
    one = one_store.submit()

    async def kill_it(workplace: Workplace) -> None:
        await until_ready(workplace)
        place = workplace.supervisor.places[0]
        assert one_store.jobs.claim(place.lease) is not None
        assert place.process is not None
        os.kill(place.process.pid, signal.SIGKILL)
        await asyncio.wait_for(until(lambda: one_store.read(one.id).lease == ""), 8)
        await asyncio.wait_for(until_ready(workplace), 8)

    supervise(STAYS, kill_it, jobs=FailingJobs(one_store.database, problem))

    assert one_store.jobs.attempts_of_next() == 1
    assert f"a lease cannot be taken back: {said}\n" in caplog.text


# Draining ---------------------------------------------------------------------------------------


def test_a_worker_that_ends_when_it_is_told_to_is_not_killed(
    tmp_path: Path, one_store: Store
) -> None:
    code = STAYS + "open(os.path.join(start['data_dir'], 'ended'), 'w').close()"

    async def run() -> float:
        workplace = Workplace(tmp_path, one_store, code)
        await workplace.start()
        await until_ready(workplace)
        started = asyncio.get_running_loop().time()
        await workplace.supervisor.drain(20)
        assert workplace.supervisor.states == ["stopped"]
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(run()) < 10
    assert (tmp_path / "ended").exists()


def test_one_that_does_not_end_in_time_is_killed_and_its_attempt_does_not_count(
    tmp_path: Path, one_store: Store
) -> None:
    one = one_store.submit()

    async def run() -> None:
        workplace = Workplace(tmp_path, one_store, HANGS, max_attempts=1)
        await workplace.start()
        await until_ready(workplace)
        one_store.jobs.claim(workplace.supervisor.places[0].lease)
        await asyncio.wait_for(workplace.supervisor.drain(0.2), 10)
        assert workplace.restarts == 0

    asyncio.run(run())

    again = one_store.read(one.id)
    assert (again.lease, again.attempts, again.finished_at) == ("", 0, None)


@pytest.mark.parametrize("state", ["loading", "restarting"])
def test_draining_does_not_wait_for_a_worker_that_only_loads(
    tmp_path: Path, one_store: Store, state: str
) -> None:
    """Loading takes minutes, and such a worker has nothing to end."""
    code = f"""
before = os.path.join(start["data_dir"], "before")
if {state == "restarting"} and not os.path.exists(before):
    open(before, "w").close()
    ready()
    sys.exit(3)
open(os.path.join(start["data_dir"], "loads"), "w").close()
time.sleep(60)
"""

    async def run() -> float:
        workplace = Workplace(tmp_path, one_store, code)
        await workplace.start()
        async with asyncio.timeout(8):
            await until((tmp_path / "loads").exists)
        assert workplace.supervisor.states == [state]
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(30):
            await workplace.supervisor.drain(20)
        assert workplace.supervisor.states == ["stopped"]
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(run()) < 5


def test_draining_waits_for_those_that_work_and_not_for_one_that_loads(
    tmp_path: Path, one_store: Store
) -> None:
    code = """
if start["slot"] == 1:
    open(os.path.join(start["data_dir"], "loads"), "w").close()
    time.sleep(60)
"""
    ended = "time.sleep(0.5); open(os.path.join(start['data_dir'], 'ended'), 'w').close()"

    async def run() -> float:
        workplace = Workplace(tmp_path, one_store, code + STAYS + ended, devices="cpu,cpu")
        await workplace.start()
        async with asyncio.timeout(8):
            await until((tmp_path / "loads").exists)
            await until(lambda: workplace.supervisor.states == ["ready", "loading"])
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(30):
            await workplace.supervisor.drain(20)
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(run()) < 5
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("steps", range(6))
def test_draining_ends_although_a_worker_is_just_being_started(
    tmp_path: Path, one_store: Store, steps: int
) -> None:
    async def run() -> None:
        workplace = Workplace(tmp_path, one_store, HANGS)
        await workplace.start()
        for _ in range(steps):
            await asyncio.sleep(0)
        draining = asyncio.create_task(workplace.supervisor.drain(0))
        _, going_on = await asyncio.wait([draining], timeout=3)
        # Whatever was started after all ends with the test.
        for place in workplace.supervisor.places:
            if place.process is not None and place.process.returncode is None:
                place.process.kill()
        draining.cancel()
        await asyncio.wait(
            [draining, *(p.task for p in workplace.supervisor.places if p.task)], timeout=3
        )
        assert not going_on

    asyncio.run(run())


# What an earlier server has left ---------------------------------------------------------------


def test_leases_of_an_earlier_server_are_taken_back_before_workers_start(
    one_store: Store, supervise: Callable[..., Workplace]
) -> None:
    again = one_store.running(lease="of an earlier server's worker")
    spent = one_store.running(lease="of another one")
    one_store.set(spent.id, attempts=3)

    async def look(workplace: Workplace) -> None:
        assert one_store.read(again.id).lease == ""
        assert one_store.read(spent.id).status == "failed"

    workplace = supervise(STAYS, look)

    assert workplace.ends == 1


def test_workers_of_an_earlier_server_are_waited_for(
    tmp_path: Path, one_store: Store, supervise: Callable[..., Workplace]
) -> None:
    one = one_store.running(lease="of an earlier server's worker")
    seen: list[str] = []

    async def run() -> None:
        with (tmp_path / "worker-7.lock").open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            workplace = Workplace(tmp_path, one_store, STAYS)
            starting = asyncio.create_task(workplace.start())
            await asyncio.sleep(0.3)
            seen.append(one_store.read(one.id).lease)
            assert workplace.supervisor.places == []
        await asyncio.wait_for(starting, 5)
        await workplace.supervisor.drain(5)

    asyncio.run(run())

    assert seen == ["of an earlier server's worker"]
    assert one_store.read(one.id).lease == ""


def test_an_earlier_worker_that_never_ends_is_named(
    tmp_path: Path, one_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TAKEOVER_S", 0.2)

    async def run() -> None:
        with (tmp_path / "worker-0.lock").open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            await Workplace(tmp_path, one_store, STAYS).start()

    with pytest.raises(SettingsError, match=r"still holds .*worker-0\.lock") as caught:
        asyncio.run(run())

    assert "End that process" in caught.value.fix


# One server for a folder ------------------------------------------------------------------------


def test_a_folder_is_one_servers_at_a_time(tmp_path: Path) -> None:
    with hold_data_dir(tmp_path):
        with pytest.raises(SettingsError, match="another server is using it") as caught:
            hold_data_dir(tmp_path)
        assert "--data-dir" in caught.value.fix

    hold_data_dir(tmp_path).close()


def test_a_folder_is_free_once_its_server_was_killed(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from depthflux.server.locks import hold_data_dir
held = hold_data_dir(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SettingsError, match="another server is using it"):
            hold_data_dir(tmp_path)
        other.kill()

    hold_data_dir(tmp_path).close()
