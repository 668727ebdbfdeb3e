"""Model files: found, checked by their headers, refused with everything that is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import depthflux
from depthflux.errors import SettingsError, WeightsCorruptError, WeightsMissingError
from depthflux.model.headers import header_problem

VAE = Path("vae/diffusion_pytorch_model.safetensors")


@pytest.fixture
def folder(miniature_8x: Path, tmp_path: Path) -> Path:
    """A copy of the untrained miniature that a test may damage."""
    return Path(shutil.copytree(miniature_8x, tmp_path / "model"))


def load(folder: Path) -> depthflux.Engine:
    return depthflux.load("reference", model=str(folder))


def test_all_missing_files_are_named_at_once(folder: Path) -> None:
    (folder / VAE).unlink()
    (folder / "tokenizer_2" / "tokenizer_config.json").unlink()

    with pytest.raises(WeightsMissingError, match="is not whole; missing: VAE") as caught:
        load(folder)

    assert f"VAE (lacks {folder / VAE})" in str(caught.value)
    tokenizer = folder / "tokenizer_2" / "tokenizer_config.json"
    assert f"T5 tokenizer (lacks {tokenizer})" in str(caught.value)


def test_without_an_estimator_supplied_depth_maps_still_work(
    folder: Path, depth_ramp: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder / "depth_estimator")
    request = {"prompt": "x", "control_image": depth_ramp, "size": "512*512", "seed": 1}

    engine = load(folder)
    prediction = engine.generate(**request, num_inference_steps=1, preprocess_depth=False)
    with pytest.raises(WeightsMissingError, match=r"no depth estimator .* preprocess_depth=false"):
        engine.generate(**request)

    assert "No depth estimator" in caplog.text
    assert prediction.record["estimator"]["sha256"] == ""


def test_an_estimator_that_was_chosen_must_be_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match=r"estimator \(.*/nowhere is not there\)"):
        depthflux.load("reference", model=str(folder), depth_estimator=tmp_path / "nowhere")


def test_a_folder_without_a_control_lora_says_where_it_looked(folder: Path) -> None:
    (folder / "control_lora.safetensors").unlink()

    with pytest.raises(WeightsMissingError, match=r"flux1-depth-dev-lora\.safetensors"):
        load(folder)


def test_a_folder_without_a_model_says_where_it_looked_and_what_helps(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match=r"no model in .*weights/README\.md"):
        load(tmp_path)


def test_a_truncated_file_is_refused_by_its_size(folder: Path) -> None:
    data = (folder / VAE).read_bytes()
    (folder / VAE).write_bytes(data[:-10])

    with pytest.raises(WeightsCorruptError, match="truncated or damaged") as caught:
        load(folder)

    assert f"{len(data) - 10} bytes where its header says {len(data)}" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95pickle of old",
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (8).to_bytes(8, "little") + b"not json",
        (14).to_bytes(8, "little") + b'{"a": {"b":1}}',
    ],
    ids=["empty", "pickle", "absurd header", "no object", "no json", "no offsets"],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes, folder: Path) -> None:
    (folder / VAE).write_bytes(data)

    assert header_problem(folder / VAE)
    with pytest.raises(WeightsCorruptError, match="is no safetensors file"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("tokenizer/tokenizer.json", None, WeightsMissingError, r"tokenizer/tokenizer\.json or"),
        (
            "tokenizer_2/tokenizer.json",
            None,
            WeightsMissingError,
            r"or \S*tokenizer_2/spiece\.model",
        ),
        ("tokenizer/tokenizer.json", "{", WeightsCorruptError, "is no tokenizer"),
        ("tokenizer_2/tokenizer.json", "[]", WeightsCorruptError, "is no tokenizer"),
        ("tokenizer/tokenizer_config.json", "{", WeightsCorruptError, "is no tokenizer"),
        ("scheduler/scheduler_config.json", "{", WeightsCorruptError, "not readable as JSON"),
        ("scheduler/scheduler_config.json", "[]", WeightsCorruptError, "holds no JSON object"),
        ("scheduler/scheduler_config.json", "{}", WeightsCorruptError, "lacks base_image_seq_len"),
        ("vae/config.json", "{", WeightsCorruptError, "vae/config.json is not readable as JSON"),
        (
            "text_encoder/config.json",
            "{",
            WeightsCorruptError,
            r"text_encoder/config\.json is not readable",
        ),
        (
            "text_encoder/config.json",
            '{"num_attention_heads": 5}',
            WeightsCorruptError,
            "not a multiple",
        ),
        ("text_encoder_2/config.json", '{"d_model": "x"}', WeightsCorruptError, "does not fit"),
        ("vae/config.json", '{"down_block_types": 1}', WeightsCorruptError, "does not fit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_spoilt_small_file_is_one_clear_error(
    name: str, content: str | None, error: type[Exception], message: str, folder: Path
) -> None:
    """Without its vocabulary a tokenizer would load, and take every word for the unknown one."""
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)

    with pytest.raises(error, match=message) as caught:
        load(folder)

    assert "\n" not in str(caught.value)


def test_a_tokenizer_in_the_files_that_flux_ships_reads_the_same(folder: Path) -> None:
    """FLUX.1-dev's CLIP tokenizer is a vocabulary and merges, without a tokenizer.json."""
    prompt = ["a red cone and a cyan cube on a yellow floor, Haus 12!"]
    expected = load(folder).model.tokenizer(prompt).input_ids
    single = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(single.read_text())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
    single.with_name("vocab.json").write_text(json.dumps(content["vocab"]))
    single.with_name("merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    single.unlink()

    engine = load(folder)

    assert engine.model.tokenizer(prompt).input_ids == expected
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= set(engine.model.files.sha256)


def test_a_decoder_without_its_scale_is_refused(folder: Path) -> None:
    config = json.loads((folder / "vae/config.json").read_text()) | {"scaling_factor": None}
    (folder / "vae/config.json").write_text(json.dumps(config))

    with pytest.raises(WeightsCorruptError, match="no number for scaling_factor"):
        load(folder)


@pytest.mark.parametrize(
    "shard", ["sub/x.safetensors", "../x.safetensors", "x.bin", "x.safetensors.bin"]
)
def test_an_index_cannot_name_other_folders_or_pickles(shard: str, folder: Path) -> None:
    index = folder / f"{VAE}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))

    with pytest.raises(WeightsCorruptError, match="only safetensors files beside it"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32], ids=str)
