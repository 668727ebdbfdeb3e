"""depthflux.bench.quality.structure: the packaged estimator on example scenes, known maps."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from depthflux.bench.quality.structure import (
    Structure,
    agreement,
    depth_png,
    find_judge,
    is_same_estimator,
)
from depthflux.depth.estimator import EstimatorCard
from depthflux.errors import NonFiniteError, WeightsMissingError
from depthflux.images import SourceImage, read_image
from depthflux.model.demo import demo_folder
from depthflux.settings import EngineSettings

EXAMPLES = Path(__file__).parents[4] / "examples"
SIZE = (512, 512)


@pytest.fixture(scope="module")
def structure() -> Structure:
    judge = find_judge(None, EngineSettings(model="demo"))
    assert judge.path is not None
    return Structure.load(judge.path)


CARD = EstimatorCard("one-depth", "this test", "Apache-2.0", "disparity", 8)


@dataclass
class GivesOneDepth:
    """An estimator that gives the same depth for every picture."""

    values: np.ndarray
    card: EstimatorCard = CARD
    folder: Path = Path()

    def estimate(self, rgb: np.ndarray) -> np.ndarray:
        return self.values


def scene(name: str) -> SourceImage:
    return read_image(EXAMPLES / f"{name}.png")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_picture_agrees_with_its_own_depth(structure):
    control = scene("one-object")

    own = agreement(structure.depth(control.rgb), structure.control_depth(control, control.size))

    assert own.value == 1.0
    assert own.missing == ""


def test_a_picture_of_the_scene_in_another_size_and_other_colours_agrees_almost(structure):
    control = scene("one-object")
    width, height = 640, 448
    painted = Image.fromarray(control.rgb[:, :, ::-1]).resize((width, height))

    other = agreement(
        structure.depth(np.asarray(painted)), structure.control_depth(control, (width, height))
    )

    assert other.value is not None
    assert 0.97 < other.value < 1.0


def test_another_scene_agrees_less_than_the_same(structure):
    depths = {
        name: structure.depth(scene(name).rgb)
        for name in ("one-object", "two-objects", "three-objects")
    }
    asked = structure.control_depth(scene("one-object"), scene("one-object").size)

    values = {name: agreement(depth, asked).value for name, depth in depths.items()}

    # All stand on one floor before one wall, which is most of the picture.
    assert values["one-object"] == 1.0
    assert 0.8 < values["two-objects"] < 0.95
    assert 0.8 < values["three-objects"] < 0.95


def test_a_supplied_map_is_taken_as_it_is_and_turned_where_asked(structure):
    depth = structure.depth(scene("two-objects").rgb)
    size = scene("two-objects").size
    supplied = scene("two-objects-depth")

    upright = structure.control_depth(supplied, size, is_supplied=True)
    turned = structure.control_depth(supplied, size, is_supplied=True, is_inverted=True)

    assert np.array_equal(upright, np.asarray(supplied.rgb[:, :, 0], np.float32) / 255)
    values = agreement(depth, upright).value, agreement(depth, turned).value
    assert values[0] > 0.97
    assert values[1] == pytest.approx(-values[0], abs=1e-9)


def test_a_supplied_map_of_16_bits_keeps_them_all(structure):
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)

    depth = structure.control_depth(read_image(grey), (64, 64), is_supplied=True)

    assert len(np.unique(depth)) == 64 * 64


def test_the_control_depth_is_stretched_to_the_asked_size():
    ramp = np.tile(np.linspace(0, 10, 100, dtype=np.float32), (50, 1))
    structure = Structure(GivesOneDepth(ramp))

    stretched = structure.control_depth(scene("one-object"), (30, 80))

    assert (stretched.shape, stretched.dtype) == ((80, 30), np.float32)
    assert np.all(np.diff(stretched, axis=1) > 0)
    assert 0 <= stretched.min() < 0.5 < 9.5 < stretched.max() <= 10


def test_normalising_a_map_changes_no_agreement():
    depth, control = noise(64, 64), noise(64, 64) + np.arange(64, dtype=np.float32)

    plain = agreement(depth, control).value

    # Rounding to float32 makes a few values equal.
    assert agreement(depth, control / 7 - 3).value == pytest.approx(plain, abs=1e-6)
    assert agreement(depth, np.exp(control / 20)).value == pytest.approx(plain, abs=1e-6)


def test_a_small_map_is_ranked_whole_with_equal_values_sharing_their_rank():
    depth = np.round(noise(40, 60))
    control = np.round(depth + noise(60, 40).reshape(40, 60))

    value = agreement(depth, control).value

    ranks = [stats.rankdata(one) for one in (depth, control)]
    assert value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert len(np.unique(depth)) < 12


def test_a_large_map_is_ranked_on_a_grid_that_hardly_differs(structure):
    big = [
        np.asarray(Image.fromarray(scene(name).rgb).resize((1536, 1200)))
        for name in ("one-object", "three-objects")
    ]
    depths = [structure.depth(one) for one in big]

    value = agreement(*depths).value

    exact = float(stats.spearmanr(*(depth.ravel() for depth in depths)).statistic)
    assert value != exact
    assert value == pytest.approx(exact, abs=3e-4)


@pytest.mark.parametrize("flat", [np.zeros((32, 32)), np.full((32, 32), 3e8)], ids=["0", "3e8"])
def test_a_flat_map_has_no_agreement_but_a_reason(flat):
    flat, other = flat.astype(np.float32), noise(32, 32)

    of_picture, of_control = agreement(flat, other), agreement(other, flat)

    assert of_picture == (None, "the depth of the picture is the same everywhere")
    assert of_control == (None, "the depth of the control image is the same everywhere")


def test_a_map_that_differs_by_rounding_alone_is_flat():
    almost = np.full((32, 32), 100.0, np.float32)
    almost[3, 4] = np.nextafter(almost[3, 4], np.float32(200))

    assert agreement(almost, noise(32, 32)).value is None


def test_maps_of_two_sizes_are_not_compared():
    measured = agreement(noise(20, 30), noise(30, 20))

    assert measured.value is None
    assert measured.missing == "the picture's depth is 30*20 and the control image's 20*30"


def test_an_estimator_that_gives_nan_is_refused():
    structure = Structure(GivesOneDepth(np.full((8, 8), np.nan, np.float32)))

    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        structure.depth(np.zeros((8, 8, 3), np.uint8))


def test_the_png_of_a_depth_map_is_grey_and_white_where_near():
    depth = np.array([[-5.0, 0.0], [2.5, 10.0]], np.float32)

    picture = Image.open(io.BytesIO(depth_png(depth)))

    assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (2, 2))
    assert np.asarray(picture).tolist() == [[0, 85], [128, 255]]


def test_how_names_the_estimator_and_its_licence(structure):
    assert "depthflux-demo-depth (Apache-2.0)" in structure.how
    assert structure.how.count(". ") == 0


def test_a_named_judge_is_taken_whether_or_not_it_is_there(tmp_path):
    named = find_judge(tmp_path / "mine", EngineSettings(model="demo"))

    assert named == (tmp_path / "mine", "")
    with pytest.raises(WeightsMissingError, match=r"mine lacks config\.json"):
        Structure.load(named.path)


def test_the_settings_estimator_judges_where_none_is_named():
    judge = find_judge(None, EngineSettings(model="demo"))

    assert judge == (demo_folder() / "depth_estimator", "")


def test_a_copy_of_an_estimator_is_the_same_one_and_another_size_is_not(tmp_path):
    own, copy, larger = demo_folder() / "depth_estimator", tmp_path / "copy", tmp_path / "larger"
    shutil.copytree(own, copy)
    shutil.copytree(own, larger)
    config = json.loads((own / "config.json").read_text())
    config["backbone_config"]["hidden_size"] = 384
    (larger / "config.json").write_text(json.dumps(config))

    assert is_same_estimator(own, own)
    assert is_same_estimator(own, copy)
    assert not is_same_estimator(own, larger)


def test_without_an_estimator_there_is_a_reason_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    judge = find_judge(None, EngineSettings(weights_dir=tmp_path))

    assert judge.path is None
    assert judge.missing.startswith("there is no depth estimator")
    assert str(tmp_path) not in judge.missing
    assert "\n" not in judge.missing
