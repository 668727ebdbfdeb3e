"""`depthflux bench hosted` from outside: real processes, a stub of the service, the miniature.

The stub (tests/hosted_stub) was written from the service's documentation alone, and counts what it
was paid for. Runs are shared, since each loads the miniature.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hosted_stub import Behaviour, Failure, HostedStub

from depthflux.bench.hosted.document import Document
from stand_in.running import SOURCE, StandInServer

KEY = "hosted-stub-key-0123456789"
EXAMPLES = Path("examples").absolute()
CASES = ("ant", "bee", "cat", "dog", "eel", "fox")
SUITE = """
description = "Six small cases."
[defaults]
size = "512*512"
num_inference_steps = 1
"""
CASE = """
[[case]]
name = "{name}"
control_image = "{picture}"
prompt = "paint {name}"
seed = {seed}
"""
#: Every address that a process connects to, a line each.
SPY = """
import os, sys
def _tell(event, given):
    if event == "socket.connect" and isinstance(given[1], tuple):
        with open(os.environ["SPY"], "a") as file:
            file.write(f"{given[1][0]} {given[1][1]}\\n")
sys.addaudithook(_tell)
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Its one line that begins with `error:`."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


class Bench:
    """`depthflux bench hosted` with a suite and a folder of its own."""

    def __init__(self, folder: Path, cases: tuple[str, ...] = CASES, *, more: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.suite = folder / "out", folder / "small.toml"
        pictures = ("one-object.png", "two-objects.png", "three-objects.png")
        self.suite.write_text(
            SUITE
            + "".join(
                CASE.format(name=name, picture=EXAMPLES / pictures[seed % 3], seed=10 * seed)
                for seed, name in enumerate(cases)
            )
            + more
        )
        self.environment = {
            **{name: of for name, of in os.environ.items() if name != "WAVESPEED_API_KEY"},
            "PYTHONPATH": str(SOURCE),
            "WAVESPEED_API_KEY": KEY,
        }

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start it; polls are quick."""
        command = [sys.executable, "-m", "depthflux", "bench", "hosted"]
        command += ["--suite", str(self.suite), "--out", str(self.out), "--poll-interval", "0.1"]
        return subprocess.Popen(
            [*command, *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: object) -> Ended:
        """Run it to its end."""
        return ended(self.start(*words))

    def document(self) -> Document:
        """What it has written, read strictly."""
        return Document.model_validate_json((self.out / "report.json").read_bytes())

    def outcomes(self, side: str = "hosted") -> dict[str, dict[str, Any]]:
        """The outcomes of a side that are there, by task."""
        files = sorted((self.out / side).glob("*/outcome.json"))
        return {file.parent.name: json.loads(file.read_bytes()) for file in files}


class Gate:
    """Lets connections through to another port of 127.0.0.1, or, closed, refuses them."""

    def __init__(self, port: int) -> None:
        self._port, self._listening = port, socket.create_server(("127.0.0.1", 0))
        self._own = self._listening.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._own}"
        self._serve()

    def close(self) -> None:
        """Refuse new connections, and break those that there are."""
        # A thread that waits in accept keeps the socket alive.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let connections through again, at the same address."""
        self._listening = socket.create_server(("127.0.0.1", self._own))
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._pairs += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


def wait_for(process: subprocess.Popen[str], look: Callable[[], bool]) -> None:
    """Wait until something is there, while a process goes on."""
    end = time.monotonic() + 120
    while not look():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


# One run with everything that can go wrong with single tasks --------------------------------------


@dataclass(frozen=True)
class Troubled:
    """A run against a stub that fails here and there, and its going on."""

    bench: Bench
    first: Ended
    charged_first: int
    first_document: Document
    second: Ended
    stub: HostedStub


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    """ant is fine; bee fails; cat is refused with 429 once; dog's answer is lost; eel is flagged
    and a poll of it fails; fox is beyond the highest cost, and asked for by a second run."""
    bench = Bench(tmp_path_factory.mktemp("troubled"))
    behaviour = Behaviour(
        failing={1: Failure("The model <b>fell</b> over.", 1403)}.get,
        refuse_429=[2],
        retry_after=0,
        drop_submission=[4],
        nsfw=[5],
        poll_errors={10: 503},
        inference_ms=1234,
    )
    words = ("--price-per-picture", "0.03", "--electricity-per-kwh", "0.25", "--watts", "200")
    with HostedStub(KEY, behaviour) as stub:
        words = ("--base-url", stub.base_url, "--profile", "demo", *words)
        first = bench.run(*words, "--max-cost", "0.17")
        charged = stub.charged
        document = bench.document()
        second = bench.run(*words, "--max-cost", "1", "--resume", "--json")
        yield Troubled(bench, first, charged, document, second, stub)


def test_a_run_ends_well_though_single_tasks_fail(troubled: Troubled) -> None:
    assert troubled.first.code == 0, troubled.first.err
    assert troubled.first.out.splitlines() == [
        str(troubled.bench.out / "report.json"),
        str(troubled.bench.out / "report.html"),
    ]
    assert "hosted 2/6 bee-0: failed: The model <b>fell</b> over" in troubled.first.err


def test_every_task_s_end_is_told_as_it_was(troubled: Troubled) -> None:
    hosted, local = troubled.first_document.sides

    assert hosted.counts.model_dump() == {
        "tasks": 6, "completed": 3, "failed": 1, "lost": 1, "not_run": 1,
        "pictures": 3, "exact_size": 3, "flagged": 1,
    }  # fmt: skip
    assert local.counts.completed == local.counts.pictures == 6
    failed, lost = hosted.failures
    assert (failed.task, failed.code) == ("bee-0", 1403)
    assert failed.error == "The model <b>fell</b> over"
    assert (lost.task, lost.status) == ("dog-0", "lost")
    assert "may have been taken" in lost.error


def test_the_highest_cost_stops_the_sending_before_it_is_exceeded(troubled: Troubled) -> None:
    hosted = troubled.first_document.sides[0]

    assert troubled.charged_first == 5
    assert hosted.cost.usd_total == pytest.approx(5 * 0.03)
    assert "hosted: 1 of 6 tasks are not sent: fox-0 would exceed --max-cost" in troubled.first.err
    assert troubled.first.err.startswith("6 pictures x 0.03 USD = 0.18 USD at 127.0.0.1:")


def test_a_refused_submission_is_sent_again_and_a_lost_one_never(troubled: Troubled) -> None:
    outcomes = troubled.bench.outcomes()

    prompts = [prediction.body["prompt"] for prediction in troubled.stub.predictions]
    assert prompts == [f"paint {name}" for name in CASES], "each was taken once"
    assert outcomes["cat-0"]["retries"] == 1
    assert outcomes["dog-0"]["is_charged"] is True


def test_going_on_sends_only_what_is_not_done(troubled: Troubled) -> None:
    document = Document.model_validate_json(troubled.second.out)

    assert troubled.second.code == 0, troubled.second.err
    assert troubled.stub.charged == 6
    assert document.sides[0].counts.completed == 4
    assert document.sides[0].counts.not_run == 0
    assert "local: all 6 tasks are done" in troubled.second.err
    assert document == troubled.bench.document()


def test_failed_and_flagged_pictures_are_left_out_of_quality(troubled: Troubled) -> None:
    document = troubled.bench.document()

    structure = document.quality[0]
    assert (structure.name, structure.cases) == ("structure", 3)
    assert structure.verdict == "unknown"
    by_name = {case.name: case for case in document.cases}
    (flagged,) = by_name["eel"].pictures
    assert flagged.flagged == {"hosted": True, "local": False}
    assert flagged.structure.keys() == {"local"}
    assert any("1 pairs have a picture" in note for note in document.notes)
    assert any("2 of 6 tasks lack pictures" in note for note in document.notes)


def test_times_add_up_and_inference_is_what_the_side_reports(troubled: Troubled) -> None:
    times = troubled.bench.outcomes()["ant-0"]["times"]

    assert times["inference"] == 1.234
    assert times["total"] >= times["submit"] + times["download"] > 0
    # Reported longer than it was seen to take: no queue is negative.
    assert times["queue"] == 0.0


def test_the_first_side_s_pictures_are_kept_as_they_came(troubled: Troubled) -> None:
    (picture,) = troubled.bench.outcomes()["ant-0"]["pictures"]

    data = (troubled.bench.out / picture["file"]).read_bytes()
    assert picture["media_type"] == "image/jpeg"
    assert data.startswith(b"\xff\xd8")
    assert hashlib.sha256(data).hexdigest() == picture["sha256"]
    assert (picture["width"], picture["height"]) == (512, 512)


def test_the_page_is_written_beside_the_document_and_shows_errors_as_text(
    troubled: Troubled,
) -> None:
    page = (troubled.bench.out / "report.html").read_text(encoding="utf-8")

    assert "The model &lt;b&gt;fell&lt;/b&gt; over" in page
    assert "<b>fell</b>" not in page


def test_the_key_is_in_no_file_and_no_output(troubled: Troubled) -> None:
    holding = [name for name, data in files_of(troubled.bench.out).items() if KEY.encode() in data]

    assert holding == []
    for run in (troubled.first, troubled.second):
        assert KEY not in run.out + run.err
    assert all(
        KEY not in request.headers.get("authorization", "")
        for request in troubled.stub.requests
        if request.listener == "cdn"
    )


def test_the_local_side_is_asked_the_same_questions_in_the_same_words(troubled: Troubled) -> None:
    for key in ("ant-0", "fox-0"):
        asked = [
            json.loads((troubled.bench.out / side / key / "intent.json").read_bytes())["fields"]
            for side in ("hosted", "local")
        ]
        assert asked[0] == asked[1]
    assert asked[0]["seed"] == 50


def test_the_document_names_what_ran_and_no_path_of_this_machine(troubled: Troubled) -> None:
    hosted, local = troubled.bench.document().sides

    assert hosted.label == f"127.0.0.1:{port_of(troubled.stub.base_url)}"
    assert hosted.model == "wavespeed-ai/flux-control-lora-depth"
    assert (local.label, local.model) == ("depthflux demo", "depthflux/demo")
    assert local.device.startswith("CPU ")
    assert local.settings["model"] == "demo"
    assert not any("/" in str(value) for value in local.settings.values())
    assert local.cost.joules_per_picture == pytest.approx(
        200 * (local.wall_seconds or 0) / local.counts.pictures, rel=1e-6
    )


def test_the_manifest_names_every_file_with_its_sum(troubled: Troubled) -> None:
    manifest = json.loads((troubled.bench.out / "manifest.json").read_bytes())

    told = {entry["file"]: entry["sha256"] for entry in manifest["files"]}
    there = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files_of(troubled.bench.out).items()
        if name != "manifest.json"
    }
    assert told == there


