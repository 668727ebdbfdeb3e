"""FLUX.1-dev's own tokenizers: depthflux reads a prompt as diffusers does, and as the files say.

The model is an untrained miniature whose text encoders have FLUX's vocabularies and lengths. The
ids compared are those that reach the text encoders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlPipeline
from flux_tokenizers import (
    CLIP_END,
    CLIP_LENGTH,
    CLIP_START,
    PROMPTS,
    SPELLED_OUT,
    T5_END,
    T5_LENGTH,
    T5_PAD,
    T5_UNKNOWN,
    ClipMerges,
    T5File,
    T5Pieces,
    cut_and_padded,
    flux_tokenizers,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

import depthflux
from depthflux.engine.conditioning import encode_prompt
from depthflux.errors import show
from train_demo.architecture import write_module

ALL = PROMPTS | SPELLED_OUT
T5_SMALL = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
CLIP_SMALL = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}

Ids = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def files() -> Path:
    return flux_tokenizers()


@pytest.fixture(scope="module")
def t5_file(files: Path) -> T5File:
    return T5File(files)


@pytest.fixture(scope="module")
def t5_pieces(files: Path) -> T5Pieces:
    return T5Pieces(files)


@pytest.fixture(scope="module")
def clip_merges(files: Path) -> ClipMerges:
    return ClipMerges(files)


@pytest.fixture(scope="module")
def folder(files: Path, miniature_8x: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with FLUX's tokenizers, and text encoders that know all their ids."""
    model = Path(shutil.copytree(miniature_8x, tmp_path_factory.mktemp("real") / "model"))
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(model / name)
        shutil.copytree(files / name, model / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # The ids of the start and the end are those of FLUX's own config.json, older than CLIP's
        # present ones: pooling looks for the largest id then.
        clip = CLIPTextConfig(
            **CLIP_SMALL, vocab_size=49408, num_hidden_layers=1, num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
        write_module(CLIPTextModel(clip), model / "text_encoder")
        t5 = T5Config(**T5_SMALL, vocab_size=32128, feed_forward_proj="gated-gelu")
        write_module(T5EncoderModel(t5), model / "text_encoder_2")
    index = json.loads((model / "model_index.json").read_text())
    index["tokenizer_2"] = ["transformers", "T5TokenizerFast"]  # as FLUX.1-dev names it
    (model / "model_index.json").write_text(json.dumps(index))
    return model


@pytest.fixture(scope="module")
def engine(folder: Path) -> depthflux.Engine:
    return depthflux.load("reference", model=str(folder))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> FluxControlPipeline:
    return FluxControlPipeline.from_pretrained(folder, dtype=torch.float32)


@contextmanager
def read_by(owner: Any) -> Iterator[Ids]:
    """The ids that reach an owner's two text encoders meanwhile: CLIP's and T5's."""
    ids: Ids = ([], [])
    hooks = [
        encoder.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.extend(*inputs[0].tolist())
        )
        for encoder, seen in zip((owner.text_encoder, owner.text_encoder_2), ids, strict=True)
    ]
    try:
        yield ids
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def ids_of(engine: depthflux.Engine) -> Callable[[str], Ids]:
    """CLIP's and T5's ids of a prompt, as depthflux gives them to the text encoders."""
    return lambda prompt: _ids(engine, prompt)


def _ids(engine: depthflux.Engine, prompt: str) -> Ids:
    with torch.no_grad(), read_by(engine.model) as ids:
        encode_prompt(engine.model, prompt)
    return ids


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_is_read_as_diffusers_reads_it(
    name: str, engine: depthflux.Engine, pipeline: FluxControlPipeline
) -> None:
    with torch.no_grad(), read_by(engine.model) as ours:
        embedding = encode_prompt(engine.model, ALL[name])

    with torch.no_grad(), read_by(pipeline) as theirs:
        tokens, pooled, _ = pipeline.encode_prompt(ALL[name], prompt_2=None)
    assert ours == theirs
    assert [len(ids) for ids in ours] == [CLIP_LENGTH, T5_LENGTH]
    assert torch.equal(embedding.tokens, tokens)
    assert torch.equal(embedding.pooled, pooled)


@pytest.mark.parametrize("name", ALL)
def test_t5s_ids_are_those_of_its_tokenizer_file(
    name: str, t5_file: T5File, ids_of: Callable[[str], Ids]
) -> None:
    expected = cut_and_padded(t5_file.ids(ALL[name]), T5_LENGTH, T5_PAD)

    assert ids_of(ALL[name])[1] == expected


@pytest.mark.parametrize("name", PROMPTS)
def test_t5s_ids_are_those_of_sentencepiece(
    name: str, t5_pieces: T5Pieces, ids_of: Callable[[str], Ids]
) -> None:
    expected = cut_and_padded(t5_pieces.ids(PROMPTS[name]), T5_LENGTH, T5_PAD)

    assert ids_of(PROMPTS[name])[1] == expected


@pytest.mark.parametrize("name", ALL)
def test_clips_ids_are_those_of_its_vocabulary_and_merges(
    name: str, clip_merges: ClipMerges, ids_of: Callable[[str], Ids]
) -> None:
    expected = cut_and_padded(clip_merges.ids(ALL[name]), CLIP_LENGTH, CLIP_END)

    assert ids_of(ALL[name])[0] == expected


def test_known_prompts_have_their_known_ids(ids_of: Callable[[str], Ids]) -> None:
    """Ids written down elsewhere, so that a mistake common to all readers would show."""
    _, t5 = ids_of("A robot made of exotic candies")
    clip, _ = ids_of("a photo of a cat")

    assert t5[:9] == [71, 7567, 263, 13, 13433, 54, 7719, T5_END, T5_PAD]
    assert clip[:8] == [CLIP_START, 320, 1125, 539, 320, 2368, CLIP_END, CLIP_END]


def test_a_special_token_in_a_prompt_is_that_token(ids_of: Callable[[str], Ids]) -> None:
    """T5 reads on after it; CLIP pools at its first end, so the rest only counts for T5."""
    ended = ids_of("a house</s> on a hill")[1]
    clip, _ = ids_of("a house<|endoftext|> on a hill")

    assert ended[:10] == [3, 9, 629, T5_END, 30, 3, 9, 9956, T5_END, T5_PAD]
    assert clip[:4] == [CLIP_START, 320, 1212, CLIP_END]
    assert ids_of("<extra_id_0>")[1][:2] == [32099, T5_END]


def test_the_next_line_character_alone_is_read_otherwise_than_t5s_file_says(
    t5_file: T5File, ids_of: Callable[[str], Ids]
) -> None:
    """transformers splits at it, and so diffusers does; to the file it is an unknown letter."""
    shipped = t5_file.ids("a\u0085b")
    ids = ids_of("a\u0085b")[1]

    assert shipped == [3, 9, T5_UNKNOWN, 115, T5_END]
    assert ids[:6] == [3, 9, 3, 115, T5_END, T5_PAD]


@pytest.mark.parametrize(
    "kept",
    [
        ("tokenizer_2", "spiece.model"),
        ("tokenizer_2", "tokenizer.json"),
        ("tokenizer", "tokenizer.json"),
    ],
    ids="/".join,
)
def test_every_layout_of_the_files_gives_the_same_ids(
    kept: tuple[str, str], folder: Path, tmp_path: Path, engine: depthflux.Engine
) -> None:
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    tokenizer, file = kept
    if tokenizer == "tokenizer":  # FLUX.1-dev has CLIP's vocabulary and merges only
        engine.model.tokenizer.save_pretrained(model / "tokenizer")
    for path in (model / tokenizer).iterdir():
        if path.name not in (file, "tokenizer_config.json"):
            path.unlink()

    other = depthflux.load("reference", model=str(model))

    assert {name: _ids(other, prompt) for name, prompt in ALL.items()} == {
        name: _ids(engine, prompt) for name, prompt in ALL.items()
    }


@pytest.mark.parametrize("words", [T5_LENGTH - 1, T5_LENGTH], ids=["fits", "one more"])
def test_a_prompt_is_cut_after_512_tokens_with_the_end(
    words: int, engine: depthflux.Engine
) -> None:
    prompt = " ".join(["hill"] * words)

    with torch.no_grad(), read_by(engine.model) as (_, t5):
        embedding = encode_prompt(engine.model, prompt)

    assert embedding.cut == ("" if words < T5_LENGTH else "hill")
    assert t5 == [9956] * (T5_LENGTH - 1) + [T5_END]


@pytest.mark.parametrize(
    "prompt",
    [
        " ".join(f"word{index}" for index in range(400)),
        "a 🐱 and a 🚀 on the 🌕\n\n" * 60,
        "بيت أحمر على التل تحت سماء زرقاء " * 60,
        "山の上の赤い家 " * 300,
        "½ ﬁne " * 200,
        "house</s> " * 300,
        "supercalifragilistic" * 200,
    ],
    ids=["words", "emoji", "Arabic", "CJK", "ligatures", "ends", "one word"],
)
def test_what_is_told_as_cut_begins_where_t5_stops_reading(
    prompt: str, t5_file: T5File, engine: depthflux.Engine
) -> None:
    with torch.no_grad(), read_by(engine.model) as (_, t5):
        cut = encode_prompt(engine.model, prompt).cut

    start = t5_file.starts(prompt)[T5_LENGTH - 1]
    assert cut == prompt[start:].lstrip()
    assert 0 < start < len(prompt)
    assert t5 == [*t5_file.ids(prompt)[: T5_LENGTH - 1], T5_END]


def test_a_prompt_without_what_was_told_as_cut_is_read_the_same(engine: depthflux.Engine) -> None:
    prompt = "a red house on the hill, " * 100
    with torch.no_grad():
        cut = encode_prompt(engine.model, prompt).cut

    rest = prompt.removesuffix(cut)
    assert len(rest) < len(prompt)
    assert _ids(engine, rest) == _ids(engine, prompt)
    assert _ids(engine, rest.rstrip(" ,").rpartition(" ")[0]) != _ids(engine, prompt)


def test_a_prompt_of_600_words_is_cut_with_a_warning_in_the_record(
    engine: depthflux.Engine, room: Image.Image
) -> None:
    prompt = " ".join(f"🐱{index}" for index in range(600))
    request = {"size": "512*512", "num_inference_steps": 1, "seed": 1}

    prediction = engine.generate(prompt=prompt, control_image=room, **request)

    with torch.no_grad():
        cut = encode_prompt(engine.model, prompt).cut
    (warning,) = prediction.record["warnings"]
    assert warning == (f"the prompt is longer than 512 tokens; what follows was cut: {show(cut)}")
    assert "🐱" in warning
    assert prediction.record["request"]["prompt"] == prompt


def test_what_is_beyond_clips_77_tokens_is_for_t5_alone_and_no_warning(
    engine: depthflux.Engine, room: Image.Image
) -> None:
    prompt = " ".join(["hill"] * 100)
    request = {"size": "512*512", "num_inference_steps": 1, "seed": 1}

    with read_by(engine.model) as (clip, t5):
        prediction = engine.generate(prompt=prompt, control_image=room, **request)

    assert prediction.record["warnings"] == []
    assert len(clip) == CLIP_LENGTH
    assert len(set(clip[1:-1])) == 1
    assert (clip[0], clip[-1]) == (CLIP_START, CLIP_END)
    assert t5.count(9956) == 100
