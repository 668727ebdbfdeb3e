"""Loading: the same pictures from whatever files hold the weights, and all problems at once."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from single_files import MODULE_FILES, as_single_files, write_single_files
from transformers import CLIPTextModel, T5EncoderModel

import depthflux
from depthflux.engine.loading import engine_of
from depthflux.errors import WeightsCorruptError
from depthflux.model.assembly import fill, fit
from depthflux.model.components import Component
from depthflux.model.discovery import FLUX_RULES, FOLDER_RULES, Places, search
from depthflux.model.loading import Model, load_model, load_tokenizer
from depthflux.model.placement import Placement, place
from depthflux.model.weights import ModelFiles, find_model
from depthflux.settings import ResolvedSettings, resolve_settings

REPOSITORY = "models--black-forest-labs--FLUX.1-dev"
CPU = Placement(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache of the test's own, empty."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def settings_for(weights: Path, **others: object) -> ResolvedSettings:
    arguments = {"model": "flux", "weights_dir": str(weights), **others}
    return resolve_settings("reference", arguments=arguments)


def with_miniature_configs(files: ModelFiles, model: Path) -> ModelFiles:
    """The same files with the miniature's numbers where FLUX.1-dev's stand in for a config.json."""
    own = {"scheduler": "scheduler_config.json"} | dict.fromkeys(
        ("tokenizer", "tokenizer_2"), "tokenizer_config.json"
    )

    def config(name: str) -> dict[str, object]:
        read = json.loads((model / name / own.get(name, "config.json")).read_text())
        return {"model_max_length": read["model_max_length"]} if "tokenizer" in name else read

    components = {
        name: one if one.config is None else dataclasses.replace(one, config=config(name))
        for name, one in files.components.items()
    }
    return dataclasses.replace(files, components=components)


def picture(settings: ResolvedSettings, model: Path, depth: Image.Image) -> tuple[Model, bytes]:
    files = with_miniature_configs(find_model(settings.values), model)
    values = settings.values
    loaded = load_model(files, place(values), compat=values.compat, master=values.master)
    engine = engine_of(settings, loaded, None)
    prediction = engine.generate(
        prompt="a red cone on a yellow floor",
        control_image=depth,
        preprocess_depth=False,
        size="512*512",
        num_inference_steps=2,
        seed=3,
    )
    return loaded, prediction.images[0].tobytes()


def lay_out_single_files(model: Path, weights: Path) -> None:
    """Everything flat in the weights folder, the tokenizers as `weights pull` leaves them."""
    write_single_files(model, weights)
    shutil.copy(model / "control_lora.safetensors", weights / "flux1-depth-dev-lora.safetensors")
    shutil.copytree(model / "tokenizer", weights / "tokenizers" / "clip-vit-large-patch14")
    shutil.copytree(model / "tokenizer_2", weights / "tokenizers" / "t5-v1_1-xxl")


def lay_out_comfyui(model: Path, comfyui: Path) -> None:
    """A ComfyUI folder, whose own code brings both tokenizers."""
    write_single_files(model, comfyui, comfyui=True)
    loras = comfyui / "models" / "loras" / "flux"
    loras.mkdir(parents=True)
    shutil.copy(model / "control_lora.safetensors", loras / "flux1-depth-dev-lora.safetensors")
    shutil.copytree(model / "tokenizer", comfyui / "comfy" / "sd1_tokenizer")
    shutil.copytree(model / "tokenizer_2", comfyui / "comfy" / "text_encoders" / "t5_tokenizer")


def lay_out_hub_cache(model: Path, cache: Path) -> None:
    """A snapshot as huggingface_hub leaves it: links into a folder of blobs."""
    repository = cache / REPOSITORY
    commit = "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"
    for number, file in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        blob = repository / "blobs" / f"{number:064x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = repository / "snapshots" / commit / file.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    lora = cache / "models--black-forest-labs--FLUX.1-Depth-dev-lora" / "snapshots" / "abc"
    lora.mkdir(parents=True)
    shutil.copy(model / "control_lora.safetensors", lora / "flux1-depth-dev-lora.safetensors")


@pytest.fixture(scope="module")
def expected(
    miniature_8x: Path, tmp_path_factory: pytest.TempPathFactory, depth_ramp: Image.Image
) -> bytes:
    """The miniature's picture, from a diffusers folder."""
    weights = tmp_path_factory.mktemp("weights")
    shutil.copytree(miniature_8x, weights / "FLUX.1-dev")
    return picture(settings_for(weights), miniature_8x, depth_ramp)[1]


