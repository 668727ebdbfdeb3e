"""`depthflux bench hosted` from outside: a picture that is paid for and comes late is not lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from bench_runs import EXAMPLES, Bench, Ended
from scripted_server import Asked, Reply, ScriptedServer

PICTURE = (EXAMPLES / "one-object.png").read_bytes()
CUT_SHORT = PICTURE[: len(PICTURE) // 2]


class Late:
    """A side whose first picture is cut short until it is told otherwise.

    Attributes:
        submissions: taken so far.
        is_whole: whether the first picture is there.
    """

    def __init__(self) -> None:
        self.submissions, self.is_whole = 0, False
        self.url = ""

    def __call__(self, asked: Asked) -> Reply:
        if asked.path.endswith(".png"):
            cut = asked.path.endswith("/1.png") and not self.is_whole
            return Reply(CUT_SHORT if cut else PICTURE)
        if "upload" in asked.path:
            return told({"download_url": f"{self.url}/control.png"})
        if asked.method == "POST":
            self.submissions += 1
            return told({"id": f"{self.submissions:032x}", "status": "created"})
        id = asked.path.split("/")[-2]
        outputs = [f"{self.url}/{int(id, 16)}.png"]
        return told({"id": id, "status": "completed", "outputs": outputs})


def told(data: dict[str, Any]) -> Reply:
    return Reply({"code": 200, "message": "success", "data": data})


@dataclass(frozen=True)
class Runs:
    """Three runs in one folder: stopped, gone on with, and gone on with once all is there."""

    ended: list[Ended]
    outcomes: list[dict[str, dict[str, Any]]]
    submissions: list[int]
    exchanges: list[dict[str, Any]]
    refused: bytes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    bench = Bench(tmp_path_factory.mktemp("late"), ("ant", "bee"))
    late = Late()
    with ScriptedServer(late) as server:
        late.url = server.url
        words = ("--base-url", server.url, "--profile", "demo", "--price-per-picture", "0.5")
        found: list[Ended] = []
        outcomes, submissions = [], []
        for options in ((), ("--resume",), ("--resume",)):
            late.is_whole = len(found) == 2
            found.append(bench.run(*words, *options))
            outcomes.append(bench.outcomes())
            submissions.append(late.submissions)
    exchanges = json.loads((bench.out / "hosted/ant-0/exchanges.json").read_bytes())
    refused = (bench.out / "hosted/ant-0/0.refused").read_bytes()
    return Runs(found, outcomes, submissions, exchanges, refused)


def test_the_run_that_paid_for_it_stops_before_it_pays_for_more(runs: Runs) -> None:
    assert runs.ended[0].code == 1
    assert "1 picture counts as paid (0.5 USD)" in runs.ended[0].error
    assert runs.ended[0].error.endswith("Run the same command with --resume to go on.")
    assert (runs.outcomes[0], runs.submissions[0]) == ({}, 1)
    assert runs.refused == CUT_SHORT


def test_a_later_run_calls_it_failed_and_goes_on_with_the_others(runs: Runs) -> None:
    assert runs.ended[1].code == 0, runs.ended[1].err
    ant, bee = (runs.outcomes[1][key] for key in ("ant-0", "bee-0"))
    assert (ant["status"], ant["may_come"], bee["status"]) == ("failed", True, "completed")
    assert runs.submissions[1] == 2


def test_once_it_is_there_the_next_run_has_it_and_pays_nothing(runs: Runs) -> None:
    assert runs.ended[2].code == 0, runs.ended[2].err
    ant = runs.outcomes[2]["ant-0"]
    assert (ant["status"], len(ant["pictures"]), ant["times"]) == ("completed", 1, None)
    assert runs.submissions[2] == 2
    assert runs.outcomes[2]["bee-0"] == runs.outcomes[1]["bee-0"]
    assert [one["method"] for one in runs.exchanges].count("POST") == 1
