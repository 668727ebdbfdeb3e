"""Attack 3: configurations that name code. They are refused, and code beside weights never runs."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import source_code
import transformers
from huggingface_hub import constants
from packaging.requirements import Requirement
from packaging.version import Version

import depthflux
from depthflux.depth.depth_anything import DepthAnything
from depthflux.model.loading import open_component
from depthflux.model.weights import find_model
from depthflux.settings import resolve_settings

ROOT = Path(__file__).parents[2]
COMPONENTS = ("text_encoder", "text_encoder_2", "depth_estimator")
KERNELS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation_internal",
)
AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForDepthEstimation": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    "AutoImageProcessor": "evil.Processor",
}
CONFIGURATIONS = (
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "transformer/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer_config.json",
    "depth_estimator/config.json",
    "depth_estimator/preprocessor_config.json",
)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def folder(miniature_8x: Path, tmp_path: Path, marker: Path) -> Path:
    """A model with a file of code in every folder, under the names that libraries look for."""
    copy = Path(shutil.copytree(miniature_8x, tmp_path / "model"))
    code = f"open({str(marker)!r}, 'w').close()\n"
    for place in (copy, *filter(Path.is_dir, copy.iterdir())):
        for name in ("evil", "pipeline", "modeling", "configuration", "__init__", "sitecustomize"):
            (place / f"{name}.py").write_text(code)
    return copy


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every name and address that is asked for, of which none answers, though all may be asked."""
    found: list[Any] = []

    def refuse(*words: Any, **_: Any) -> Any:
        found.append(words)
        raise OSError("nobody is there")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return found


def change(path: Path, **values: Any) -> None:
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(document | values))


def refusal(folder: Path) -> str:
    with pytest.raises(depthflux.WeightsCorruptError) as caught:
        depthflux.load("reference", model=str(folder))
    return str(caught.value)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_that_names_a_class_in_a_file_is_refused(
    name: str, folder: Path, marker: Path
) -> None:
    change(folder / name, auto_map=AUTO_MAP)

    assert f"{name} names code to run (auto_map=" in refusal(folder)
    assert not marker.exists()


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("key", KERNELS)
def test_a_configuration_that_names_a_kernel_to_fetch_is_refused(
    key: str, component: str, folder: Path, asked: list[Any]
) -> None:
    """transformers fetches whatever has a slash in it, and runs it (CVE-2026-4372)."""
    change(folder / component / "config.json", **{key: "somebody/kernel"})

    assert f"names code to run ({key}='somebody/kernel')" in refusal(folder)
    assert asked == []


@pytest.mark.parametrize(
    "value", [{"": "somebody/kernel"}, ["sdpa"], "paged|somebody/kernel", "flash\n", "", 1]
)
def test_any_kernel_but_torchs_own_is_refused(value: Any, folder: Path) -> None:
    change(folder / "text_encoder" / "config.json", _attn_implementation=value)

    assert "names code to run" in refusal(folder)


