"""depthflux.bench.quality.closeness: known figures, refusals, and LPIPS on a stand-in."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from depthflux.bench.quality.closeness import (
    ALEXNET_FILE,
    Closeness,
    closeness,
    find_alexnet,
)

STAND_IN = Path(__file__).with_name("torchvision_stand_in.py")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def similarity_by_the_paper(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM after Wang et al. 2004, equations 13 to 16, mirrored at the border."""

    def smooth(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, 1.5, mode="mirror", axes=(0, 1), radius=5)

    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


def test_equal_pictures_are_equal_and_have_no_psnr():
    assert closeness(picture(40, 60), picture(40, 60)) == Closeness(1.0, None, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.tile(np.linspace(0, 255, 512).astype(np.uint8)[:, None, None], (1, 512, 3)),
        lambda: np.full((512, 512, 3), 255, np.uint8),
        lambda: picture(512, 512),
    ],
    ids=["gradient", "white", "noise"],
)
def test_the_ssim_of_equal_pictures_is_1_and_not_nearly_so(make):
    measured = closeness(make(), make())

    assert measured.ssim == 1.0


def test_ssim_never_leaves_its_range():
    white = np.full((512, 512, 3), 255, np.uint8)
    nearly = white.copy()
    nearly[0, 0, 0] = 254

    measured = closeness(white, nearly)

    assert measured.is_equal is False
    assert measured.ssim is not None
    assert 0.999 < measured.ssim <= 1.0


def test_psnr_is_that_of_the_mean_squared_error():
    first = np.full((32, 48, 3), 100, np.uint8)
    second = first.copy()
    second[:16] = 110

    measured = closeness(first, second)

    # Mean squared error 50: 10 log10(255^2 / 50).
    assert measured.psnr_db == pytest.approx(31.1411, abs=1e-3)
    assert measured.is_equal is False


def test_one_different_pixel_is_not_equal():
    first = picture(64, 64)
    second = first.copy()
    second[3, 4, 2] ^= 1

    measured = closeness(first, second)

    assert measured.is_equal is False
    # One of 64*64*3 values off by 1: 10 log10(255^2 * 12288).
    assert measured.psnr_db == pytest.approx(89.0257, abs=1e-3)


def test_ssim_is_the_papers():
    first = picture(70, 90)
    second = np.clip(first + np.random.default_rng(1).normal(0, 40, first.shape), 0, 255)
    second = second.astype(np.uint8)

    measured = closeness(first, second)

    assert measured.ssim == pytest.approx(similarity_by_the_paper(first, second), abs=1e-4)
    assert 0.5 < measured.ssim < 0.95


def test_ssim_of_bright_even_pictures_loses_nothing_to_rounding():
    # float32 squares of 255 leave little for a variance near 0.
    first = np.full((40, 40, 3), 254, np.uint8)
    second = first.copy()
    second[::2] = 255

    measured = closeness(first, second)

    assert measured.ssim == pytest.approx(similarity_by_the_paper(first, second), abs=1e-3)


def test_the_same_pictures_give_the_same_bits_and_stay_as_they_are():
    first, second = picture(40, 60), picture(40, 60, seed=1)
    before = first.copy()

    figures = closeness(first, second)

    assert closeness(first, second) == figures
    assert closeness(first[::-1][::-1], second) == figures
    assert np.array_equal(first, before)


def test_pictures_of_two_sizes_are_not_resized_but_said_not_to_be_compared():
    measured = closeness(picture(40, 60), picture(60, 40))

    assert measured == Closeness(None, None, None, "the pictures are of two sizes, 60*40 and 40*60")


def test_a_picture_smaller_than_ssims_window_has_psnr_alone():
    measured = closeness(picture(10, 60), picture(10, 60, seed=1))

    assert measured.ssim is None
    assert measured.missing == "SSIM needs 11 pixels a side or more"
    assert measured.psnr_db is not None


def test_without_torchvision_lpips_says_so():
    found = find_alexnet()

    assert found == (None, "LPIPS is not measured: torchvision is not installed")


# LPIPS runs in processes of their own, where a package has torchvision's name and AlexNet's shape.
#: Before every script: no connections, two pictures, and a way to answer.
PREPARE = """
import json, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(refuse)
import numpy as np
import torch
from depthflux.bench.quality.closeness import PerceptualDistance, find_alexnet
rng = np.random.default_rng(0)
first = rng.integers(0, 256, (96, 112, 3), dtype=np.uint8)
second = np.clip(first.astype(int) + rng.integers(-30, 31, first.shape), 0, 255).astype(np.uint8)
third = rng.integers(0, 256, first.shape, dtype=np.uint8)
def say(**answer):
    print(json.dumps(answer, default=str))
"""


class Unpickled:
    """Would run a command where it is unpickled."""

    def __reduce__(self):
        return (os.system, ('touch "$TORCH_HOME/ran"',))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small package `torchvision`."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text("from torchvision import models\n")
    (folder / "torchvision" / "models.py").write_text(STAND_IN.read_text())
    (folder / "torchvision" / "transforms.py").write_text("")
    (folder / "torchvision" / "ops.py").write_text("")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """TORCH_HOME with random weights of AlexNet's shape."""
    torch.manual_seed(0)
    shapes = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
    weights = {}
    for place, (out, given, side) in zip((0, 3, 6, 8, 10), shapes, strict=True):
        scale = (given * side * side) ** -0.5
        weights[f"features.{place}.weight"] = scale * torch.randn(out, given, side, side)
        weights[f"features.{place}.bias"] = torch.zeros(out)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights, folder / ALEXNET_FILE)
    return tmp_path / "torch"


