"""What --resume looks at before it goes on: a record that was touched is not made a genuine one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recording_fixtures import plan_of, record, write_suite_file

from depthflux.bench.hosted.contest import run_contest
from depthflux.bench.hosted.folder import RunFolder
from depthflux.errors import InvalidParameterError, OutputError, WeightsMissingError


class Begun:
    """A run of two tasks, both answered, and its going on without a judge, which ends it."""

    def __init__(self, path: Path) -> None:
        (path / "empty").mkdir()
        # The judge that is not there ends a run before anything is asked.
        self.plan = plan_of(write_suite_file(path), estimator=path / "empty")
        self.path = record(path / "out", self.plan, answered=2).path
        self.said: list[str] = []

    def go_on(self) -> str:
        """Go on as far as to the judge; what it was refused for before, or nothing."""
        try:
            run_contest(self.plan, key="", out=self.path, resume=True, say=self.said.append)
        except InvalidParameterError as error:
            return str(error)
        except WeightsMissingError:
            return ""
        pytest.fail("there is no judge")

    def forget_manifest(self) -> None:
        """As a run leaves it that was killed."""
        (self.path / "manifest.json").unlink()


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    return Begun(tmp_path)


def test_what_was_not_touched_is_gone_on_with(begun: Begun) -> None:
    assert begun.go_on() == ""
    assert begun.said == []


@pytest.mark.parametrize("is_told", [True, False], ids=["manifest", "killed"])
def test_another_picture_in_a_picture_s_place_is_refused(is_told: bool, begun: Begun) -> None:
    theirs = begun.path / "hosted/two-0/0.png"
    if not is_told:
        begun.forget_manifest()
    shutil.copy(theirs, begun.path / "hosted/one-0/0.png")
    theirs.write_bytes(theirs.read_bytes() + b"x")
    before = sorted(begun.path.rglob("*"))

    refused = begun.go_on()

    assert "hosted/two-0/0.png was changed since it was recorded" in refused
    assert sorted(begun.path.rglob("*")) == before, "the manifest, too, is as it was"


@pytest.mark.parametrize(
    "name",
    ["hosted/one-0/outcome.json", "hosted/one-0/intent.json", "plan.json", "local/one-0/0.png"],
)
def test_a_file_that_the_manifest_has_otherwise_is_refused(name: str, begun: Begun) -> None:
    with (begun.path / name).open("ab") as file:
        file.write(b"\n")

    assert f"{name} was changed since it was recorded" in begun.go_on()


def test_a_report_may_be_changed_since_it_is_made_anew(begun: Begun) -> None:
    folder = RunFolder(begun.path)
    for name in ("report.json", "report.html"):
        folder.write(name, b"of before")
    manifest = json.loads((begun.path / "manifest.json").read_bytes())
    manifest["files"].append({"file": "report.html", "bytes": 1, "sha256": "0" * 64})
    (begun.path / "manifest.json").write_text(json.dumps(manifest))

    assert begun.go_on() == ""


def test_a_picture_that_is_gone_is_told(begun: Begun) -> None:
    (begun.path / "hosted/two-0/1.png").unlink()

    assert "hosted/two-0/1.png is gone" in begun.go_on()


def test_of_many_changes_the_first_are_told_and_the_rest_counted(begun: Begun) -> None:
    manifest = json.loads((begun.path / "manifest.json").read_bytes())
    for number in range(30):
        (begun.path / f"local/{number}.txt").write_text("now")
        manifest["files"].append({"file": f"local/{number}.txt", "bytes": 1, "sha256": "0" * 64})
    (begun.path / "manifest.json").write_text(json.dumps(manifest))

    assert "; and 10 more" in begun.go_on()


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(("",), id="the folder"),
        pytest.param(("intent.json", "submission.json", "outcome.json"), id="all that says it"),
        pytest.param(("submission.json", "outcome.json"), id="the id"),
    ],
)
def test_a_task_that_was_sent_and_is_gone_is_not_sent_again(
    gone: tuple[str, ...], begun: Begun
) -> None:
    _remove(begun.path / "hosted/one-0", gone)

    refused = begun.go_on()

    assert "hosted/one-0 was sent, and what was recorded of it is gone" in refused


@pytest.mark.parametrize(
    ("exchange", "is_refused"),
    [
        ({"method": "POST", "status": 200, "body": {"code": 200, "data": {"id": "a"}}}, True),
        ({"method": "POST", "status": 503, "body": None}, True),
        ({"method": "POST", "status": 200, "body": "no JSON"}, True),
        ({"method": "POST", "status": 200, "body": {"code": 402}}, False),
        ({"method": "POST", "status": 429, "body": {"code": 429}}, False),
        ({"method": "POST", "status": None, "body": None}, False),
        ({"method": "GET", "status": 200, "body": {"code": 200, "data": {"id": "a"}}}, False),
        ("nothing that a run writes", False),
    ],
)
def test_nor_one_whose_exchanges_say_that_it_may_have_been_taken(
    exchange: object, is_refused: bool, begun: Begun
) -> None:
    begun.forget_manifest()
    task = begun.path / "hosted/one-0"
    _remove(task, ("intent.json", "submission.json", "outcome.json"))
    (task / "exchanges.json").write_text(json.dumps([exchange]))

    refused = begun.go_on()

    assert ("hosted/one-0 was sent, and what was recorded" in refused) is is_refused


@pytest.mark.parametrize("with_outcome", [True, False], ids=["ended", "taken"])
def test_an_intent_that_is_gone_is_written_again_where_the_id_is_known(
    with_outcome: bool, begun: Begun
) -> None:
    task = begun.path / "hosted/one-0"
    intent = json.loads((task / "intent.json").read_bytes())
    _remove(task, ("intent.json",) if with_outcome else ("intent.json", "outcome.json"))

    assert begun.go_on() == ""

    again = json.loads((task / "intent.json").read_bytes())
    assert again["fields"] == intent["fields"]
    assert begun.said == [
        "hosted/one-0/intent.json was gone, and is written again: its id is known"
    ]
    if with_outcome:
        assert again["began_at"] == intent["began_at"]


def test_the_id_of_what_may_come_is_written_again_where_its_end_tells_it(begun: Begun) -> None:
    task = RunFolder(begun.path).task("hosted", "one-0")
    may_come = {"status": "failed", "pictures": [], "prediction": "a" * 32, "may_come": True}
    task.end(task.outcome().model_copy(update=may_come))
    begun.forget_manifest()
    _remove(task.path, ("submission.json", "intent.json"))

    assert begun.go_on() == ""

    submission = task.submission()
    assert submission is not None
    assert submission.prediction == "a" * 32
    assert begun.said == [
        f"hosted/one-0/{name} was gone, and is written again: its id is known"
        for name in ("submission.json", "intent.json")
    ]


def test_what_cannot_be_written_again_ends_the_run_as_any_other_error_does(begun: Begun) -> None:
    intent = begun.path / "hosted/one-0/intent.json"
    intent.unlink()
    intent.symlink_to(intent.name)
    begun.forget_manifest()

    with pytest.raises(OutputError, match=r"intent\.json: .*--resume to go on\.$"):
        begun.go_on()

    assert begun.said == [], "what cannot be written is told once"


def test_a_damaged_manifest_is_told_and_kept(begun: Begun) -> None:
    (begun.path / "manifest.json").write_text("{")

    assert "manifest.json: " in begun.go_on()
    assert (begun.path / "manifest.json").read_text() == "{"


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("[{")])
def test_what_was_exchanged_decides_nothing_where_the_task_s_end_is_known(
    change: Callable[[Path], object], begun: Begun
) -> None:
    begun.forget_manifest()
    exchanges = begun.path / "hosted/one-0/exchanges.json"
    exchanges.write_text("[]")
    change(exchanges)

    assert begun.go_on() == ""


def _remove(task: Path, names: tuple[str, ...]) -> None:
    for name in names:
        shutil.rmtree(task) if not name else (task / name).unlink()
