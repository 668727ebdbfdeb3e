"""Two recordings → measures over cases, with judges that are a test's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing_fixtures import CARD, NAMES, SIZE, Comparing, Letters
from PIL import Image
from run_fixtures import failed, picture, tasks_of_suite

from depthflux.bench.hosted.comparing import NO_PAIRS
from depthflux.errors import UnreadableImageError


@pytest.fixture
def made(tmp_path: Path) -> Comparing:
    return Comparing(tmp_path)


def upside_down() -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture(size=SIZE))) as upright:
        upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(buffer, "PNG")
    return buffer.getvalue()


def flat_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, (90, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_side_that_keeps_the_structure_is_better_than_one_that_turns_it_over(
    made: Comparing,
) -> None:
    for number in range(6):
        made.give("hosted", number, data=upside_down())
        made.give("local", number)

    structure = made.compare().quality[0]

    assert (structure.name, structure.cases, structure.verdict) == ("structure", 6, "better")
    assert structure.first == pytest.approx(-1, abs=0.01)
    assert structure.second == pytest.approx(1, abs=0.01)
    assert structure.difference is not None
    assert structure.difference.value == pytest.approx(2, abs=0.02)
    assert CARD.name in structure.how


def test_equal_sides_show_no_difference_and_five_cases_have_no_verdict(
    made: Comparing, tmp_path: Path
) -> None:
    (tmp_path / "few").mkdir()
    few = Comparing(tmp_path / "few", NAMES[:5])
    for comparing, count in ((made, 6), (few, 5)):
        for number in range(count):
            comparing.give("hosted", number)
            comparing.give("local", number)

    verdicts = [comparing.compare().quality[0].verdict for comparing in (made, few)]

    assert verdicts == ["no difference shown", "unknown"]


def test_repetitions_are_no_cases(made: Comparing) -> None:
    made.tasks = tasks_of_suite(made.suite, repeat=3)
    for number in range(18):
        made.give("hosted", number, total=4.0)
        made.give("local", number, total=float(1 + number // 6))

    found = made.compare()

    assert found.quality[0].cases == 6
    total = found.speed[0]
    assert (total.name, total.cases, total.second) == ("total_time", 6, 2.0), "the median"
    assert total.difference is not None
    assert total.difference.value == pytest.approx(0.5)
    assert (total.is_ratio, total.verdict) == (True, "better")
    assert [len(case.pictures) for case in found.cases] == [3] * 6
    assert [pair.seed for pair in found.cases[0].pictures] == [5, 6, 7]
    assert found.cases[0].total_seconds == {"hosted": 4.0, "local": 2.0}


def test_what_one_side_lacks_makes_no_pair_and_is_said(made: Comparing) -> None:
    made.give("hosted", 0)
    made.give("local", 0)
    made.give("local", 1)
    made.outcomes["hosted"][made.tasks[1].key] = failed(made.tasks[1].key)

    found = made.compare()

    assert found.quality[0].cases == 1
    (lonely,) = found.cases[1].pictures
    assert lonely.files.keys() == lonely.structure.keys() == {"local"}
    assert (lonely.ssim, lonely.is_equal) == (None, None)
    assert found.cases[2].pictures == []
    assert found.notes[0].startswith("5 of 6 tasks lack pictures of at least one side")


def test_pictures_of_a_task_that_failed_are_neither_judged_nor_paired(made: Comparing) -> None:
    made.give("hosted", 0)
    made.give("local", 0)
    key = made.tasks[0].key
    kept = made.outcomes["hosted"][key].pictures
    made.outcomes["hosted"][key] = failed(key).model_copy(update={"pictures": kept})

    found = made.compare()

    assert found.quality[0].cases == 0
    (lonely,) = found.cases[0].pictures
    assert lonely.files.keys() == lonely.structure.keys() == {"local"}
    assert lonely.is_equal is None


def test_flagged_pictures_are_shown_and_not_judged(made: Comparing) -> None:
    made.give("hosted", 0, flagged=True)
    made.give("local", 0)

    found = made.compare()

    (pair,) = found.cases[0].pictures
    assert pair.flagged == {"hosted": True, "local": False}
    assert pair.files.keys() == {"hosted", "local"}
    assert pair.structure.keys() == {"local"}
    assert pair.ssim is None
    assert (found.quality[0].cases, found.quality[0].missing) == (0, NO_PAIRS)
    assert any(note.startswith("1 pair with a picture") for note in found.notes)


def test_one_of_a_thing_is_no_several(tmp_path: Path) -> None:
    made = Comparing(tmp_path, NAMES[:1])

    assert made.compare().notes[0].startswith("1 of 1 task lacks pictures of at least one side")


def test_the_columns_of_a_ratio_are_geometric_means_of_its_own_cases(made: Comparing) -> None:
    for number, (first, second) in enumerate([(1.0, 2.0), (4.0, 2.0), (0.0, 9.0)]):
        made.give("hosted", number, total=first)
        made.give("local", number, total=second)
    made.give("local", 3, total=100.0)

    total = made.compare().speed[0]

    assert (total.cases, total.first, total.second) == (2, 2.0, 2.0)
    assert total.difference is not None
    assert total.difference.value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"concurrency": 4}, "hosted was asked for 4 tasks at a time"),
        (
            {"poll_interval_seconds": 2.0},
            "hosted was asked for 1 task at a time, with polls every 2 s",
        ),
        ({"sync_mode": True}, "hosted was asked for 1 task at a time, in sync mode"),
    ],
    ids=["concurrency", "poll interval", "sync mode"],
)
def test_sides_that_were_asked_otherwise_have_a_ratio_of_times_and_no_verdict(
    made: Comparing, asked: dict[str, Any], told: str
) -> None:
    for number in range(6):
        made.give("hosted", number, total=4.0)
        made.give("local", number, total=2.0)

    alike, otherwise = made.compare().speed, made.compare(asked=asked).speed

    assert {one.verdict for one in alike} == {"better", "no difference shown"}
    assert {one.verdict for one in otherwise} == {"not comparable"}
    assert otherwise[0].difference == alike[0].difference
    assert any(told in caveat for caveat in otherwise[0].caveats)


def test_beside_the_speed_of_two_profiles_stands_that_they_ran_one_after_the_other(
    made: Comparing,
) -> None:
    profiles, hosted = made.compare(same_noise=True), made.compare()

    assert all("one after the other" in one.caveats[0] for one in profiles.speed)
    assert not any(one.caveats for one in hosted.speed)


@pytest.mark.parametrize(
    ("same_noise", "judge_is_local", "is_said"),
    [(False, True, True), (False, False, False), (True, True, False)],
    ids=["the local side's", "another", "both sides'"],
)
def test_a_judge_who_made_one_side_s_control_images_is_named_beside_the_verdict(
    made: Comparing, same_noise: bool, judge_is_local: bool, is_said: bool
) -> None:
    found = made.compare(same_noise=same_noise, judge_is_local=judge_is_local)

    assert any("favours" in caveat for caveat in found.quality[0].caveats) is is_said
    assert not any("favours" in caveat for caveat in found.quality[1].caveats)


def test_beside_a_hosted_side_s_structure_stands_what_nobody_knows_of_it(made: Comparing) -> None:
    hosted, profiles = made.compare(), made.compare(same_noise=True)

    assert any("is not documented" in caveat for caveat in hosted.quality[0].caveats)
    assert not any("is not documented" in caveat for caveat in profiles.quality[0].caveats)


@pytest.mark.parametrize("same_noise", [False, True], ids=["hosted", "profiles"])
def test_a_field_that_one_side_passes_over_leaves_its_case_out(
    tmp_path: Path, same_noise: bool
) -> None:
    made = Comparing(tmp_path, NAMES[:1], preprocess_depth=False)
    made.give("hosted", 0)
    made.give("local", 0)

    found = made.compare(same_noise=same_noise)

    (pair,) = found.cases[0].pictures
    counted = 1 if same_noise else 0
    assert [one.cases for one in (found.quality[0], found.difference[-3])] == [counted, counted]
    assert (len(pair.structure), pair.ssim is None) == (2 * counted, not same_noise)
    assert pair.depth_files.keys() == {"hosted", "local"}
    said = [note for note in found.notes if "preprocess_depth" in note]
    assert len(said) == 1 - counted


def test_pairs_that_a_measure_leaves_out_are_counted_beside_it(made: Comparing) -> None:
    for number in range(6):
        flat = {"data": flat_picture()} if number == 2 else {}
        made.give("hosted", number)
        made.give("local", number, **flat)

    structure = made.compare().quality[0]

    assert structure.cases == 5
    assert structure.caveats[-1] == (
        "1 of 6 pairs is left out: the depth of the picture is the same everywhere."
    )


def test_prompts_are_judged_where_somebody_can_and_else_the_reason_is_told(
    made: Comparing, tmp_path: Path
) -> None:
    (tmp_path / "long").mkdir()
    long = Comparing(tmp_path / "long", NAMES[:2], prompt="a room with a view")
    for comparing in (made, long):
        comparing.give("hosted", 0, data=picture(100, SIZE))
        comparing.give("local", 0, data=picture(200, SIZE))

    judged, untold = long.compare(prompts=Letters()), made.compare()

    agreement = judged.quality[1]
    assert agreement.name == "prompt_agreement"
    assert agreement.difference is not None
    assert agreement.difference.value > 20
    assert any(note.startswith("2 prompts longer than CLIP reads") for note in judged.notes)
    assert untold.quality[1].missing == "no CLIP here"


def test_depth_maps_are_written_beside_the_pictures(made: Comparing) -> None:
    made.give("hosted", 0)

    found = made.compare()

    (pair,) = found.cases[0].pictures
    assert pair.depth_files == {"hosted": "hosted/case-0-0/0-depth.png"}
    assert found.cases[0].depth_file == "depth/case-0.png"
    with Image.open(made.folder.path / "depth/case-0.png") as drawn:
        assert (drawn.mode, drawn.size) == ("L", (512, 640))
        column = np.asarray(drawn)[:, 0]
    assert column[0] < 10, "far"
    assert column[-1] > 245, "near"


def test_a_supplied_map_is_taken_as_it_is_and_an_inverted_one_turned(tmp_path: Path) -> None:
    differences = {}
    for name, inverted in (("plain", False), ("inverted", True)):
        (tmp_path / name).mkdir()
        made = Comparing(tmp_path / name, NAMES[:1], preprocess_depth=False, invert_depth=inverted)
        made.give("hosted", 0)
        (pair,) = made.compare(same_noise=True).cases[0].pictures
        differences[name] = pair.structure["hosted"]

    assert differences["plain"] == pytest.approx(1, abs=0.01)
    assert differences["inverted"] == pytest.approx(-1, abs=0.01)


def test_a_picture_that_was_damaged_meanwhile_is_told(made: Comparing) -> None:
    made.give("hosted", 0)
    (made.folder.path / "hosted/case-0-0/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    with pytest.raises(UnreadableImageError, match=r"hosted/case-0-0/0\.png"):
        made.compare()
