"""What a reader is told of one side, beside its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_fixtures import completed, facts, make_suite, tasks_of_suite

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.measures import read_side
from depthflux.bench.hosted.reporting import notes_of_side
from depthflux.bench.hosted.run_files import SideFacts


def notes(path: Path, given: SideFacts, *, retries: int = 0, is_timed: bool = True) -> str:
    folder = RunFolder(path / "run")
    folder.path.mkdir()
    (task,) = tasks_of_suite(make_suite(path, ["ant"]))
    folder.write_side(given)
    outcome = completed(folder, "hosted", task, is_timed=is_timed)
    folder.task("hosted", task.key).end(outcome.model_copy(update={"retries": retries}))
    recorded = read_side(folder, "hosted", [task])
    assert recorded is not None
    return "\n".join(notes_of_side(recorded))


def test_fields_that_could_not_be_read_are_named(tmp_path: Path) -> None:
    told = notes(tmp_path, facts(unread=["data.error", "data.timings"]))

    assert (
        "Answers of hosted held something else than the API has as data.error, data.timings" in told
    )


@pytest.mark.parametrize(
    ("settings", "is_said"),
    [({"remember": "none"}, False), ({"remember": "disk"}, True)],
    ids=["as always", "as the user set it"],
)
def test_a_local_server_that_remembers_is_told_of(
    tmp_path: Path, settings: dict[str, str], is_said: bool
) -> None:
    told = notes(tmp_path, facts(profile="exact", settings=settings, load_seconds=4.0))

    assert ("hosted was set to remember=disk" in told) is is_said
    assert "asked for one picture that counts nowhere" in told


def test_one_of_a_thing_is_no_several(tmp_path: Path) -> None:
    told = notes(tmp_path, facts(), retries=1, is_timed=False)

    assert "1 task of hosted was not seen from its beginning" in told
    assert "1 request to hosted was sent anew" in told


def test_inferences_that_cannot_be_are_counted(tmp_path: Path) -> None:
    told = notes(tmp_path, facts(impossible_inferences=2))

    assert "hosted reported an inference of 2 tasks that cannot be" in told


def test_of_a_side_without_pictures_it_is_not_said_what_it_says_of_them(tmp_path: Path) -> None:
    folder, tasks = RunFolder(tmp_path / "run"), tasks_of_suite(make_suite(tmp_path, ["ant"]))
    folder.path.mkdir()
    folder.write_side(facts())
    recorded = read_side(folder, "hosted", tasks)
    assert recorded is not None

    assert list(notes_of_side(recorded)) == []


def test_of_a_side_whose_answers_could_be_read_nothing_is_said(tmp_path: Path) -> None:
    assert notes(tmp_path, facts()) == ""