@pytest.mark.parametrize("layout", ["cache", "files", "comfyui", "mixed"])
def test_the_picture_is_the_same_to_the_bit_whichever_files_it_comes_from(
    layout: str,
    expected: bytes,
    miniature_8x: Path,
    tmp_path: Path,
    hub_cache: Path,
    depth_ramp: Image.Image,
) -> None:
    weights, comfyui = tmp_path / "weights", tmp_path / "ComfyUI"
    comfyui_dir = None
    if layout in ("cache", "mixed"):
        lay_out_hub_cache(miniature_8x, hub_cache)
    if layout == "files":
        lay_out_single_files(miniature_8x, weights)
    if layout in ("comfyui", "mixed"):
        lay_out_comfyui(miniature_8x, comfyui)
        comfyui_dir = comfyui
    if layout == "mixed":
        # A transformer of ComfyUI's, for the cache's is not whole, and the rest from the cache.
        (snapshot,) = (hub_cache / REPOSITORY / "snapshots").iterdir()
        (snapshot / MODULE_FILES["transformer"]).unlink()

    model, pixels = picture(
        settings_for(weights, comfyui_dir=comfyui_dir), miniature_8x, depth_ramp
    )

    rules = {name: one.rule for name, one in model.files.components.items()}
    assert pixels == expected
    assert rules["transformer"] == ("comfyui" if layout == "mixed" else layout)
    assert rules["text_encoder_2"] == ("cache" if layout == "mixed" else layout)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_text_encoder_is_what_transformers_itself_loads(
    name: str, dtype: torch.dtype, miniature_8x: Path
) -> None:
    kind = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}[name]
    theirs = kind.from_pretrained(miniature_8x / name, dtype=dtype).eval()
    ids = torch.tensor([[3, 7, 9, 1]])

    ours = fill(fit(component(miniature_8x, name)), dataclasses.replace(CPU, dtype=dtype))

    with torch.no_grad():
        assert torch.equal(ours(ids)[0], theirs(ids)[0])
    own, others = ours.state_dict(), theirs.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[key], others[key]) for key in own)
    assert all(own[key].dtype == others[key].dtype for key in own)
    buffers = dict(theirs.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in ours.named_buffers())
    assert ours.config._attn_implementation == theirs.config._attn_implementation


def test_t5s_embedding_is_one_tensor_under_two_names(miniature_8x: Path) -> None:
    module = fill(fit(component(miniature_8x, "text_encoder_2")), CPU)

    assert module.encoder.embed_tokens.weight is module.shared.weight


@pytest.mark.parametrize("name", MODULE_FILES)
def test_weights_are_copies_and_the_mapped_file_stays_as_it_is(
    name: str, miniature_8x: Path, tmp_path: Path
) -> None:
    """float32, as the model computes: no cast makes the copy, so loading itself has to."""
    model = Path(shutil.copytree(miniature_8x, tmp_path / "model"))
    file = model / MODULE_FILES[name]
    save_file({key: t.float() for key, t in load_file(file).items()}, file)
    before = load_file(file)
    fitted = fit(component(model, name))

    for tensor in fill(fitted, CPU).parameters():
        tensor.data.fill_(7)

    mapped = {key: fitted.tensors.read(key) for key in fitted.tensors.headers}
    assert all(torch.equal(mapped[key], before[key]) for key in before)
    assert all(torch.equal(t, before[key]) for key, t in load_file(file).items())


def component(model: Path, name: str) -> Component:
    """A component of a model's folder."""
    found = search(FOLDER_RULES, Places(model, model, model=model))[name].found
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_plain_fp8_file_gives_its_numbers_exactly_and_says_that_they_were_rounded(
    dtype: torch.dtype, miniature_8x: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Path(shutil.copytree(miniature_8x, tmp_path / "model"))
    rounded = {key: t.to(dtype) for key, t in as_single_files(model)["transformer"].items()}
    file = tmp_path / "flux1-dev-fp8.safetensors"
    save_file(rounded, file)
    fp8 = dataclasses.replace(
        component(model, "transformer"),
        path=file,
        config=json.loads((model / "transformer/config.json").read_text()),
    )
    key = "transformer_blocks.0.attn.to_k"

    with caplog.at_level(logging.WARNING, logger="depthflux"):
        half = fill(fit(fp8), dataclasses.replace(CPU, dtype=torch.bfloat16))
        full = fill(fit(fp8), CPU)

    stored = rounded["double_blocks.0.img_attn.qkv.weight"].float()
    width = stored.shape[1]
    for module in (half, full):
        assert torch.equal(module.get_submodule(key).weight.float(), stored[width : 2 * width])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(f"{file} is stored in fp8 (F8_E")
    assert "rounded when the file was made" in told[0]


def test_all_problems_of_all_components_stand_in_one_error(
    miniature_8x: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(miniature_8x, tmp_path / "model"))
    (model / MODULE_FILES["transformer"]).write_bytes(b"PK\x03\x04" + bytes(100))
    clip = load_file(model / MODULE_FILES["text_encoder"])
    clip.pop("final_layer_norm.bias")
    save_file(clip, model / MODULE_FILES["text_encoder"])
    vae = load_file(model / MODULE_FILES["vae"])
    save_file(vae | {"decoder.conv_in.bias": torch.zeros(3)}, model / MODULE_FILES["vae"])
    (model / "scheduler/scheduler_config.json").write_text("{}")
    (model / "control_lora.safetensors").write_bytes(b"\x80\x04\x95")

    with pytest.raises(WeightsCorruptError) as caught:
        depthflux.load("reference", model=str(model))

    message = str(caught.value)
    assert "diffusion_pytorch_model.safetensors is no safetensors file but a zip" in message
    assert "missing final_layer_norm.bias" in message
    assert "decoder.conv_in.bias is [3]" in message
    assert "lacks base_image_seq_len" in message
    assert "control_lora.safetensors is no safetensors file but a pickle" in message
    assert "\n" not in message


def test_a_tokenizer_of_its_own_repository_reads_no_more_tokens_than_flux(
    miniature_8x: Path, tmp_path: Path
) -> None:
    folder = Path(
        shutil.copytree(miniature_8x / "tokenizer_2", tmp_path / "tokenizers/t5-v1_1-xxl")
    )
    card = folder / "tokenizer_config.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"model_max_length": 10**9}))

    found = search(FLUX_RULES, Places(tmp_path, tmp_path))["tokenizer_2"].found

    assert found is not None
    assert load_tokenizer(found).model_max_length == 512