@pytest.mark.parametrize("component", ["text_encoder", "depth_estimator"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation_internal"])
def test_a_configuration_that_names_an_installed_kernel_is_refused_and_says_which_line(
    key: str, component: str, folder: Path
) -> None:
    """It names no code of a stranger's; but which kernel is used is not a file's to say."""
    change(folder / component / "config.json", **{key: "flash_attention_2"})

    said = refusal(folder)

    assert f"config.json names the kernel flash_attention_2 ({key})" in said
    assert "delete that line" in said
    assert "names code" not in said


def test_a_component_on_its_own_is_refused_with_what_helps(folder: Path) -> None:
    change(folder / "transformer" / "config.json", auto_map=AUTO_MAP)
    files = find_model(resolve_settings("reference", arguments={"model": str(folder)}).values)

    with pytest.raises(depthflux.WeightsCorruptError) as caught:
        open_component(files.components["transformer"])

    assert caught.value.fix == "Delete those lines or files."


def test_what_is_hidden_deep_in_a_configuration_is_seen(folder: Path) -> None:
    hidden: Any = {"attn_implementation": "somebody/kernel"}
    for _ in range(10):
        hidden = [{"text_config": hidden}]
    change(folder / "text_encoder" / "config.json", sub=hidden)

    assert "nests more than 16 deep, where code to run could be named" in refusal(folder)


def test_a_configuration_that_names_torchs_own_kernel_is_read(folder: Path) -> None:
    change(
        folder / "text_encoder" / "config.json",
        _attn_implementation="sdpa",
        _attn_implementation_autoset=True,
        attn_implementation=None,
        auto_map=None,
        trust_remote_code=False,
    )

    depthflux.load("reference", model=str(folder))


def test_an_adapter_beside_the_estimator_cannot_load_another_model(
    folder: Path, asked: list[Any]
) -> None:
    """transformers would load the model that it names in place of the folder's."""
    change(
        folder / "depth_estimator" / "adapter_config.json",
        peft_type="LORA",
        base_model_name_or_path="somebody/model",
        auto_mapping={"base_model_class": "Model", "parent_library": "evil"},
    )

    assert "adapter_config.json would have another model loaded" in refusal(folder)
    assert asked == []


@pytest.mark.parametrize("backbone", ["timm_backbone", "swin", "../evil", 1, None])
def test_an_estimator_with_another_backbone_is_refused(
    backbone: Any, folder: Path, asked: list[Any]
) -> None:
    path = folder / "depth_estimator" / "config.json"
    change(path, backbone_config={"model_type": backbone, "backbone": "hf-hub:somebody/model"})

    assert "only dinov2 can be used" in refusal(folder)
    assert asked == []


def test_an_estimator_of_quantized_weights_is_refused_before_a_library_is_loaded_for_it(
    folder: Path,
) -> None:
    path = folder / "depth_estimator" / "config.json"
    change(path, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})

    assert "describes quantized weights" in refusal(folder)


def test_an_estimator_is_judged_however_it_is_called(folder: Path) -> None:
    """Who declares what a folder holds has not said that it is harmless."""
    change(folder / "depth_estimator" / "config.json", auto_map=AUTO_MAP)

    with pytest.raises(depthflux.WeightsCorruptError, match="names code to run"):
        DepthAnything.load(
            folder / "depth_estimator",
            card=depthflux.depth.depth_anything.DEPTH_ANYTHING_V2_SMALL,
        )


def test_a_pipeline_is_built_of_our_classes_whatever_its_index_names(
    folder: Path, marker: Path, asked: list[Any], depth_ramp: Any
) -> None:
    """Code in every folder, a class of its own for every component, a template that calls."""
    change(
        folder / "model_index.json",
        _class_name=["pipeline", "Evil"],
        custom_pipeline="evil",
        **{name: ["evil", "Evil"] for name in ("transformer", "vae", "scheduler", "tokenizer")},
    )
    change(folder / "vae" / "config.json", _class_name=["evil", "Evil"])
    change(folder / "transformer" / "config.json", _class_name="Evil")
    change(folder / "text_encoder" / "config.json", architectures=["evil.Evil"])
    change(
        folder / "tokenizer" / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}",
    )
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ 1 / 0 }}")
    (folder / "tokenizer_2" / "config.json").write_text('{"model_type": "mistral"}')

    engine = depthflux.load("reference", model=str(folder))
    engine.generate(
        prompt="x",
        control_image=depth_ramp,
        preprocess_depth=False,
        size="512*512",
        num_inference_steps=1,
    )

    classes = {type(part).__module__.partition(".")[0] for part in vars(engine.model).values()}
    assert "evil" not in classes | set(sys.modules)
    assert not marker.exists()
    assert asked == []


def test_nothing_in_the_source_asks_for_code_from_elsewhere() -> None:
    trusting = [
        place
        for place, _, call in source_code.calls()
        for given in call.keywords
        if given.arg in ("trust_remote_code", "custom_pipeline", "allow_all_kernels")
    ]
    choosing = [
        f"{place} {name}"
        for place, name in source_code.imports()
        if name.startswith("transformers.Auto") or name == "diffusers.DiffusionPipeline"
    ]
    rendering = [
        f"{place} {name}"
        for place, name, _ in source_code.calls()
        if name.endswith(("apply_chat_template", "from_string"))
    ]
    asking = [
        place
        for place, name, call in source_code.calls()
        if name.endswith("from_pretrained")
        and not place.startswith("bench/")
        and "local_files_only" not in {given.arg for given in call.keywords}
    ]

    assert trusting + choosing + rendering + asking == []
    # The report's page, whose templates are files of ours.
    jinja = {place for place, name in source_code.imports() if name.startswith("jinja2")}
    assert jinja == {"bench/report/page.py"}


def test_no_transformers_of_before_the_fix_is_installed_or_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = [
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "transformers"
    ]

    assert not [old for old in ("4.57.3", "5.0.0", "5.2.0") if wanted.specifier.contains(old)]
    assert Version(transformers.__version__) >= Version("5.3.0")