# Replaying ---------------------------------------------------------------------------------------


def test_a_replay_needs_no_network_and_gives_the_same_first_side(
    troubled: Troubled, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "again")
    spy = tmp_path / "spy"
    (tmp_path / "sitecustomize.py").write_text(SPY)
    bench.environment["PYTHONPATH"] = os.pathsep.join((str(tmp_path), str(SOURCE)))
    bench.environment["SPY"] = str(spy)
    del bench.environment["WAVESPEED_API_KEY"]
    asked = len(troubled.stub.requests)

    run = bench.run("--profile", "demo", "--replay", troubled.bench.out)

    assert run.code == 0, run.err
    before, after = troubled.bench.document(), bench.document()
    hosts = {line.split()[0] for line in spy.read_text().splitlines()}
    assert hosts == {"127.0.0.1"}
    assert len(troubled.stub.requests) == asked
    assert after.sides[0].recorded_at != ""
    for name in ("label", "model", "counts", "failures", "seconds", "formats"):
        assert getattr(after.sides[0], name) == getattr(before.sides[0], name)
    assert after.sides[0].cost.usd_total == pytest.approx(6 * 0.03)
    # The miniature paints the same pictures again, so the same is said of them.
    assert [compared.difference for compared in after.quality] == [
        compared.difference for compared in before.quality
    ]
    assert after.difference == before.difference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("hosted/ant-0/0.jpg", "hosted/ant-0/0.jpg was changed", id="changed"),
        pytest.param("", "hosted/ant-0/0.jpg is missing", id="missing"),
        pytest.param("hosted/ant-0/1.jpg", "'hosted/ant-0/1.jpg' was added", id="added"),
    ],
)
def test_a_recording_that_was_touched_is_refused_before_anything(
    change: str, message: str, troubled: Troubled, tmp_path: Path
) -> None:
    recording = tmp_path / "recording"
    shutil.copytree(troubled.bench.out, recording)
    if change:
        with (recording / change).open("ab") as file:
            file.write(b"x")
    else:
        (recording / "hosted/ant-0/0.jpg").unlink()
    bench = Bench(tmp_path / "again")

    run = bench.run("--profile", "demo", "--replay", recording)

    assert run.code == 2
    assert message in run.error
    assert not bench.out.exists()


