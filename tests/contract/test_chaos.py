"""scripts/chaos breaks what its plan says, and its page is that of its figures.

What it finds is in tests/contract/server/test_server_chaos.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chaos_server.plan import Amounts, make_plan
from chaos_server.wishes import KINDS, make_wishes

ROOT = Path(__file__).parents[2]
WHOLE = Amounts(
    jobs=10_000, worker_kills=50, server_kills=20, disk_s=6, lock_s=(8, 35), has_clock=True
)


def run_chaos(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    python_path = [str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(python_path)}
    return subprocess.run(
        [sys.executable, "-m", "chaos_server", *arguments],
        env=environment if path is None else environment | {"PATH": path},
        capture_output=True,
        text=True,
    )


def test_the_published_page_is_that_of_its_figures() -> None:
    run = run_chaos("--render", "--check")

    assert run.returncode == 0, run.stderr


def test_a_page_that_was_changed_is_called_out_of_date(tmp_path: Path) -> None:
    published = ROOT / "docs" / "benchmarks"
    for name in ("chaos.json", "chaos.md"):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    page = tmp_path / "chaos.md"
    page.write_text(page.read_text(encoding="utf-8").replace("found", "sought"), encoding="utf-8")

    run = run_chaos("--render", "--check", "--out", str(tmp_path / "chaos.json"))

    assert run.returncode == 1
    assert "out of date" in run.stderr


def test_the_seed_alone_says_what_breaks_after_which_job() -> None:
    plan = make_plan(7, WHOLE)

    assert plan == make_plan(7, WHOLE)
    assert plan != make_plan(8, WHOLE)
    assert Counter(fault.kind for fault in plan) == {
        "kill worker": 50, "kill server": 20, "full disk": 1, "lock": 2, "clock": 2,
    }  # fmt: skip
    afters = [fault.after for fault in plan]
    assert afters == sorted(afters)
    assert 0 < afters[0] < afters[-1] < 10_000


def test_a_worker_dies_while_the_disk_is_full_and_the_server_while_the_store_is_locked() -> None:
    plan = make_plan(7, WHOLE)

    for broken, killed in (("full disk", "kill worker"), ("lock", "kill server")):
        first = next(index for index, fault in enumerate(plan) if fault.kind == broken)
        meanwhile = [
            fault
            for fault in plan[first + 1 :]
            if fault.after == plan[first].after and fault.kind == killed
        ]
        assert [fault.delay_s for fault in meanwhile] == [plan[first].seconds / 2]


def test_the_plan_is_printed_as_it_would_be_carried_out() -> None:
    run = run_chaos("--plan", "--jobs", "100", "--worker-kills", "3", "--server-kills", "0")

    kinds = Counter(fault["kind"] for fault in json.loads(run.stdout))
    assert kinds == {"kill worker": 3, "full disk": 1, "lock": 2, "clock": 2}


def test_the_seed_alone_says_what_is_asked_for_and_every_kind_is_asked_for() -> None:
    wishes = make_wishes(3, 50)

    assert wishes == make_wishes(3, 50)
    assert wishes != make_wishes(4, 50)
    assert {wish.kind for wish in wishes} == set(KINDS)
    assert len({wish.seed for wish in wishes}) == len({wish.key for wish in wishes}) == 50


def test_without_a_right_to_mount_it_says_so_and_what_to_do(tmp_path: Path) -> None:
    # Nothing is found there that could enter a namespace.
    run = run_chaos("--jobs", "1", path=str(tmp_path))

    assert run.returncode == 3
    assert "this user may mount nothing" in run.stderr
    assert "--without-full-disk" in run.stderr


def test_without_a_compiler_it_says_so_and_what_to_do(tmp_path: Path) -> None:
    run = run_chaos("--jobs", "1", "--without-full-disk", path=str(tmp_path))

    assert run.returncode == 3
    assert "there is no cc" in run.stderr
    assert "--without-clock" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--jobs", "0"), "--jobs=0: allowed: 1 or more"),
        (("--lock-seconds", "long"), "--lock-seconds=long: allowed: numbers such as 8,35"),
        (("--lock-seconds", "1,2,3"), "--lock-seconds=1,2,3: allowed: two at most"),
        (("--server-kills", "-1"), "--server-kills=-1: allowed: 0 or more"),
        (("--check",), "--check: give --render, too"),
    ],
    ids=["jobs", "words", "locks", "kills", "check"],
)
def test_a_wrong_word_is_refused_before_anything_is_started(
    arguments: tuple[str, ...], words: str
) -> None:
    run = run_chaos(*arguments)

    assert run.returncode == 2
    assert words in run.stderr
