"""All components of a model together: what is missing is told at once, with what helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from weight_places import FLUX, PLACES, make_home, put, settings_of

from depthflux.errors import WeightsMissingError
from depthflux.model.demo import demo_folder
from depthflux.model.weights import find_estimator, find_model, flux_is_there, flux_places
from depthflux.settings import EngineSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


def test_what_a_setting_names_is_not_replaced_by_something_else(home: Path) -> None:
    for files in PLACES["control_lora"].values():
        put(home, *files)

    settings = settings_of(home, control_lora=home / "nowhere.safetensors")

    with pytest.raises(WeightsMissingError, match=r"LoRA \(.*/nowhere\.safetensors is not there\)"):
        find_model(settings)


def test_a_path_that_cannot_be_looked_at_is_one_that_is_not_there(home: Path) -> None:
    """A name longer than any file's; a folder without permission reads the same."""
    endless = Path("x" * 5000)

    with pytest.raises(WeightsMissingError, match=r"LoRA \(.*xxx is not there\)"):
        find_model(settings_of(home, control_lora=endless))
    with pytest.raises(WeightsMissingError, match="there is no model in"):
        find_model(settings_of(home, model=str(endless)))
    with pytest.raises(WeightsMissingError, match="has no folder models"):
        find_model(settings_of(home, comfyui_dir=endless))
    assert not flux_is_there(settings_of(home, weights_dir=endless))


def test_a_comfyui_folder_must_be_one(home: Path) -> None:
    with pytest.raises(WeightsMissingError, match=r"comfyui_dir=.*/hub has no folder models\."):
        find_model(settings_of(home, comfyui_dir=home / "hub"))


def test_nothing_there_is_one_line_with_the_places_and_what_helps(home: Path) -> None:
    with pytest.raises(WeightsMissingError) as caught:
        find_model(settings_of(home))

    message = str(caught.value)
    assert message.startswith(f"there is no model in {home}/weights, {home}/hub, {home}/ComfyUI: ")
    assert "Run: depthflux weights pull, or " in message
    assert "comfyui_dir" in message
    assert message.endswith("depthflux demo.")


def test_all_that_is_missing_and_all_that_is_damaged_stand_in_one_line(home: Path) -> None:
    put(home, "weights/flux1-dev.safetensors")  # empty
    put(home, "weights/FLUX.1-dev/vae/config.json")
    put(home, "weights/clip_l.safetensors")
    (home / "weights/clip_l.safetensors").write_bytes(b"\x80\x02ctorch")

    with pytest.raises(WeightsMissingError) as caught:
        find_model(settings_of(home))

    message = str(caught.value)
    vae = home / "weights/FLUX.1-dev/vae/diffusion_pytorch_model.safetensors"
    assert f"VAE (lacks {vae})" in message
    for part in ("T5 text encoder", "CLIP tokenizer", "T5 tokenizer", "control LoRA"):
        assert part in message
    assert "flux1-dev.safetensors has 0 bytes" in message
    assert "clip_l.safetensors is no safetensors file but a pickle" in message
    assert "scheduler" not in message
    assert "\n" not in message


def test_where_only_the_tokenizers_are_missing_only_they_are_to_be_pulled(home: Path) -> None:
    put(home, *PLACES["transformer"]["files"], *PLACES["vae"]["files"])
    put(home, *PLACES["text_encoder_2"]["files"], "weights/clip_l.safetensors")
    put(home, *PLACES["control_lora"]["files"])

    with pytest.raises(
        WeightsMissingError, match="missing: CLIP tokenizer, T5 tokenizer"
    ) as caught:
        find_model(settings_of(home))

    assert "Run: depthflux weights pull tokenizers, or " in str(caught.value)


def test_an_estimator_may_be_absent_and_half_of_one_is_told(home: Path, miniature_8x: Path) -> None:
    shutil.copytree(miniature_8x, home / "weights" / "FLUX.1-dev")
    estimator = home / "weights/FLUX.1-dev/depth_estimator"
    (estimator / "model.safetensors").unlink()

    half = find_model(settings_of(home))
    shutil.rmtree(estimator)
    none = find_model(settings_of(home))

    assert half.estimator is none.estimator is None
    with pytest.raises(WeightsMissingError, match=rf"\(lacks {estimator}/model\.safetensors\), so"):
        half.require_estimator()
    with pytest.raises(WeightsMissingError, match="or beside it, so depth cannot be"):
        none.require_estimator()


