"""scripts/soak measures what its page says, and the page is that of its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soak_server.figures import quantiles, slope_with_interval, theil_sen
from soak_server.memory import judge
from soak_server.page import render

ROOT = Path(__file__).parents[2]


def run_soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = [str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "soak_server", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All parts for a second or two: the folder of the page, and the document."""
    folder = tmp_path_factory.mktemp("soak")
    short = ("--count", "2", "--rates", "60", "--seconds", "1.5", "--minutes", "0.04")
    run = run_soak(*short, "--out", str(folder))
    assert run.returncode == 0, run.stderr
    return folder, json.loads(run.stdout.splitlines()[-1])


def test_the_published_page_is_that_of_its_figures() -> None:
    run = run_soak("--render", "--check")

    assert run.returncode == 0, run.stderr


def test_nothing_fails_in_a_short_run(run: tuple[Path, dict[str, Any]]) -> None:
    _, document = run

    assert document["failures_count"] == 0
    assert list(document["parts"]) == ["overhead", "load", "memory"]
    for part in document["parts"].values():
        assert part["failures_count"] == 0
        assert set(part["run"]) == {"command", "date", "commit", "host", "python", "versions"}


def test_each_kind_of_request_is_timed_as_often_as_asked(
    run: tuple[Path, dict[str, Any]],
) -> None:
    part = run[1]["parts"]["overhead"]

    assert {kind: times["count"] for kind, times in part["added_ms"].items()} == dict.fromkeys(
        ("sync_url", "sync_inline", "sync_inline_large"), 2
    )
    calls = {kind: times["count"] for kind, times in part["calls_ms"].items()}
    assert calls == {"livez": 2, "poll": 4, "submit_url": 2, "submit_inline": 2, "upload": 2}
    # The stand-in sleeps 50 ms: less than nothing cannot be added.
    assert min(times["min"] for times in part["added_ms"].values()) > 0
    assert part["flush_ms"]["count"] == 100


def test_polls_come_at_the_rate_asked_for_beside_clients_that_get_pictures(
    run: tuple[Path, dict[str, Any]],
) -> None:
    (step,) = run[1]["parts"]["load"]["rates"]

    assert step["wanted_polls_per_second"] == 60
    # An open loop sends all of them, however slow the answers are; it begins with the first
    # submission's answer.
    assert 60 < step["poll_ms"]["count"] <= 90
    assert step["pictures_per_second"] > 0
    assert 0 < step["poll_ms"]["p50"] <= step["poll_ms"]["p99"] <= step["poll_ms"]["max"]
    assert step["cpu"]["server_cores"] > 0


def test_the_mix_holds_every_kind_of_call_that_so_short_a_run_has_time_for(
    run: tuple[Path, dict[str, Any]],
) -> None:
    part = run[1]["parts"]["memory"]

    done = part["done_count"]
    assert {"submit_url", "sync_inline", "upload", "poll", "list", "refused", "webhook"} <= set(
        done
    )
    assert set(part["processes"]) == {"server", "worker"}
    assert part["setting"]["looks_count"] > 20
    for look in part["looks"]:
        assert look["server_mb"] > look["server_own_mb"] > 10
        assert look["server_files"] > 5
        assert look["worker_threads"] >= 3


def test_the_page_is_written_from_the_document_and_compared_with_it(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, document = run
    page = folder / "server.md"
    written = json.loads((folder / "server.json").read_text(encoding="utf-8"))

    assert written == {"parts": document["parts"]}
    assert page.read_text(encoding="utf-8") == render(document)
    assert run_soak("--render", "--check", "--out", str(folder)).returncode == 0

    page.write_text(page.read_text(encoding="utf-8").replace("Goals", "Aims"), encoding="utf-8")
    stale = run_soak("--render", "--check", "--out", str(folder))
    assert stale.returncode == 1
    assert "out of date" in stale.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--parts", "all"), "--parts: all is none; allowed: overhead, load, memory"),
        (("--rates", "fast"), "--rates=fast: allowed: numbers with commas"),
        (("--minutes", "0"), "--minutes=0: allowed: more than 0"),
        (("--check",), "--check: give --render, too"),
    ],
    ids=["part", "rate", "minutes", "check"],
)
def test_a_wrong_word_is_refused_before_anything_is_started(
    arguments: tuple[str, ...], words: str
) -> None:
    run = run_soak(*arguments)

    assert run.returncode == 2
    assert words in run.stderr


def test_a_slope_is_that_of_the_line_and_single_jumps_do_not_bend_it() -> None:
    times = np.arange(60.0)
    values = 3 + 0.5 * times
    values[7] += 100

    assert theil_sen(times, values) == pytest.approx(0.5)
    slope, low, high = slope_with_interval(list(times), list(values), block=5)
    assert low <= slope <= high


@pytest.mark.parametrize(
    ("growth_mb_per_minute", "flat"), [(0.0, True), (0.02, True), (0.3, False)]
)
def test_memory_that_grows_is_not_called_flat(growth_mb_per_minute: float, flat: bool) -> None:
    minutes = [index / 12 for index in range(360)]
    noise = np.random.default_rng(1).normal(0, 0.2, len(minutes))
    megabytes = [
        100 + growth_mb_per_minute * minute + float(wobble)
        for minute, wobble in zip(minutes, noise, strict=True)
    ]

    found = judge(minutes, megabytes)

    assert found["flat"] is flat
    assert found["slope_mb_per_10_minutes"] == pytest.approx(10 * growth_mb_per_minute, abs=0.1)
    low, high = found["slope_interval_mb_per_10_minutes"]
    assert low <= found["slope_mb_per_10_minutes"] <= high


def test_quantiles_of_nothing_are_zeros_and_say_so() -> None:
    assert quantiles([]) == {
        "count": 0, "p5": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "min": 0.0, "max": 0.0,
    }  # fmt: skip
