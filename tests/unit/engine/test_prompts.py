"""A prompt is encoded once: afterwards its embeddings are remembered, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import depthflux
from depthflux.engine.conditioning import encode_prompt
from depthflux.engine.prompts import MOST_KEPT, PromptEncoder
from depthflux.errors import NonFiniteError
from depthflux.model.loading import Model
from depthflux.settings import EngineSettings

SMALL = {"size": "512*512", "num_inference_steps": 1, "enable_safety_checker": False}


@contextmanager
def calls_of(module: torch.nn.Module) -> Iterator[list[object]]:
    """A list that grows by one with every call of a module."""
    calls: list[object] = []
    hook = module.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "depthflux" / "prompts"


@pytest.fixture
def model(engine_8x: depthflux.Engine) -> Model:
    return engine_8x.model


def encoder(model: Model, remember: str) -> PromptEncoder:
    return PromptEncoder(model, EngineSettings(remember=remember))


def encode(prompts: PromptEncoder, prompt: str) -> Any:
    with torch.no_grad():
        return prompts.encode(prompt)


@pytest.mark.parametrize("remember", ["memory", "disk"])
def test_the_second_time_no_encoder_runs_and_the_bits_are_the_same(
    cache: Path, model: Model, remember: str
) -> None:
    prompts = encoder(model, remember)
    first = encode(prompts, "a blue cube")

    with calls_of(model.text_encoder) as clip, calls_of(model.text_encoder_2) as t5:
        second = encode(prompts, "a blue cube")

    with torch.no_grad():
        plain = encode_prompt(model, "a blue cube")
    assert (clip, t5) == ([], [])
    for remembered in (first, second):
        assert torch.equal(remembered.tokens, plain.tokens)
        assert torch.equal(remembered.pooled, plain.pooled)
        assert (remembered.text, remembered.cut) == (plain.text, plain.cut)


def test_a_new_engine_finds_the_prompt_on_disk_to_the_bit(cache: Path, model: Model) -> None:
    first = encode(encoder(model, "disk"), "a blue cube")

    with calls_of(model.text_encoder_2) as t5:
        second = encode(encoder(model, "disk"), "a blue cube")

    assert t5 == []
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.pooled, second.pooled)


@pytest.mark.parametrize("remember", ["none", "memory"])
def test_nothing_is_on_disk_unless_it_is_asked_for(
    cache: Path, model: Model, remember: str
) -> None:
    encode(encoder(model, remember), "a blue cube")

    assert not cache.exists()


def test_where_nothing_is_remembered_every_prompt_is_encoded(cache: Path, model: Model) -> None:
    prompts = encoder(model, "none")

    with calls_of(model.text_encoder_2) as t5:
        encode(prompts, "a blue cube")
        encode(prompts, "a blue cube")

    assert len(t5) == 2


def test_another_prompt_has_other_embeddings(cache: Path, model: Model) -> None:
    prompts = encoder(model, "disk")

    blue, red = encode(prompts, "a blue cube"), encode(prompts, "a red cube")

    assert not torch.equal(blue.tokens, red.tokens)


def with_another(model: Model, file: str) -> Model:
    """The same model as if one of its files had been another."""
    assert file in model.files.sha256
    files = replace(model.files)
    files.__dict__["sha256"] = model.files.sha256 | {file: "0" * 64}  # a cached property
    return replace(model, files=files)


@pytest.mark.parametrize(
    "file",
    [
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer_2/tokenizer.json",
    ],
)
def test_embeddings_of_other_encoders_are_not_taken(cache: Path, model: Model, file: str) -> None:
    encode(encoder(model, "disk"), "a blue cube")

    with calls_of(model.text_encoder_2) as t5:
        encode(encoder(with_another(model, file), "disk"), "a blue cube")

    assert len(t5) == 1


def test_embeddings_of_another_number_of_threads_are_not_taken(cache: Path, model: Model) -> None:
    prompts = encoder(model, "disk")
    encode(prompts, "a blue cube")
    threads = torch.get_num_threads()

    torch.set_num_threads(threads + 1)
    try:
        with calls_of(model.text_encoder_2) as t5:
            encode(prompts, "a blue cube")
    finally:
        torch.set_num_threads(threads)

    assert len(t5) == 1


def test_another_control_lora_shares_the_prompts(cache: Path, model: Model) -> None:
    encode(encoder(model, "disk"), "a blue cube")

    with calls_of(model.text_encoder_2) as t5:
        encode(encoder(with_another(model, "control_lora"), "disk"), "a blue cube")

    assert t5 == []


def test_the_file_holds_no_word_of_the_prompt(cache: Path, model: Model) -> None:
    words = "a secret garden behind the house " * 30

    encode(encoder(model, "disk"), words)

    (file,) = cache.iterdir()
    data = file.read_bytes()
    assert not any(word.encode() in data for word in ("secret", "garden", "behind"))
    assert "secret" not in file.name


def test_what_was_cut_is_still_told_when_it_comes_from_the_disk(cache: Path, model: Model) -> None:
    long = "a red sphere and a blue cube on a green floor, ünder a white sky " * 8
    first = encode(encoder(model, "disk"), long)

    second = encode(encoder(model, "disk"), long)

    assert first.cut
    assert long.endswith(first.cut)
    assert second.cut == first.cut


def test_a_damaged_file_is_encoded_and_written_anew(cache: Path, model: Model) -> None:
    first = encode(encoder(model, "disk"), "a blue cube")
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")

    with calls_of(model.text_encoder_2) as t5:
        second = encode(encoder(model, "disk"), "a blue cube")
        third = encode(encoder(model, "disk"), "a blue cube")

    assert len(t5) == 1
    for other in (second, third):
        assert torch.equal(first.tokens, other.tokens)
        assert torch.equal(first.pooled, other.pooled)


def test_what_is_not_finite_is_never_written(cache: Path, model: Model) -> None:
    def spoil(_module: object, _inputs: object, output: torch.Tensor) -> None:
        output.view(-1)[0] = float("nan")

    hook = model.text_encoder_2.encoder.final_layer_norm.register_forward_hook(spoil)
    try:
        encode(encoder(model, "disk"), "a blue cube")
    finally:
        hook.remove()

    assert not cache.exists()


def test_memory_holds_the_last_prompts_only(cache: Path, model: Model) -> None:
    prompts = encoder(model, "memory")
    encode(prompts, "a blue cube")
    for i in range(MOST_KEPT):
        encode(prompts, f"{i} red cubes")

    with calls_of(model.text_encoder_2) as t5:
        encode(prompts, f"{MOST_KEPT - 1} red cubes")
        encode(prompts, "a blue cube")

    assert len(t5) == 1


def test_forgotten_prompts_are_encoded_again(cache: Path, model: Model) -> None:
    prompts = encoder(model, "memory")
    encode(prompts, "a blue cube")

    prompts.forget()

    with calls_of(model.text_encoder_2) as t5:
        encode(prompts, "a blue cube")
    assert len(t5) == 1


# Through the engine ------------------------------------------------------------------------------


def test_pixels_are_the_same_without_a_cache_with_a_cold_and_with_a_warm_one(
    cache: Path, miniature_8x: Path, depth_ramp: Image.Image
) -> None:
    request = SMALL | {"prompt": "a blue cube", "seed": 5, "preprocess_depth": False}

    def picture(engine: depthflux.Engine) -> np.ndarray:
        return np.asarray(engine.generate(**request, control_image=depth_ramp).images[0])

    model = {"model": str(miniature_8x)}
    plain = picture(depthflux.load("reference", **model, remember="none"))
    engine = depthflux.load("reference", **model, remember="disk")
    cold = picture(engine)
    warm = picture(engine)
    from_disk = picture(depthflux.load("reference", **model, remember="disk"))

    assert plain.std() > 5
    for other in (cold, warm, from_disk):
        assert np.array_equal(plain, other)


def test_a_fault_of_a_moment_does_not_meet_the_next_request(
    cache: Path, miniature_8x: Path, depth_ramp: Image.Image
) -> None:
    engine = depthflux.load("reference", model=str(miniature_8x), remember="disk")
    request = SMALL | {"prompt": "a blue cube", "preprocess_depth": False}

    def spoil(_module: object, _inputs: object, output: torch.Tensor) -> None:
        output.view(-1)[0] = float("nan")

    hook = engine.model.text_encoder_2.encoder.final_layer_norm.register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteError):
            engine.generate(**request, control_image=depth_ramp)
    finally:
        hook.remove()

    assert engine.generate(**request, control_image=depth_ramp).images
