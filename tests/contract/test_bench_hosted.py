"""`depthflux bench hosted` from outside: one run in which everything goes wrong with single tasks.

The stub (tests/hosted_stub) was written from the service's documentation alone, and counts what it
was paid for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from bench_runs import (
    CASES,
    KEY,
    Bench,
    Ended,
    absolute_paths,
    files_of,
    port_of,
)
from hosted_stub import Behaviour, Failure, HostedStub

from depthflux.bench.document import Document


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
        inference_ms=40,
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
        "timed": 3, "pictures": 3, "exact_size": 3, "told_safety": 3, "flagged": 1,
    }  # fmt: skip
    assert local.counts.completed == local.counts.pictures == 5
    assert local.counts.not_run == 1, "nothing is there to compare it with"
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
    assert "local: 5 of 6 tasks are done" in troubled.second.err
    assert document.sides[1].counts.completed == 6
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
    assert any("1 pair with a picture that its side calls not safe" in n for n in document.notes)
    assert any("2 of 6 tasks lack pictures" in note for note in document.notes)


def test_times_add_up_and_inference_is_what_the_side_reports(troubled: Troubled) -> None:
    times = troubled.bench.outcomes()["ant-0"]["times"]

    parts = [times[f"{part}_seconds"] for part in ("submit", "queue", "inference", "download")]
    assert times["inference_seconds"] == 0.04
    assert times["total_seconds"] == pytest.approx(sum(parts))
    assert min(parts) > 0


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


def test_the_local_side_alone_paints_a_picture_first_that_counts_nowhere(
    troubled: Troubled,
) -> None:
    said = [line for line in troubled.first.err.splitlines() if "painted first" in line]

    assert said == ["local: the like of ant-0 is painted first and counts nowhere"]
    assert "it was not painted" not in troubled.first.err
    kept = json.loads((troubled.bench.out / "local/ant-0/exchanges.json").read_bytes())
    assert [exchange["sent"]["seed"] for exchange in kept if exchange["method"] == "POST"] == [0]


def test_the_document_names_what_ran_and_no_path_of_this_machine(troubled: Troubled) -> None:
    hosted, local = troubled.bench.document().sides

    assert hosted.label == f"127.0.0.1:{port_of(troubled.stub.base_url)}"
    assert hosted.model == "wavespeed-ai/flux-control-lora-depth"
    assert (local.label, local.model) == ("depthflux demo", "depthflux/demo")
    assert local.device.startswith("CPU ")
    assert local.settings["model"] == "demo"
    assert absolute_paths(troubled.bench.document().model_dump(mode="json")) == []
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