@pytest.mark.parametrize("name", ["control_lora", "depth_estimator"])
def test_a_file_is_no_folder_and_a_folder_no_file(name: str, home: Path) -> None:
    wrong = home / "weights" / "there"
    if name == "control_lora":
        wrong.mkdir()
    else:
        wrong.touch()

    with pytest.raises(WeightsMissingError, match=f"{wrong} is a .*, not a "):
        find_model(settings_of(home, **{name: wrong}))


def test_an_estimator_is_found_without_a_model_beside_it(home: Path) -> None:
    with pytest.raises(WeightsMissingError, match=r"no depth estimator.*weights pull depth-small"):
        find_estimator(settings_of(home))
    put(home, *PLACES["depth_estimator"]["folder"])

    found = find_estimator(settings_of(home))

    assert found == home / "weights" / "Depth-Anything-V2-Small-hf"
    assert find_estimator(settings_of(home, model="demo")) == demo_folder() / "depth_estimator"


def test_flux_is_there_where_its_transformer_is_or_its_folder_was_begun(home: Path) -> None:
    settings = settings_of(home)
    assert not flux_is_there(settings)
    put(home, *PLACES["transformer"]["comfyui"])
    by_transformer = flux_is_there(settings)
    (home / PLACES["transformer"]["comfyui"][0]).unlink()
    put(home, "weights/FLUX.1-dev/model_index.json")

    assert by_transformer
    assert flux_is_there(settings)
    assert flux_places(settings) == [home / "weights", home / "hub", home / "ComfyUI"]


def test_a_models_own_folder_holds_all_of_it(home: Path, miniature_8x: Path) -> None:
    """Nothing of another model slips in from the cache or from ComfyUI."""
    model = Path(shutil.copytree(miniature_8x, home / "model"))
    shutil.rmtree(model / "vae")
    (model / "control_lora.safetensors").unlink()
    put(home, *PLACES["vae"]["files"], *PLACES["control_lora"]["cache"])

    with pytest.raises(WeightsMissingError, match=r"missing: VAE .*, control LoRA \(none of "):
        find_model(settings_of(home, model=str(model)))
    shutil.copytree(miniature_8x / "vae", model / "vae")
    put(home, *PLACES["control_lora"]["files"])

    files = find_model(settings_of(home, model=str(model)))

    assert files.control_lora == home / PLACES["control_lora"]["files"][0]
    assert {one.rule for one in files.components.values()} == {"model"}


def test_hashes_are_called_the_same_wherever_the_files_lie(home: Path, miniature_8x: Path) -> None:
    """Records made before single files could be used name the hashes so."""
    names = {
        "control_lora",
        "depth_estimator",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer.json",
        "tokenizer_2/tokenizer_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    in_weights_dir = shutil.copytree(miniature_8x, home / "weights" / "FLUX.1-dev")
    from_folder = find_model(settings_of(home)).sha256
    (home / "hub" / FLUX).parent.mkdir(parents=True)
    shutil.move(in_weights_dir, home / "hub" / FLUX)
    (home / "weights/FLUX.1-dev").mkdir()
    shutil.move(home / "hub" / FLUX / "depth_estimator", home / "weights/FLUX.1-dev")
    shutil.move(home / "hub" / FLUX / "control_lora.safetensors", home / "weights")

    from_cache = find_model(settings_of(home)).sha256

    assert set(find_model(EngineSettings(model="demo")).sha256) == names
    assert set(from_folder) == names
    assert from_cache == from_folder


def test_a_single_files_hash_is_called_by_component_and_file(
    home: Path, miniature_8x: Path
) -> None:
    shutil.copytree(miniature_8x, home / "weights" / "FLUX.1-dev")
    shutil.rmtree(home / "weights/FLUX.1-dev/vae")
    put(home, *PLACES["vae"]["files"])

    hashes = find_model(settings_of(home)).sha256

    assert [name for name in hashes if name.startswith("vae/")] == ["vae/ae.sft"]
