"""Two recordings → measures over cases, with judges that are a test's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_fixtures import completed, facts, failed, make_suite, picture, tasks_of_suite

from depthflux.bench.hosted.comparing import NO_PAIRS, Comparison, compare
from depthflux.bench.hosted.controls import write_controls
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.measures import Recorded
from depthflux.bench.quality.structure import Structure
from depthflux.depth.estimator import EstimatorCard
from depthflux.errors import UnreadableImageError

CARD = EstimatorCard("brightness", "a test", "MIT", "disparity", 512)
SIZE = (64, 80)
NAMES = tuple(f"case-{number}" for number in range(6))


class Brightness:
    """An estimator to which bright is near."""

    card = CARD
    folder = Path()

    def estimate(self, rgb: np.ndarray) -> np.ndarray:
        return rgb[..., 0].astype(np.float32)


class Letters:
    """A judge of prompts who likes bright pictures; a prompt of more than ten letters is cut."""

    how = "Mean brightness."

    def score(self, rgb: np.ndarray, prompt: str) -> float:
        del prompt
        return float(rgb.mean())

    def is_cut(self, prompt: str) -> bool:
        return len(prompt) > 10


class Comparing:
    """Two sides of a suite in one folder."""

    def __init__(self, path: Path, names: tuple[str, ...] = NAMES, **fields: Any) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.path.mkdir()
        self.suite = make_suite(path, names, **fields)
        write_controls(self.suite, self.folder)
        self.tasks = tasks_of_suite(self.suite)
        self.outcomes: dict[str, dict[str, Any]] = {"hosted": {}, "local": {}}

    def give(self, side: str, number: int, *, at: float = 10.0, **more: Any) -> None:
        task = self.tasks[number]
        # A tenth of what is asked for: nobody here minds, and judging is quick.
        more.setdefault("data", picture(size=SIZE))
        self.outcomes[side][task.key] = completed(self.folder, side, task, at=at, **more)

    def compare(self, *, prompts: Any = None, same_noise: bool = False) -> Comparison:
        missing = {"prompt_agreement": "no CLIP here", "lpips": "no AlexNet here"}
        judges = Judges(
            self.folder,
            structure=Structure(Brightness()),
            prompts=prompts,
            distance=None,
            missing={name: why for name, why in missing.items() if name == "lpips" or not prompts},
        )
        sides = tuple(
            Recorded(facts(name), tuple(self.tasks), self.outcomes[name], frozenset())
            for name in ("hosted", "local")
        )
        try:
            return compare(
                self.suite,
                sides,  # type: ignore[arg-type]
                self.folder,
                judges,
                same_noise=same_noise,
                say=lambda _: None,
            )
        finally:
            judges.close()


@pytest.fixture
def made(tmp_path: Path) -> Comparing:
    return Comparing(tmp_path)


def upside_down() -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture(size=SIZE))) as upright:
        upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(buffer, "PNG")
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
    assert any(note.startswith("1 pairs have a picture") for note in found.notes)


def test_equal_pictures_have_no_psnr_and_are_counted_where_noise_is_shared(
    made: Comparing,
) -> None:
    for number in range(2):
        made.give("hosted", number)
        made.give("local", number)

    found = {compared.name: compared for compared in made.compare(same_noise=True).difference}

    assert list(found) == ["equal_pictures", "ssim", "psnr", "lpips"]
    assert found["equal_pictures"].difference is not None
    assert found["equal_pictures"].difference.value == 1.0
    assert found["ssim"].difference is not None
    assert found["ssim"].difference.value == pytest.approx(1)
    assert (found["psnr"].difference, found["psnr"].cases) == (None, 0)
    assert found["psnr"].missing == "all pairs are equal, and equal pictures have none"
    assert found["lpips"].missing == "no AlexNet here"
    assert {compared.verdict for compared in found.values()} == {"unknown"}


def test_pictures_of_two_sizes_are_not_resized_to_be_compared(made: Comparing) -> None:
    made.give("hosted", 0, data=picture(size=(64, 64)))
    made.give("local", 0)

    found = made.compare()

    ssim = next(compared for compared in found.difference if compared.name == "ssim")
    assert "the pictures are of two sizes, 64*64 and 64*80" in ssim.missing
    assert found.quality[0].cases == 1, "each is judged by the control image in its own size"


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
    assert any("prompts of 2 cases are longer" in note for note in judged.notes)
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
        (pair,) = made.compare().cases[0].pictures
        differences[name] = pair.structure["hosted"]

    assert differences["plain"] == pytest.approx(1, abs=0.01)
    assert differences["inverted"] == pytest.approx(-1, abs=0.01)


def test_a_picture_that_was_damaged_meanwhile_is_told(made: Comparing) -> None:
    made.give("hosted", 0)
    (made.folder.path / "hosted/case-0-0/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    with pytest.raises(UnreadableImageError, match=r"hosted/case-0-0/0\.png"):
        made.compare()
