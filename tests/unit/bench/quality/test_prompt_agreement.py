"""depthflux.bench.quality.prompt_agreement on a tiny random CLIP, against the formula by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from depthflux.bench.quality.prompt_agreement import FOLDERS, PromptAgreement, find_clip
from depthflux.errors import NonFiniteError, WeightsCorruptError, WeightsMissingError

SIDE = 32
LONGEST = 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPT = "a red cube"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters alone, each a token, and another where it ends a word."""
    names = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: index for index, name in enumerate(names)}, merges=[])
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_clip(folder: Path) -> Path:
    tokenizer = write_tokenizer(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "projection_dim": 16}
    config = CLIPConfig(
        text_config={
            **shape,
            **ends,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": LONGEST,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**shape, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(1)
    transformers_logging.disable_progress_bar()
    CLIPModel(config).save_pretrained(folder)
    transformers_logging.enable_progress_bar()
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("weights") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> PromptAgreement:
    return PromptAgreement.load(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copied")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cosine_by_hand(folder: Path, square: np.ndarray, prompt: str) -> float:
    """Of the embeddings of a picture of the model's own size and of a short prompt."""
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    places = {letter: place for place, letter in enumerate(LETTERS)}
    ids = [
        places[letter] + (26 if place == len(word) - 1 else 0)
        for word in prompt.split()
        for place, letter in enumerate(word)
    ]
    ids = [52, *ids, 53]
    pixels = (square.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    with torch.inference_mode():
        seen = model.visual_projection(
            model.vision_model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).pooler_output
        )[0]
        # Text is read off at its end mark, the last token.
        read = model.text_projection(model.text_model(torch.tensor([ids])).last_hidden_state)[0, -1]
    return float((seen @ read) / (seen.norm() * read.norm()))


def test_the_score_is_a_hundred_cosines_and_never_below_0(clip, folder):
    pictures = [picture(SIDE, SIDE, seed) for seed in range(3)]
    prompts = [PROMPT, "z", "two balls"]
    cosines = [cosine_by_hand(folder, one, prompt) for one in pictures for prompt in prompts]

    scores = [clip.score(one, prompt) for one in pictures for prompt in prompts]

    assert scores == pytest.approx([100 * max(one, 0) for one in cosines], abs=1e-3)
    assert min(cosines) < 0 < max(cosines)
    assert min(scores) == 0.0


def test_of_a_picture_the_central_square_is_read_as_pil_resizes_it(clip):
    large = picture(70, 100)
    # The shorter side to 32, bicubic, then the middle 32 of 45 columns.
    small = np.asarray(Image.fromarray(large).resize((45, SIDE), Image.Resampling.BICUBIC))

    left = (45 - SIDE) // 2

    assert clip.score(large, PROMPT) == pytest.approx(
        clip.score(small[:, left : left + SIDE], PROMPT), abs=1e-3
    )


def test_a_long_prompt_is_cut_with_its_end_kept(clip):
    words = " ".join(LETTERS)
    fitting = words[: 2 * (LONGEST - 2) - 1]

    score = clip.score(picture(SIDE, SIDE), words)

    assert score == clip.score(picture(SIDE, SIDE), fitting)
    assert score != clip.score(picture(SIDE, SIDE), fitting[:-2])
    assert (clip.is_cut(words), clip.is_cut(fitting)) == (True, False)
    assert clip.is_cut(fitting + " z")


def test_the_same_picture_and_prompt_give_the_same_bits(clip, folder):
    other = PromptAgreement.load(folder)

    scores = {one.score(picture(40, 56), PROMPT) for one in (clip, other) for _ in range(2)}

    assert len(scores) == 1


@pytest.mark.parametrize("prompt", ["", "日本 🎉", "<|endoftext|>", "a\x00b\u202e"], ids=ascii)
def test_odd_prompts_have_a_score(clip, prompt):
    assert 0 <= clip.score(picture(SIDE, SIDE), prompt) <= 100


def test_how_names_the_model_and_what_it_reads(clip):
    assert "by tiny-clip " in clip.how
    assert "the first 16 tokens" in clip.how


def test_the_first_clip_in_weights_dir_is_found(folder, tmp_path):
    for name in FOLDERS:
        shutil.copytree(folder, tmp_path / name)

    assert find_clip(None, tmp_path) == (tmp_path / FOLDERS[0], "")
    (tmp_path / FOLDERS[0] / "model.safetensors").unlink()
    assert find_clip(None, tmp_path) == (tmp_path / FOLDERS[1], "")


def test_without_clip_the_reason_names_where_it_was_looked_for(tmp_path):
    found = find_clip(None, tmp_path)

    assert found.path is None
    assert all(f"{tmp_path.name}/{name} is not there" in found.missing for name in FOLDERS)
    assert str(tmp_path) not in found.missing
    assert "--clip" in found.missing


def test_a_clip_without_safetensors_is_said_to_lack_them(folder, tmp_path):
    shutil.copytree(folder, tmp_path / FOLDERS[1])
    (tmp_path / FOLDERS[1] / "model.safetensors").rename(tmp_path / "pytorch_model.bin")

    found = find_clip(None, tmp_path)

    assert found.path is None
    assert f"{tmp_path.name}/{FOLDERS[1]} lacks model.safetensors" in found.missing


def test_the_published_models_older_files_are_read(copied):
    # As openai/clip-vit-base-patch32 has them, but for the sizes.
    (copied / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": SIDE,
                "do_center_crop": True,
                "do_normalize": True,
                "do_resize": True,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "image_mean": MEAN,
                "image_std": STD,
                "resample": 3,
                "size": SIDE,
            }
        )
    )
    weights = load_file(copied / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(LONGEST)[None]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    square = picture(SIDE, SIDE)

    score = PromptAgreement.load(copied).score(square, PROMPT)

    assert score == pytest.approx(100 * max(cosine_by_hand(copied, square, PROMPT), 0), abs=1e-3)


def test_a_named_clip_that_is_not_whole_is_refused_with_all_that_is_missing(tmp_path):
    found = find_clip(tmp_path, Path("/nowhere"))

    with pytest.raises(WeightsMissingError, match="lacks") as caught:
        PromptAgreement.load(found.path)

    assert str(caught.value).startswith(
        f"the folder {tmp_path} of the CLIP model lacks config.json, model.safetensors, "
        "preprocessor_config.json, tokenizer.json (or vocab.json and merges.txt)."
    )


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "names code to run"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T"]}}, "names code"),
        ("preprocessor_config.json", {"auto_map": {"AutoProcessor": "evil.P"}}, "names code"),
        ("config.json", {"model_type": "bert"}, "describes a model of type 'bert'"),
        ("config.json", {"text_config": {"hidden_size": "wide"}}, "describes no CLIP model"),
        ("config.json", {"projection_dim": 8}, "does not fit the model"),
        ("preprocessor_config.json", {"size": "large"}, "does not describe how"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_folder_that_says_something_else_is_refused(copied, file, change, said):
    document = json.loads((copied / file).read_text())
    (copied / file).write_text(json.dumps(document | change))

    with pytest.raises(WeightsCorruptError, match=said) as caught:
        PromptAgreement.load(copied)

    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"], ids=repr)
def test_a_damaged_file_is_refused_in_one_line(copied, file, content):
    (copied / file).write_bytes(content)

    with pytest.raises(WeightsCorruptError) as caught:
        PromptAgreement.load(copied)

    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


def test_weights_with_a_tensor_less_are_refused_and_not_drawn_at_random(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(WeightsCorruptError, match=r"visual_projection\.weight is missing"):
        PromptAgreement.load(copied)


def test_pickled_weights_are_not_read(copied):
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")

    with pytest.raises(WeightsMissingError, match=r"lacks model\.safetensors"):
        PromptAgreement.load(copied)


def test_weights_that_give_nan_are_refused_and_no_score(copied):
    weights = load_file(copied / "model.safetensors")
    weights["text_projection.weight"].fill_(torch.nan)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    clip = PromptAgreement.load(copied)

    with pytest.raises(NonFiniteError, match="gave nan for a picture"):
        clip.score(picture(SIDE, SIDE), PROMPT)
