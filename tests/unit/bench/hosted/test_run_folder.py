"""The run's folder: what a task's files say of it, and what is refused as no run's."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from pathlib import Path

import pytest
from run_fixtures import FIELDS, facts, failed

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.run_files import Intent, SideFacts, Submission, inside
from depthflux.errors import InvalidParameterError, OutputError

INTENT = Intent(task="ant-0", fields=FIELDS, began_at=1.5)


def test_a_task_s_files_say_how_far_it_has_come(tmp_path: Path) -> None:
    task = RunFolder(tmp_path).task("hosted", "ant-0")

    states = [task.state]
    task.intend(INTENT)
    states.append(task.state)
    task.submit(Submission(prediction="0" * 32))
    states.append(task.state)
    task.end(failed("ant-0"))
    states.append(task.state)

    assert states == ["new", "intended", "submitted", "ended"]
    assert task.intent() == INTENT
    assert task.outcome() == failed("ant-0")


def test_a_task_that_was_not_taken_is_new_again(tmp_path: Path) -> None:
    task = RunFolder(tmp_path).task("hosted", "ant-0")
    task.intend(INTENT)

    task.withdraw()

    assert task.state == "new"


def test_a_task_is_forgotten_with_all_its_files(tmp_path: Path) -> None:
    task = RunFolder(tmp_path).task("local", "ant-0")
    task.intend(INTENT)
    task.write_picture("0.png", b"picture")

    task.forget()

    assert list(task.path.iterdir()) == []


def test_exchanges_of_a_later_run_stand_behind_those_of_the_earlier(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    folder.add_exchanges("hosted/uploads.json", [{"status": 429}])
    folder.add_exchanges("hosted/uploads.json", [{"status": 200}])

    kept = json.loads((tmp_path / "hosted/uploads.json").read_bytes())
    assert kept == [{"status": 429}, {"status": 200}]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[{", "is no JSON"), ('{"status": 200}', "holds no list"), ("\xff", "is no JSON")],
)
def test_damaged_exchanges_are_told_and_kept(text: str, message: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_exchanges("hosted/uploads.json", [])
    file = tmp_path / "hosted/uploads.json"
    file.write_bytes(text.encode("latin-1"))

    with pytest.raises(InvalidParameterError, match=rf"hosted/uploads\.json {message}") as caught:
        folder.add_exchanges("hosted/uploads.json", [{"status": 200}])

    assert str(caught.value).isprintable()
    assert file.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"task": "ant-0"}', "[" * 100_000])
def test_a_damaged_outcome_is_told_by_its_name(text: str, tmp_path: Path) -> None:
    task = RunFolder(tmp_path).task("hosted", "ant-0")
    task.intend(INTENT)
    (task.path / "outcome.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(InvalidParameterError, match=r"hosted/ant-0/outcome\.json: ") as caught:
        task.outcome()

    assert str(caught.value).isprintable()


def test_what_the_system_refuses_is_told_with_the_file(tmp_path: Path) -> None:
    endless = RunFolder(tmp_path).task("hosted", "x" * 300)
    full = RunFolder(tmp_path).task("local", "ant-0")
    (full.path / "0.png").mkdir(parents=True)
    (tmp_path / "hosted").mkdir()

    with pytest.raises(OutputError, match=r"xx/outcome\.json: File name too long"):
        pytest.fail(endless.state)
    with pytest.raises(OutputError, match="ant-0: "):
        full.forget()

    assert full.path.exists()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(OutputError, match=r"it cannot be held \(No locks available\); name one on"),
        RunFolder(tmp_path).held(),
    ):
        pytest.fail("it is held")

    assert list(tmp_path.iterdir()) == []


def test_two_runs_cannot_hold_one_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).held(),
        pytest.raises(OutputError, match="another run is at work in it"),
        RunFolder(tmp_path).held(),
    ):
        pytest.fail("both hold it")

    with RunFolder(tmp_path).held():
        held_again = True
    assert held_again


def test_a_new_run_wants_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")

    with pytest.raises(OutputError, match=r"it is not empty: 'thesis\.txt' is there") as caught:
        RunFolder(tmp_path).begin({})

    assert caught.value.exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_run_is_not_begun_over_another(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin({"fingerprint": "1"})

    with pytest.raises(OutputError, match="holds a run already; add --resume"):
        RunFolder(tmp_path).begin({"fingerprint": "2"})

    assert json.loads((tmp_path / "plan.json").read_bytes()) == {"fingerprint": "1"}


def test_there_is_nothing_to_go_on_with_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no run to go on with; leave --resume out"):
        RunFolder(tmp_path).require_run()


def test_going_on_removes_what_holds_no_more_and_what_was_half_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({})
    folder.task("hosted", "ant-0").intend(INTENT)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "report.html").write_text("of before")
    half = tmp_path / "hosted/ant-0/.outcome.json.0123456789abcdef"
    half.write_text("{")
    (tmp_path / ".keep").write_text("a person's own")

    folder.go_on()

    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    # The report is replaced when there is another; until then it is what there is.
    assert left == [".keep", "intent.json", "plan.json", "report.html", "report.json"]


def test_what_is_known_of_a_side_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    written = facts(model="m", upload_seconds={"ant": 0.25}, load_seconds=3.0)

    folder.write_side(written)

    assert folder.side("hosted") == written
    assert folder.side("local") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "hosted/side.json: ''", id="no JSON"),
        pytest.param('{"name": "hosted"}', "hosted/side.json: 'label'", id="too little"),
        pytest.param(
            facts().model_dump_json().replace('"model":', '"made_up": 1, "model":'),
            "'made_up'",
            id="too much",
        ),
        pytest.param(facts("local").model_dump_json(), "is of 'local'", id="another side's"),
    ],
)
def test_a_file_that_no_run_writes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "hosted").mkdir()
    (tmp_path / "hosted/side.json").write_text(text)

    with pytest.raises(InvalidParameterError) as caught:
        RunFolder(tmp_path).side("hosted")

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(facts(), SideFacts)


@pytest.mark.parametrize(
    "file",
    ["local/ant-0/0.png", "hosted/ant-0/../../0.png", "/etc/passwd", "hosted/bee-0/0.png", "0.png"],
)
def test_an_outcome_names_only_pictures_of_its_own_folder(file: str, tmp_path: Path) -> None:
    task = RunFolder(tmp_path).task("hosted", "ant-0")
    outcome = failed("ant-0").model_dump(mode="json")
    picture = {
        "file": file, "sha256": "0", "media_type": "image/png", "width": 1, "height": 1,
        "bytes": 1, "flagged": None,
    }  # fmt: skip
    task.intend(INTENT)
    (task.path / "outcome.json").write_text(json.dumps({**outcome, "pictures": [picture]}))

    with pytest.raises(InvalidParameterError, match=r"outcome\.json is of another task"):
        task.outcome()


def test_an_id_that_could_lead_elsewhere_is_refused(tmp_path: Path) -> None:
    task = RunFolder(tmp_path).task("hosted", "ant-0")
    task.intend(INTENT)
    (task.path / "submission.json").write_text('{"prediction": "../../admin"}')

    with pytest.raises(InvalidParameterError, match=r"submission\.json: 'prediction'"):
        task.submission()


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "/x.json",
        "a/../b.json",
        "a//b.json",
        "a/b/c/d.json",
        ".x",
        "a\\b",
        "A.json",
        "",
    ],
)
def test_names_that_no_run_gives_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="which is no file of a run"):
        inside(tmp_path, name)


@pytest.mark.parametrize("is_gone_on", [False, True])
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_run_whose_folder_is_gone_writes_nothing_in_its_place(
    is_gone_on: bool, is_whole: bool, tmp_path: Path
) -> None:
    """Also where removing it races with writing, so that the folder itself is left."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.begin({})
    if is_gone_on:
        folder = RunFolder(folder.path)
        folder.go_on()
    shutil.rmtree(folder.path)
    if not is_whole:
        folder.path.mkdir()

    for write in (
        lambda: folder.task("hosted", "ant-0").intend(INTENT),
        lambda: folder.task("hosted", "ant-0").end(failed("ant-0")),
        lambda: folder.write("manifest.json", b"{}"),
    ):
        with pytest.raises(OutputError, match="folder was removed meanwhile; make room") as caught:
            write()
        assert "--out" not in str(caught.value)

    assert list(tmp_path.rglob("*")) == ([] if is_whole else [folder.path])


def test_what_cannot_be_written_sends_nobody_to_another_folder(tmp_path: Path) -> None:
    """In which everything would be paid for again."""
    folder = RunFolder(tmp_path)
    (tmp_path / "hosted").write_text("a file where a folder belongs")

    with pytest.raises(OutputError, match=r"cannot write \S+side\.json: .*keep to this") as caught:
        folder.write_side(facts())

    assert "--out" not in str(caught.value)


def test_a_task_that_was_sent_stays_so_where_its_files_are_gone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.task("hosted", "ant-0").intend(INTENT)
    folder.task("hosted", "bee-0").intend(INTENT)
    folder.task("hosted", "bee-0").withdraw()
    shutil.rmtree(folder.path)

    sent = [key for key in ("ant-0", "bee-0", "cat-0") if folder.task("hosted", key).may_be_sent]

    assert sent == ["ant-0"]