def test_a_quantised_control_lora_is_refused_with_a_clear_word(
    dtype: torch.dtype, folder: Path
) -> None:
    path = folder / "control_lora.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)

    with pytest.raises(WeightsCorruptError, match=r"can be used .not fp8 or quantised"):
        load(folder)


def test_no_folder_can_take_the_name_of_flux_or_of_the_demo(folder: Path) -> None:
    (folder / "demo.json").write_text('{"name": "wavespeed-ai/flux-control-lora-depth"}')

    assert load(folder).model.id == "local/model"


def test_a_home_that_cannot_be_found_costs_nothing_but_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)

    assert len(load(folder).model.files.sha256["control_lora"]) == 64


def test_a_tilde_in_the_weights_folder_is_the_home(
    miniature_8x: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(miniature_8x, tmp_path / "w" / "FLUX.1-dev")

    assert depthflux.load("auto", weights_dir="~/w").model.id == "local/FLUX.1-dev"


@pytest.mark.parametrize("target", [None, 3], ids=str)
def test_what_cannot_be_loaded_is_refused(target: object) -> None:
    with pytest.raises(SettingsError, match="is nothing that can be loaded"):
        depthflux.load(target)


def test_a_path_is_a_folder_even_where_it_is_called_like_a_profile(
    miniature_8x: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(miniature_8x, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)

    assert depthflux.load(Path("demo"), dtype="float32").model.id == "local/demo"


def test_all_tensors_that_do_not_fit_are_named(folder: Path) -> None:
    """The libraries underneath would go on with random weights for what is missing."""
    tensors = load_file(folder / VAE)
    names = sorted(tensors)
    tensors["surplus"] = tensors.pop(names[0])
    tensors[names[1]] = tensors[names[1]][..., :1].contiguous()
    save_file(tensors, folder / VAE)

    with pytest.raises(
        WeightsCorruptError, match=f"missing {names[0]}; left over surplus"
    ) as caught:
        load(folder)

    assert f"{names[1]} is " in str(caught.value)


def test_a_text_encoder_with_missing_tensors_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "final_layer_norm" in name))
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(
        WeightsCorruptError,
        match=r"text_encoder does not fit its config\.json: missing final_layer_norm\.",
    ):
        load(folder)


