"""Where each component is found: an ordered table of rules, each component on its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from weight_places import FLUX, PLACES, make_home, put, settings_of

from depthflux.errors import WeightsCorruptError
from depthflux.model.components import ACCESSORIES, KINDS, MODULES
from depthflux.model.discovery import FLUX_RULES, Search
from depthflux.model.flux_config import FLUX_CONFIG
from depthflux.model.hub_cache import hub_cache, snapshots
from depthflux.model.weights import search_model

Look = Callable[..., dict[str, Search]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def look(home: Path) -> Look:
    def search(**others: object) -> dict[str, Search]:
        return search_model(settings_of(home, **others))

    return search


def rule_of(search: Search) -> str | None:
    return search.found.rule if search.found else None


@pytest.mark.parametrize("name", PLACES)
def test_the_first_rule_that_matches_wins(name: str, home: Path, look: Look) -> None:
    expected = list(PLACES[name])
    for files in PLACES[name].values():
        put(home, *files)
    named = {"control_lora": home / "mine.safetensors"} if "named" in expected else {}
    found = []
    for rule, files in PLACES[name].items():
        found.append(rule_of(look(**named)[name]))
        named = {}
        if rule not in ("named", "own table"):
            (home / files[0]).unlink()

    assert found == expected
    assert found == [rule.name for rule in FLUX_RULES if rule.name in expected]
    if name != "scheduler":
        assert look()[name].found is None


def test_every_rule_says_in_words_what_it_stands_for() -> None:
    assert [rule.name for rule in FLUX_RULES] == [
        "named",
        "folder",
        "cache",
        "files",
        "comfyui",
        "own table",
    ]
    assert all(len(rule.sentence) > 8 for rule in FLUX_RULES)


def test_each_component_is_found_on_its_own(home: Path, look: Look) -> None:
    put(home, "ComfyUI/models/diffusion_models/flux1-dev.safetensors")
    put(home, f"hub/{FLUX}/text_encoder_2/config.json")
    put(home, f"hub/{FLUX}/text_encoder_2/model.safetensors")
    put(home, "weights/ae.safetensors")

    rules = {name: rule_of(one) for name, one in look().items()}

    assert rules["transformer"] == "comfyui"
    assert rules["text_encoder_2"] == "cache"
    assert rules["vae"] == "files"
    assert rules["text_encoder"] is None


def test_a_folder_that_is_not_whole_is_passed_over_and_that_is_said(home: Path, look: Look) -> None:
    folder = home / "weights" / "FLUX.1-dev" / "transformer"
    put(home, "weights/FLUX.1-dev/transformer/config.json")
    shard = "diffusion_pytorch_model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": shard.replace("00002-", "00001-", 1), "b": shard}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    put(home, f"weights/FLUX.1-dev/transformer/{index['weight_map']['a']}")
    put(home, *PLACES["transformer"]["comfyui"])

    searched = look()["transformer"]

    assert rule_of(searched) == "comfyui"
    assert searched.passed_over == (f"lacks {folder / shard}",)
    assert searched.found is not None
    assert searched.found.passed_over == searched.passed_over


def test_only_pickles_in_a_folder_are_named_as_what_they_are(home: Path, look: Look) -> None:
    put(home, "weights/FLUX.1-dev/vae/config.json")
    put(home, "weights/FLUX.1-dev/vae/diffusion_pytorch_model.bin")

    (note,) = look()["vae"].passed_over

    assert note.startswith(f"lacks {home}/weights/FLUX.1-dev/vae/diffusion_pytorch_model.safe")
    assert note.endswith("(diffusion_pytorch_model.bin: pickles are not read)")


def test_a_gguf_file_is_no_component_and_says_what_to_use(home: Path, look: Look) -> None:
    put(home, "ComfyUI/models/unet/flux1-dev-Q4_K_S.gguf")

    searched = look()["transformer"]

    assert searched.found is None
    assert searched.passed_over == (
        f"a GGUF file cannot be used: {home}/ComfyUI/models/unet/flux1-dev-Q4_K_S.gguf; "
        "use flux1-dev.safetensors",
    )


def test_an_unrounded_file_comes_before_fp8_wherever_comfyui_keeps_it(
    home: Path, look: Look
) -> None:
    put(home, "ComfyUI/models/diffusion_models/flux1-dev-fp8.safetensors")
    put(home, "ComfyUI/models/unet/old/flux1-dev.safetensors")

    found = look()["transformer"].found

    assert found is not None
    assert found.place == home / "ComfyUI/models/unet/old/flux1-dev.safetensors"


def test_what_comes_without_a_configuration_gets_that_of_flux(home: Path, look: Look) -> None:
    put(home, *PLACES["transformer"]["cache"], *PLACES["vae"]["files"])
    put(home, *PLACES["tokenizer_2"]["folder"])

    found = {name: one.found for name, one in look().items()}

    assert found["transformer"] is not None
    assert found["transformer"].config is None, "its config.json lies beside it"
    for name in ("vae", "tokenizer_2", "scheduler"):
        component = found[name]
        assert component is not None
        assert component.config == FLUX_CONFIG[name]


def test_the_snapshot_of_main_comes_first_then_the_newest(home: Path) -> None:
    repository = home / "hub" / "models--owner--name"
    for age, commit in enumerate(("c0ffee", "0dd", "ace")):
        folder = repository / "snapshots" / commit
        folder.mkdir(parents=True)
        os.utime(folder, (1000 - age, 1000 - age))
    main = repository / "refs" / "main"
    main.parent.mkdir()
    orders = []

    for content in ("0dd\n", "../../../../etc", "beef", ""):
        main.write_text(content)
        orders.append([path.name for path in snapshots(home / "hub", "owner/name")])

    newest_first = ["c0ffee", "0dd", "ace"]
    assert orders == [["0dd", "c0ffee", "ace"], newest_first, newest_first, newest_first]
    assert snapshots(home / "hub", "owner/other") == []


def test_a_snapshot_that_is_not_whole_does_not_hide_another(home: Path, look: Look) -> None:
    put(home, *PLACES["transformer"]["cache"])
    newer = f"hub/{FLUX[:-2]}c2"
    put(home, f"{newer}/transformer/config.json")
    broken = home / newer / "transformer" / "diffusion_pytorch_model.safetensors"
    broken.symlink_to("../../../blobs/not-there")
    put(home, "hub/models--black-forest-labs--FLUX.1-dev/refs/main")
    (home / "hub/models--black-forest-labs--FLUX.1-dev/refs/main").write_text("c2")

    found = look()["transformer"].found

    assert found is not None
    assert found.place == home / "hub" / FLUX / "transformer"
    assert found.passed_over == (f"lacks {broken}",)


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    cases = [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "~/h"},
        {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"},
        {"HF_HUB_CACHE": "$HOME/c", "HF_HOME": "/h"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"},
        {"HF_HUB_CACHE": "/c", "HUGGINGFACE_HUB_CACHE": "/old"},
    ]
    script = (
        "import importlib, json, os, sys\n"
        "import huggingface_hub.constants as constants\n"
        "for case in json.loads(sys.argv[1]):\n"
        "    os.environ.update(case)\n"
        "    print(importlib.reload(constants).HF_HUB_CACHE)\n"
        "    [os.environ.pop(name) for name in case]\n"
    )
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    theirs = subprocess.run(
        [sys.executable, "-c", script, json.dumps(cases)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()

    ours = []
    for case in cases:
        with monkeypatch.context() as patch:
            for name, value in case.items():
                patch.setenv(name, value)
            ours.append(str(hub_cache()))

    assert ours == theirs


def test_the_table_of_kinds_is_whole() -> None:
    assert set(KINDS) == {*MODULES, *ACCESSORIES, "tokenizer", "tokenizer_2", "scheduler"}
    assert set(FLUX_CONFIG) == set(KINDS) - set(ACCESSORIES)


def test_an_index_that_is_damaged_is_no_reason_to_look_elsewhere(home: Path, look: Look) -> None:
    put(home, *PLACES["transformer"]["folder"], *PLACES["transformer"]["comfyui"])
    folder = home / "weights/FLUX.1-dev/transformer"
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("{")

    found = look()["transformer"].found

    assert found is not None
    assert found.place == folder
    with pytest.raises(WeightsCorruptError, match="not readable as JSON"):
        found.weight_files()
