"""An earlier run's first side, checked and copied; whatever became of its suite's file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recording_fixtures import SUITE, plan_of, record, write_suite_file
from run_fixtures import RECORDED_AT

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.manifest import write_manifest
from depthflux.bench.hosted.measures import read_side
from depthflux.bench.hosted.plan import tasks_of
from depthflux.bench.hosted.planning import make_plan
from depthflux.bench.hosted.replaying import Replayed, open_recording, replay
from depthflux.bench.hosted.suite_copy import write_suite
from depthflux.errors import InvalidParameterError


class Again:
    """A run of one task of two, and a folder for the next run."""

    def __init__(self, path: Path) -> None:
        self.suite, self.target = write_suite_file(path), RunFolder(path / "next")
        self.source = record(path / "run", plan_of(self.suite, repeat=1, price_usd=0.03))
        self.target.path.mkdir()

    def replay(self, **changed: Any) -> Replayed:
        """Replay it, with its own suite unless a test says otherwise."""
        plan = plan_of(self.suite, **{"suite": None, "replay": self.source.path, **changed})
        assert plan.replay is not None
        write_suite(plan.suite, self.target)
        return replay(plan.replay, self.target, tasks_of(plan))

    def copied(self) -> list[str]:
        """What of the side is in the new folder."""
        side = self.target.path / "hosted"
        return sorted(path.name for path in side.rglob("*") if path.is_file())

    def change(self, name: str, **values: object) -> None:
        """Change a JSON file of the recording, and its manifest with it."""
        path = self.source.path / name
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))
        if name != "manifest.json":
            write_manifest(self.source)


@pytest.fixture
def again(tmp_path: Path) -> Again:
    return Again(tmp_path)


def test_what_there_is_of_the_first_side_is_copied_and_the_rest_counted(again: Again) -> None:
    replayed = again.replay()

    assert (replayed.side, replayed.missing) == ("hosted", 1)
    assert again.copied() == [
        "0.png", "intent.json", "outcome.json", "side.json", "submission.json",
    ]  # fmt: skip
    side = read_side(again.target, "hosted", tasks_of(plan_of(again.suite)))
    assert side is not None
    assert side.outcomes.keys() == {"one-0"}
    assert (side.facts.model, side.facts.recorded_at) == ("a/model", RECORDED_AT)


def test_a_recording_is_replayed_though_its_suite_s_file_and_pictures_are_gone(
    again: Again,
) -> None:
    again.suite.unlink()
    again.suite.with_name("cube.png").unlink()

    replayed = again.replay()

    assert replayed.missing == 1


def test_a_suite_of_other_words_and_the_same_cases_is_the_same(again: Again) -> None:
    one, two = SUITE.split("[[case]]")[1:]
    more = '[[case]]\nname = "three"\ncontrol_image = "cube.png"\nprompt = "more"\nseed = 1\n'
    again.suite.write_text(
        f'# In another order.\n[defaults]\nsize = "512*512"\n[[case]]{two}\n[[case]]{one}\n{more}'
    )

    replayed = again.replay(suite=again.suite)

    assert replayed.missing == 2
    assert "0.png" in again.copied()


def test_cases_that_were_asked_for_otherwise_are_refused_by_name(again: Again) -> None:
    again.suite.write_text(again.suite.read_text().replace("a red cube", "a green cube"))

    with pytest.raises(InvalidParameterError) as caught:
        again.replay(suite=again.suite)

    assert "one-0 was asked for with prompt='a red cube', and is asked for with" in str(
        caught.value
    )
    assert "'a green cube' now" in str(caught.value)
    assert again.copied() == []


def test_a_case_with_another_control_image_is_refused(again: Again) -> None:
    Image.new("RGB", (32, 32), "blue").save(again.suite.with_name("cube.png"))

    with pytest.raises(InvalidParameterError, match=r"one-0 was .* with another control image"):
        again.replay(suite=again.suite)

    assert again.copied() == []


def test_a_recording_without_a_task_of_the_suite_is_refused(again: Again) -> None:
    again.suite.write_text(SUITE.replace('"one"', '"uno"').replace('"two"', '"due"'))

    with pytest.raises(InvalidParameterError, match="it has none of the tasks that are asked for"):
        again.replay(suite=again.suite)

    assert again.copied() == []


def test_a_recording_that_is_touched_while_it_is_replayed_is_not_copied(again: Again) -> None:
    recording = open_recording(again.source.path)
    (again.source.path / "hosted/one-0/0.png").write_bytes(b"another picture")
    plan = plan_of(again.suite)
    write_suite(plan.suite, again.target)

    with pytest.raises(InvalidParameterError, match=r"hosted/one-0/0\.png was changed"):
        replay(recording, again.target, tasks_of(plan))

    assert not (again.target.path / "hosted/one-0/0.png").exists()


def test_a_recording_of_a_recording_is_one(again: Again, tmp_path: Path) -> None:
    again.replay()
    plan = plan_of(again.suite, suite=None, replay=again.source.path)
    second = record(tmp_path / "second", plan)

    recording = open_recording(second.path)

    assert recording.plan.first_side == "hosted"
    assert recording.plan.price_usd_per_picture == 0.03
    manifest = (again.source.path / "manifest.json").read_bytes()
    assert recording.plan.replayed_sha256 == hashlib.sha256(manifest).hexdigest()
    suite = recording.suite()
    assert (suite.name, suite.sha256) == ("mine", plan.suite.sha256)
    assert [case.fields for case in suite.cases] == [case.fields for case in plan.suite.cases]


def test_what_is_not_said_of_a_replay_is_as_it_was_recorded(tmp_path: Path) -> None:
    suite = write_suite_file(tmp_path)
    asked = {"repeat": 2, "concurrency": 3, "poll_interval_s": 2.0, "sync_mode": True}
    source = record(tmp_path / "run", plan_of(suite, price_usd=0.5, **asked))

    plan = make_plan(replay=source.path, profile="demo")
    other = make_plan(replay=source.path, profile="demo", repeat=1, price_usd=0.25)

    assert {name: getattr(plan, name) for name in asked} == asked
    assert (plan.price_usd, plan.suite.name) == (0.5, "mine")
    assert (other.repeat, other.concurrency, other.price_usd) == (1, 3, 0.25)


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_a_recording_of_a_later_version_is_told_as_that(name: str, again: Again) -> None:
    again.change(name, schema_version=2, kind="of the future")

    with pytest.raises(InvalidParameterError) as caught:
        again.replay()

    assert str(caught.value) == (
        f"{again.source.path}: {name} was written by a later depthflux: its schema_version is 2, "
        "and this one reads up to 1; update depthflux."
    )


def test_a_key_that_this_version_does_not_have_is_refused(again: Again) -> None:
    again.change("plan.json", kind="of the future")

    with pytest.raises(InvalidParameterError, match=r"plan\.json: 'kind'"):
        again.replay()

    assert again.copied() == []


def test_the_suite_in_the_folder_is_a_suite_like_any_other(again: Again) -> None:
    again.suite.write_text(SUITE.replace("a red cube", 'a \\"cube\\"\\t\\u007F\\n深 🙂'))
    plan = plan_of(again.suite)
    write_suite(plan.suite, again.target)

    copied = plan_of(again.target.path / "suite.toml")

    assert [case.fields for case in copied.suite.cases] == [
        case.fields for case in plan.suite.cases
    ]
    assert copied.suite.cases[0].fields["prompt"] == 'a "cube"\t\x7f\n深 🙂'
