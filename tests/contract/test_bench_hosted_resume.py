"""`depthflux bench hosted` from outside: one run that is killed, cut off, interrupted and finished.

The stub (tests/hosted_stub) counts what it was paid for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from bench_runs import (
    CASES,
    KEY,
    Bench,
    Ended,
    Gate,
    are_gone,
    descendants,
    ended,
    files_of,
    port_of,
    wait_for,
)
from hosted_stub import Behaviour, HostedStub


@dataclass(frozen=True)
class Broken:
    """One run in four processes: killed, cut off, interrupted, finished."""

    bench: Bench
    cut_off: Ended
    interrupted: Ended
    finished: Ended
    stub: HostedStub
    charged: list[int]
    started: list[tuple[int, str]]
    anew: Ended
    asked_anew: int
    judged_by_none: Ended
    kept: bool


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
        started = descendants(killed.pid)
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
        asked = len(stub.requests)
        del bench.environment["WAVESPEED_API_KEY"]
        anew = bench.run(*words, "--resume", "--electricity-per-kwh", "1", "--watts", "60")
        report = (bench.out / "report.json").read_bytes()
        by_none = bench.run(*words, "--resume", "--estimator", ".")
        kept = (bench.out / "report.json").read_bytes() == report
        asked_anew = len(stub.requests) - asked
        yield Broken(
            bench, cut_off, told, finished, stub, charged, started, anew, asked_anew, by_none, kept
        )


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
    assert broken.started != [], "there was one"
    assert are_gone(broken.started)


def test_what_is_recorded_is_judged_anew_without_a_key_and_without_a_server(
    broken: Broken,
) -> None:
    assert broken.anew.code == 0, broken.anew.err
    assert broken.asked_anew == 0
    assert "loading profile" not in broken.anew.err
    assert broken.bench.document().plan.electricity_usd_per_kwh == 1


def test_a_report_stays_until_there_is_another(broken: Broken) -> None:
    assert broken.judged_by_none.code == 3
    assert "the depth estimator" in broken.judged_by_none.error
    assert broken.kept
    assert (broken.bench.out / "report.html").exists()


def test_a_run_that_was_begun_is_neither_overwritten_nor_gone_on_with_otherwise(
    broken: Broken,
) -> None:
    words = ("--base-url", "http://127.0.0.1:9", "--profile", "demo")
    before = files_of(broken.bench.out)

    broken.bench.environment["WAVESPEED_API_KEY"] = KEY
    anew = broken.bench.run(*words)
    otherwise = broken.bench.run(*words, "--repeat", "2", "--resume")

    assert (anew.code, otherwise.code) == (2, 2)
    assert "it holds a run already; add --resume" in anew.error
    assert "--repeat was 1 and is 2 now" in otherwise.error
    assert files_of(broken.bench.out) == before
