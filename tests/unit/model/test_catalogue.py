"""The table of weights: complete, sourced, and its folders are where loaders look."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from depthflux.errors import InvalidParameterError
from depthflux.model.catalogue import (
    CATALOGUE,
    CONTROL_LORA,
    DEPTH_BASE,
    DEPTH_LARGE,
    DEPTH_SMALL,
    FLUX,
    NAMES,
    Entry,
    WantedFile,
    find_entries,
    how_to_copy,
)
from depthflux.model.weights import find_model
from depthflux.settings import EngineSettings

#: As Black Forest Labs publish it, in docs/structural-conditioning.md of their repository flux.
PUBLISHED_LORA_SHA256 = "1938b38ea0fdd98080fa3e48beb2bedfbc7ad102d8b65e6614de704a46d8b907"

each_entry = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.repository)


@each_entry
def test_every_entry_says_what_it_is_whose_and_under_which_licence(entry: Entry) -> None:
    assert re.fullmatch(r"[\w-]+/[\w.-]+", entry.repository)
    assert entry.title
    assert entry.licence
    assert entry.files
    assert entry.about


@each_entry
def test_only_safetensors_json_and_vocabularies_are_wanted(entry: Entry) -> None:
    kinds = r".*\.(safetensors|json|txt)|(.*/)?spiece\.model"

    assert [f.pattern for f in entry.files if not re.fullmatch(kinds, f.pattern)] == []


@each_entry
def test_revisions_sizes_and_sums_have_the_form_and_a_source(entry: Entry) -> None:
    facts = [entry.revision, *(f.bytes for f in entry.files), *(f.sha256 for f in entry.files)]

    assert bool(entry.source) == any(fact is not None for fact in facts)
    assert re.fullmatch(r"[0-9a-f]{40}", entry.revision or "0" * 40)
    assert all(re.fullmatch(r"[0-9a-f]{64}", f.sha256 or "0" * 64) for f in entry.files)
    # Of a pattern's files nobody can know a sum.
    assert all("*" not in f.pattern for f in entry.files if f.sha256 or f.bytes)


def test_the_control_lora_s_sum_is_the_published_one() -> None:
    assert [file.sha256 for file in CONTROL_LORA.files] == [PUBLISHED_LORA_SHA256]


def test_flux_is_gated_and_not_for_commercial_use() -> None:
    for entry in (FLUX, CONTROL_LORA):
        assert (entry.gated, entry.commercial) == (True, False)
        assert entry.licence == "FLUX.1 [dev] Non-Commercial License"


def test_of_the_depth_estimators_only_small_is_for_commercial_use() -> None:
    assert (DEPTH_SMALL.licence, DEPTH_SMALL.commercial) == ("Apache-2.0", True)
    for entry in (DEPTH_BASE, DEPTH_LARGE):
        assert (entry.licence, entry.commercial) == ("CC-BY-NC-4.0", False)


def test_without_names_the_model_the_lora_and_the_free_estimator_are_meant() -> None:
    assert find_entries([]) == [FLUX, CONTROL_LORA, DEPTH_SMALL]


def test_one_name_may_stand_for_two_repositories() -> None:
    repositories = [entry.repository for entry in find_entries(["tokenizers"])]

    assert repositories == ["openai/clip-vit-large-patch14", "google/t5-v1_1-xxl"]


def test_entries_come_in_the_table_s_order_each_once() -> None:
    assert find_entries(["depth-small", "flux", "flux"]) == [FLUX, DEPTH_SMALL]
    assert find_entries(NAMES) == list(CATALOGUE)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InvalidParameterError, match=r"fluxx: .* did you mean flux\?"):
        find_entries(["fluxx"])


def test_no_two_entries_share_a_folder() -> None:
    assert len({entry.folder for entry in CATALOGUE}) == len(CATALOGUE)


def test_the_folders_are_where_the_loader_looks(tmp_path: Path) -> None:
    for entry in find_entries([]):
        for file in entry.files:
            path = tmp_path / entry.folder / file.pattern.replace("*", "x")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    found = find_model(EngineSettings(weights_dir=tmp_path))

    assert found.folder == tmp_path / FLUX.folder
    assert found.control_lora == tmp_path / CONTROL_LORA.folder / CONTROL_LORA.files[0].pattern
    assert found.estimator == tmp_path / DEPTH_SMALL.folder


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("a/b.json", "a/b.json", True),
        ("a/*.json", "a/b.json", True),
        ("a/*.json", "a/b/c.json", False),
        ("*.json", "a/b.json", False),
        ("a/*.json", "A/b.json", False),
        ("a/*.json", "a/.json", False),
        ("a/*.json", "a/..\\b.json", False),
        ("*/b.json", "../b.json", False),
        ("*/b.json", "/b.json", False),
    ],
)
def test_a_pattern_means_files_of_its_own_folder_only(pattern: str, path: str, meant: bool) -> None:
    assert WantedFile(pattern).matches(path) is meant


def test_what_is_missing_and_what_is_there_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / DEPTH_BASE.folder
    folder.mkdir()
    (folder / "config.json").touch()
    (folder / "model.safetensors").mkdir()

    present = DEPTH_BASE.present(tmp_path)

    assert present == {"config.json": folder / "config.json"}
    assert DEPTH_BASE.missing(present) == ["preprocessor_config.json", "model.safetensors"]


def test_what_to_copy_names_each_file_its_page_and_its_folder(tmp_path: Path) -> None:
    told = how_to_copy([CONTROL_LORA, DEPTH_SMALL], tmp_path)

    for entry in (CONTROL_LORA, DEPTH_SMALL):
        assert f"of {entry.page}" in told
        assert f"into {tmp_path / entry.folder}" in told
        assert all(file.pattern in told for file in entry.files)
    assert f"at revision {DEPTH_SMALL.revision}" in told
