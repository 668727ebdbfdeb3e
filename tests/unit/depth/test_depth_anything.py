"""depthflux.depth.depth_anything on tiny seeded models: polarity, processor, refusals."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.utils import logging as transformers_logging

from depthflux.depth.depth_anything import DEMO, KNOWN, DepthAnything, Fingerprint, describe
from depthflux.depth.estimator import DepthEstimator, EstimatorCard
from depthflux.errors import WeightsCorruptError, WeightsMissingError
from depthflux.model.demo import demo_folder


def write_estimator(folder, *, kind="relative", hidden_size=32, out_indices=(1, 2, 3, 4)):
    backbone = Dinov2Config(
        image_size=56,
        patch_size=14,
        hidden_size=hidden_size,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        out_indices=list(out_indices),
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=hidden_size,
        neck_hidden_sizes=[8, 8, 16, 32],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():  # away from zero, where the head's ReLU would hide everything
        model.head.conv3.bias.fill_(1.0)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    transformers_logging.enable_progress_bar()
    DPTImageProcessorPil(
        size={"height": 56, "width": 56},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def relative_folder(tmp_path_factory):
    return write_estimator(tmp_path_factory.mktemp("weights") / "relative")


@pytest.fixture(scope="module")
def metric_folder(tmp_path_factory):
    return write_estimator(tmp_path_factory.mktemp("weights") / "metric", kind="metric")


@pytest.fixture
def copied_folder(relative_folder, tmp_path):
    return shutil.copytree(relative_folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def estimator(relative_folder):
    return DepthAnything.load(relative_folder)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def raw_prediction(folder, rgb):
    """What transformers' own classes say, and the processor for what follows."""
    processor = DPTImageProcessorPil.from_pretrained(folder)
    model = DepthAnythingForDepthEstimation.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**processor(images=rgb, return_tensors="pt")), processor


@pytest.mark.parametrize(
    ("height", "width"),
    [(56, 56), (60, 91), (130, 70), (40, 3), (3, 40), (1, 30), (2, 900)],
    ids=lambda side: str(side),
)
def test_estimate_gives_float32_of_the_pictures_own_size(estimator, height, width):
    depth = estimator.estimate(picture(height, width))

    assert (depth.shape, depth.dtype) == ((height, width), np.float32)
    assert np.isfinite(depth).all()


def test_estimate_equals_transformers_own_post_processing(estimator, relative_folder):
    rgb = picture(75, 120)
    outputs, processor = raw_prediction(relative_folder, rgb)

    depth = estimator.estimate(rgb)

    (theirs,) = processor.post_process_depth_estimation(outputs, target_sizes=[(75, 120)])
    assert np.array_equal(depth, theirs["predicted_depth"].numpy())
    assert depth.max() > depth.min()


def test_a_model_that_gives_depth_is_turned_into_inverse_depth(metric_folder):
    rgb = picture(56, 70)  # 4 by 5 patches: the processor leaves this size alone
    outputs, _ = raw_prediction(metric_folder, rgb)
    metres = outputs.predicted_depth[0].numpy()

    estimator = DepthAnything.load(metric_folder)
    disparity = estimator.estimate(rgb)

    assert estimator.card.gives == "depth"
    np.testing.assert_allclose(disparity, 1.0 / metres, rtol=1e-5)
    assert disparity.flat[metres.argmin()] == disparity.max()


def test_polarity_is_taken_from_the_declaration(relative_folder, estimator):
    card = EstimatorCard("other", "here", "unknown", "depth", 56)
    rgb = picture(56, 56)

    declared = DepthAnything.load(relative_folder, card=card)

    np.testing.assert_allclose(declared.estimate(rgb), 1.0 / estimator.estimate(rgb), rtol=1e-5)


def test_estimate_is_deterministic(relative_folder, estimator):
    rgb = picture(61, 83)

    first, again = estimator.estimate(rgb), estimator.estimate(rgb)

    assert np.array_equal(first, again)
    assert np.array_equal(first, DepthAnything.load(relative_folder).estimate(rgb))


def test_estimate_in_bfloat16_still_gives_float32(relative_folder, estimator):
    rgb = picture(56, 56)

    depth = DepthAnything.load(relative_folder, dtype=torch.bfloat16).estimate(rgb)

    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, estimator.estimate(rgb), rtol=0.1)


def test_the_processor_is_the_pil_one(estimator):
    assert type(estimator._processor) is DPTImageProcessorPil
    assert estimator._processor.backend == "pil"


def test_a_loaded_model_is_a_depth_estimator(estimator, relative_folder):
    as_protocol: DepthEstimator = estimator

    assert as_protocol.folder == relative_folder
    assert as_protocol.card.input_size == 56


def test_loading_says_nothing_and_leaves_transformers_as_it_was(relative_folder, capfd):
    before = transformers_logging.get_verbosity()

    DepthAnything.load(relative_folder)

    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == before
    assert transformers_logging.is_progress_bar_enabled()


def test_importing_the_module_imports_no_torch():
    code = "import sys, depthflux.depth.depth_anything; print('torch' in sys.modules)"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "False"