def run_apart(package: Path, cache: Path, script: str) -> dict:
    """What a script prints, in a process that may not connect to anything."""
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "TORCH_HOME": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREPARE + textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_lpips_is_torchmetrics_own_without_torchvision_loading_weights(package, cache):
    result = run_apart(
        package,
        cache,
        """
        from torchmetrics.functional.image.lpips import (
            learned_perceptual_image_patch_similarity as theirs,
        )
        from torchvision import models

        lpips = PerceptualDistance.load(find_alexnet().path)
        ours = [lpips.distance(first, other) for other in (first, second, third)]
        asked = list(models.asked)
        tensors = [torch.from_numpy(p).permute(2, 0, 1)[None] / 255 for p in (first, second)]
        say(
            ours=ours,
            asked=asked,
            theirs=float(theirs(*tensors, net_type="alex", normalize=True)),
        )
        """,
    )

    (equal, _), (near, _), (far, _) = result["ours"]
    assert equal == 0
    assert 0 < near < far
    assert near == pytest.approx(result["theirs"], rel=1e-5)
    assert result["asked"] == ["None"]


def test_without_weights_lpips_says_where_they_were_looked_for(package, tmp_path):
    result = run_apart(package, tmp_path / "empty", "say(found=find_alexnet())")

    path, missing = result["found"]
    assert path is None
    assert missing.startswith("LPIPS is not measured: ")
    assert f" hub/checkpoints/{ALEXNET_FILE} is not there" in missing
    assert str(tmp_path) not in missing
    assert "nothing is downloaded" in missing


def test_lpips_of_other_sizes_and_small_pictures_is_not_measured(package, cache):
    result = run_apart(
        package,
        cache,
        """
        lpips = PerceptualDistance.load(find_alexnet().path)
        say(
            other=lpips.distance(first, second[:80]),
            small=lpips.distance(first[:62], second[:62]),
            least=lpips.distance(first[:63, :63], second[:63, :63]),
        )
        """,
    )

    assert result["other"] == [None, "the pictures are of two sizes, 112*96 and 112*80"]
    assert result["small"] == [None, "LPIPS needs 63 pixels a side or more"]
    assert result["least"][0] > 0


DAMAGED = {
    "empty": "is truncated or holds more than tensors",
    "garbage": "is truncated or holds more than tensors",
    "code": "is truncated or holds more than tensors",
    "part": "is not AlexNet's weights",
    "list": "is not AlexNet's weights",
    "shapes": "is not AlexNet's weights",
}


def test_a_damaged_or_foreign_file_of_weights_is_refused(package, cache, tmp_path):
    whole = torch.load(cache / "hub" / "checkpoints" / ALEXNET_FILE)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    torch.save(Unpickled(), tmp_path / "code.pth")
    torch.save({"features.0.weight": whole["features.0.weight"]}, tmp_path / "part.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(whole | {"features.0.bias": torch.zeros(3)}, tmp_path / "shapes.pth")

    messages = run_apart(
        package,
        cache,
        f"""
        from pathlib import Path
        from depthflux.errors import WeightsCorruptError

        messages = {{}}
        for file in Path({str(tmp_path)!r}).glob("*.pth"):
            try:
                PerceptualDistance.load(file)
            except WeightsCorruptError as error:
                messages[file.stem] = str(error)
        say(**messages)
        """,
    )

    assert messages.keys() == DAMAGED.keys()
    for name, said in DAMAGED.items():
        assert messages[name].startswith(f"{tmp_path / name}.pth {said}: ")
        assert "\n" not in messages[name]
    assert not (cache / "ran").exists()


def test_a_torchmetrics_without_its_unloaded_network_is_a_reason(package, cache):
    result = run_apart(
        package,
        cache,
        """
        import torchmetrics.functional.image.lpips as theirs

        del theirs._NoTrainLpips
        say(found=find_alexnet())
        """,
    )

    path, missing = result["found"]
    assert path is None
    assert missing.startswith("LPIPS is not measured: torchmetrics ")
    assert missing.endswith("gives no network without weights, and a newer or older one may")


def test_a_torchvision_that_cannot_be_imported_is_a_reason(tmp_path):
    package = tmp_path / "site"
    (package / "torchvision").mkdir(parents=True)
    (package / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )

    result = run_apart(
        package,
        tmp_path,
        """
        from depthflux.bench.quality.libraries import require_torchmetrics
        from depthflux.errors import SetupError

        try:
            require_torchmetrics()
        except SetupError as error:
            say(found=find_alexnet(), refused=str(error))
        """,
    )

    assert result["found"][1] == (
        "LPIPS is not measured: torchvision cannot be imported "
        "(operator torchvision::nms does not exist)"
    )
    assert "uninstall torchvision" in result["refused"]