def test_a_recording_of_another_suite_is_refused(troubled: Troubled, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "again", CASES[:2])

    run = bench.run("--profile", "demo", "--replay", troubled.bench.out)

    assert run.code == 2
    assert "it was recorded with the suite 'small' of sha256 " in run.error


# Runs that are broken off ------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """One run in four processes: killed, cut off, interrupted, finished."""

    bench: Bench
    cut_off: Ended
    interrupted: Ended
    finished: Ended
    stub: HostedStub
    charged: list[int]
    left_running: list[str]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    bench = Bench(tmp_path_factory.mktemp("broken"), CASES[:4])
    with HostedStub(KEY, Behaviour(picture_seconds=1.0)) as stub:
        gate = Gate(port_of(stub.base_url))
        words = ("--base-url", gate.url, "--profile", "demo", "--api-version", "v3")
        words = (*words, "--price-per-picture", "0.5")
        charged = []

        def is_there(name: str) -> Callable[[], bool]:
            return (bench.out / "hosted" / name).exists

        killed = bench.start(*words)
        wait_for(killed, is_there("ant-0/submission.json"))
        children = server_processes(bench)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        charged.append(stub.charged)

        cut = bench.start(*words, "--resume")
        wait_for(cut, is_there("bee-0/submission.json"))
        gate.close()
        cut_off = ended(cut)
        charged.append(stub.charged)
        gate.open()

        interrupted = bench.start(*words, "--resume")
        wait_for(interrupted, is_there("cat-0/submission.json"))
        interrupted.send_signal(signal.SIGINT)
        told = ended(interrupted)
        charged.append(stub.charged)

        finished = bench.run(*words, "--resume")
        charged.append(stub.charged)
        left = [of for of in children if Path(f"/proc/{of}/cmdline").exists()]
        yield Broken(bench, cut_off, told, finished, stub, charged, left)