def test_describe_reads_an_unknown_folder_from_its_configuration(relative_folder, metric_folder):
    relative, metric = describe(relative_folder), describe(metric_folder)

    assert (relative.name, relative.licence) == ("relative", "unknown")
    assert (relative.gives, metric.gives) == ("disparity", "depth")
    assert relative.input_size == 56


@pytest.mark.parametrize(
    ("fingerprint", "name", "licence"),
    [
        ((384, (3, 6, 9, 12)), "depth-anything-v2-small", "Apache-2.0"),
        ((768, (3, 6, 9, 12)), "depth-anything-v2-base", "CC-BY-NC-4.0"),
        ((1024, (5, 12, 18, 24)), "depth-anything-v2-large", "CC-BY-NC-4.0"),
        ((1024, (21, 22, 23, 24)), "depth-anything-large", "Apache-2.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_describe_recognises_a_published_checkpoint(copied_folder, fingerprint, name, licence):
    config = json.loads((copied_folder / "config.json").read_text())
    hidden_size, out_indices = fingerprint
    config["backbone_config"] |= {"hidden_size": hidden_size, "out_indices": list(out_indices)}
    (copied_folder / "config.json").write_text(json.dumps(config))

    card = describe(copied_folder)

    assert (card.name, card.licence, card.gives) == (name, licence, "disparity")
    assert card.input_size == 56  # the folder's own, not the published 518


def test_the_packaged_estimator_is_known():
    assert describe(demo_folder() / "depth_estimator") == DEMO


def test_every_declared_estimator_states_licence_size_and_polarity():
    for card in KNOWN.values():
        assert card.licence in {"Apache-2.0", "CC-BY-NC-4.0"}
        assert card.input_size % 14 == 0
        assert card.gives == "disparity"
    assert all(isinstance(fingerprint, Fingerprint) for fingerprint in KNOWN)


def test_a_missing_folder_is_named_with_all_that_it_lacks(tmp_path):
    with pytest.raises(
        WeightsMissingError,
        match=r"nowhere lacks config\.json, preprocessor_config\.json, model\.safetensors",
    ):
        DepthAnything.load(tmp_path / "nowhere", card=DEMO)


def test_truncated_weights_are_refused_by_name(copied_folder):
    file = copied_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(WeightsCorruptError, match=r"model\.safetensors is truncated") as caught:
        DepthAnything.load(copied_folder)

    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            lambda tensors: tensors | {"head.conv3.bias": torch.zeros(5)},
            r"head\.conv3\.bias has shape \[5\] instead of \[1\]",
            id="wrong shape",
        ),
        pytest.param(
            lambda tensors: {k: v for k, v in tensors.items() if "conv3.bias" not in k},
            r"head\.conv3\.bias is missing",
            id="missing",
        ),
        pytest.param(
            lambda tensors: tensors | {"extra.weight": torch.zeros(5)},
            r"extra\.weight is not part of it",
            id="unexpected",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(copied_folder, capfd, change, said):
    file = copied_folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})

    with pytest.raises(WeightsCorruptError, match=said) as caught:
        DepthAnything.load(copied_folder)

    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "{", "is no readable JSON"),
        ("config.json", "[]", "holds no JSON object"),
        ("config.json", '{"model_type": "zoedepth"}', "type 'zoedepth'; only depth_anything"),
        ("config.json", '{"model_type": "depth_anything"}', "describes no backbone"),
        ("preprocessor_config.json", '{"size": {"height": "x"}}', "expected a height and a width"),
        ("preprocessor_config.json", "\x00", "is no readable JSON"),
    ],
    ids=["cut", "a list", "another model", "no backbone", "no size", "binary"],
)
def test_an_unusable_description_is_refused_by_file_name(copied_folder, file, content, said):
    (copied_folder / file).write_text(content)

    with pytest.raises(WeightsCorruptError, match=said) as caught:
        DepthAnything.load(copied_folder)

    assert str(copied_folder / file) in str(caught.value)


def test_weights_of_another_size_are_refused_without_hundreds_of_names(copied_folder):
    config = json.loads((copied_folder / "config.json").read_text())
    config["backbone_config"]["num_hidden_layers"] = 6
    (copied_folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(WeightsCorruptError, match=r"is missing; and \d+ more") as caught:
        DepthAnything.load(copied_folder)

    assert len(str(caught.value)) < 800


def test_a_configuration_that_no_model_can_be_built_from_is_refused(copied_folder):
    config = json.loads((copied_folder / "config.json").read_text())
    config["depth_estimation_type"] = "guessed"
    (copied_folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(WeightsCorruptError, match=r"config\.json describes no model") as e:
        DepthAnything.load(copied_folder)

    assert "\n" not in str(e.value)


def test_a_value_of_the_wrong_type_in_a_configuration_is_refused(copied_folder):
    config = json.loads((copied_folder / "config.json").read_text())
    config["fusion_hidden_size"] = "wide"
    (copied_folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(WeightsCorruptError, match=r"config\.json describes no model"):
        DepthAnything.load(copied_folder)