def test_shards_are_found_through_their_index(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in parts.items():
        save_file({name: tensors[name] for name in members}, path.with_name(shard))
    path.unlink()
    index = {"weight_map": {name: shard for shard, names in parts.items() for name in names}}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))

    engine = load(folder)

    assert {"transformer/a.safetensors", "transformer/b.safetensors"} <= set(
        engine.model.files.sha256
    )
    (folder / "transformer" / "b.safetensors").unlink()
    with pytest.raises(WeightsMissingError, match=r"transformer/b\.safetensors"):
        load(folder)


def test_a_model_that_is_not_flux_does_not_answer_under_its_name(
    engine_8x: depthflux.Engine, demo_engine: depthflux.Engine
) -> None:
    assert demo_engine.model.id == "depthflux/demo"
    assert "wavespeed" not in engine_8x.model.id


def test_hashes_follow_the_files_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    first = load(folder).model.files.sha256
    lora = folder / "control_lora.safetensors"
    tensors = load_file(lora)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, lora)

    second = load(folder).model.files.sha256

    assert first["control_lora"] != second["control_lora"]
    assert {n: h for n, h in first.items() if n != "control_lora"} == {
        n: h for n, h in second.items() if n != "control_lora"
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_auto_runs_the_demo_with_one_warning_where_there_is_nothing_else(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    engine = depthflux.load("auto", weights_dir=tmp_path)

    warnings = [r for r in caplog.records if r.name == "depthflux" and r.levelname == "WARNING"]
    assert engine.model.id == "depthflux/demo"
    assert len(warnings) == 1
    assert "packaged miniature" in warnings[0].getMessage()


def test_auto_takes_flux_where_its_folder_is(
    miniature_8x: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(miniature_8x, tmp_path / "FLUX.1-dev")

    engine = depthflux.load("auto", weights_dir=tmp_path)

    assert engine.settings.profile == "cpu"
    assert engine.model.files.folder == tmp_path / "FLUX.1-dev"
    assert "hours for a picture" in caplog.text


def test_auto_on_a_machine_with_cuda_but_without_weights_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    with pytest.raises(WeightsMissingError, match="depthflux demo") as caught:
        depthflux.load("auto", weights_dir=tmp_path)

    assert caught.value.exit_code == 3


def test_the_profile_variable_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHFLUX_PROFILE", "nonsense")

    with pytest.raises(SettingsError, match="nonsense"):
        depthflux.load()


def test_a_missing_cuda_device_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(depthflux.DeviceError, match="sees 0 CUDA devices"):
        depthflux.load("demo", device="cuda")


def test_a_damaged_demo_model_is_refused(
    tmp_path: Path, miniature_8x: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = Path(shutil.copytree(miniature_8x, tmp_path / "demo"))
    (damaged / "control_lora.safetensors").write_bytes(b"x")
    monkeypatch.setattr("depthflux.model.weights.demo_folder", lambda: damaged)

    with pytest.raises(WeightsCorruptError, match=r"control_lora\.safetensors"):
        depthflux.load("demo")