def server_processes(bench: Bench) -> list[str]:
    """The processes of the local server that a run has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            environment = (place / "environ").read_bytes()
            if b"serve" in words and str(bench.suite.parent).encode() in environment:
                found.append(place.name)
    return found


def test_whatever_ends_a_run_nothing_is_paid_twice(broken: Broken) -> None:
    assert broken.finished.code == 0, broken.finished.err
    assert broken.charged == [1, 2, 3, 4]
    prompts = [prediction.body["prompt"] for prediction in broken.stub.predictions]
    assert prompts == [f"paint {name}" for name in CASES[:4]]
    assert [outcome["status"] for outcome in broken.bench.outcomes().values()] == ["completed"] * 4


def test_a_side_that_goes_away_ends_the_run_with_what_is_done(broken: Broken) -> None:
    assert broken.cut_off.code == 1
    assert "1 of 4 tasks of hosted are done; 2 pictures count as paid (1 USD)." in (
        broken.cut_off.error
    )
    assert broken.cut_off.error.endswith("Run the same command with --resume to go on.")
    assert "Traceback" not in broken.cut_off.err


def test_ctrl_c_ends_the_run_with_what_is_done(broken: Broken) -> None:
    assert broken.interrupted.code == 130
    assert "2 of 4 tasks of hosted are done; 3 pictures count as paid (1.5 USD)." in (
        broken.interrupted.error
    )
    assert "--resume" in broken.interrupted.error
    assert "Traceback" not in broken.interrupted.err


def test_tasks_that_a_later_run_saw_to_their_end_count_for_pictures_not_for_times(
    broken: Broken,
) -> None:
    document = broken.bench.document()

    hosted = document.sides[0]
    assert hosted.counts.pictures == 4
    assert hosted.seconds.total is not None
    assert hosted.seconds.total.count == 1
    assert any("3 tasks of 127.0.0.1" in note for note in document.notes)


def test_a_killed_run_leaves_no_server_behind(broken: Broken) -> None:
    assert broken.left_running == []


def test_a_run_that_was_begun_is_neither_overwritten_nor_gone_on_with_otherwise(
    broken: Broken,
) -> None:
    words = ("--base-url", "http://127.0.0.1:9", "--profile", "demo")
    before = files_of(broken.bench.out)

    anew = broken.bench.run(*words)
    otherwise = broken.bench.run(*words, "--repeat", "2", "--resume")

    assert (anew.code, otherwise.code) == (2, 2)
    assert "it holds a run already; add --resume" in anew.error
    assert "repeat was 1 and is 2 now" in otherwise.error
    assert files_of(broken.bench.out) == before


# Refusals ----------------------------------------------------------------------------------------


def test_a_wrong_key_ends_the_run_before_anything_is_paid(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.environment["WAVESPEED_API_KEY"] = "another-key-0123456789"
    with HostedStub(KEY) as stub:
        run = bench.run("--base-url", stub.base_url, "--profile", "demo")

        assert stub.charged == 0
    assert run.code == 3
    assert f"WAVESPEED_API_KEY was refused by 127.0.0.1:{port_of(stub.base_url)}" in run.error
    assert "another-key" not in run.out + run.err
    assert not (bench.out / "local").exists(), "and before the model was loaded"


def test_a_host_that_cannot_be_reached_ends_the_run_before_the_model_is_loaded(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    bench = Bench(tmp_path)

    run = bench.run("--base-url", f"http://127.0.0.1:{port}", "--profile", "demo")

    assert run.code == 1
    assert f"127.0.0.1:{port}" in run.error
    assert "0 of 6 tasks of hosted are done; 0 pictures count as paid." in run.error
    assert not (bench.out / "local").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ("--profile", "cpu", "--set", "weights_dir=/nowhere", "--set", "model=/nowhere"),
            "the local server of profile cpu: there is no model",
            id="model",
        ),
        pytest.param(
            ("--profile", "demo", "--estimator", "."), "the depth estimator", id="estimator"
        ),
    ],
)
def test_what_cannot_be_loaded_here_is_told_before_anything_is_paid(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, CASES[:1])
    with HostedStub(KEY) as stub:
        run = bench.run("--base-url", stub.base_url, *words)

        assert stub.charged == 0
    assert run.code == 3
    assert message in run.error


# Other first sides -------------------------------------------------------------------------------


def test_another_server_in_sync_mode_is_asked_like_any_other(tmp_path: Path) -> None:
    slow = CASE.format(name="slow", picture=EXAMPLES / "one-object.png", seed=7)
    bench = Bench(tmp_path / "bench", CASES[:1], more=slow.replace("paint slow", "slow 3"))
    with StandInServer(tmp_path / "data", keys=(KEY,), sync_timeout_s=1.5) as server:
        run = bench.run(
            *("--base-url", server.address, "--api-version", "v3", "--sync-mode"),
            *("--profile", "demo"),
        )

    assert run.code == 0, run.err
    first, second = bench.outcomes()["ant-0"], bench.outcomes()["slow-0"]
    assert (first["polls"], first["times"]["submit"]) == (0, None)
    assert second["polls"] > 0, "the wait was over before the picture"
    assert second["times"]["total"] >= 3
    document = bench.document()
    assert [side.counts.completed for side in document.sides] == [2, 2]
    assert document.sides[0].model == "depthflux/stand-in"
    assert document.plan.sync_mode is True


def test_two_profiles_of_one_model_share_their_noise_and_nearly_their_pictures(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, CASES[:2])
    del bench.environment["WAVESPEED_API_KEY"]

    run = bench.run(
        "--profile", "demo", "--against-profile", "reference", "--set", "model=demo",
        "--device", "cpu", "--repeat", "2", "--concurrency", "2",
    )  # fmt: skip

    assert run.code == 0, run.err
    document = bench.document()
    assert document.same_noise is True
    assert [side.name for side in document.sides] == ["against", "local"]
    assert [side.counts.completed for side in document.sides] == [4, 4]
    by_name = {compared.name: compared for compared in document.difference}
    ssim = by_name["ssim"].difference
    assert ssim is not None
    assert ssim.value > 0.99
    for case in document.cases:
        seeds = [picture.seed for picture in case.pictures]
        assert seeds == [case.fields["seed"], case.fields["seed"] + 1]
        assert all(picture.is_equal or picture.psnr_db > 40 for picture in case.pictures)
