"""Pulling weights, against a real server that speaks the Hub's protocol."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hub_server import FIRST, SECOND, Hub, sha256
from toy_entries import CONFIG, ENTRY, FILES, GATED, WEIGHTS, fetch, on_disk, pins

from depthflux.errors import WeightsMissingError
from depthflux.model.catalogue import WantedFile
from depthflux.model.download import pull


def test_a_pull_puts_the_wanted_files_in_the_entry_s_folder(hub: Hub, weights: Path) -> None:
    pulled = fetch(weights)

    assert on_disk(weights) == {"Toy/config.json", "Toy/model.safetensors"}
    assert (weights / "Toy" / "model.safetensors").read_bytes() == WEIGHTS
    assert [(file.path, file.fetched) for file in pulled] == [
        ("config.json", True),
        ("model.safetensors", True),
    ]


def test_a_pull_records_the_commit_and_each_file_s_size_and_sum(hub: Hub, weights: Path) -> None:
    fetch(weights)

    assert pins(weights) == {
        "Toy": {
            "repository": "someone/toy",
            "revision": FIRST,
            "files": {
                path: {"bytes": len(data), "sha256": sha256(data)} for path, data in FILES.items()
            },
        }
    }


def test_a_second_pull_fetches_nothing(hub: Hub, weights: Path) -> None:
    fetch(weights)
    hub.requests.clear()

    pulled = fetch(weights)

    assert hub.fetched() == []
    assert [file.fetched for file in pulled] == [False, False]


def test_what_is_not_wanted_is_not_fetched(hub: Hub, weights: Path) -> None:
    unwanted = ("pytorch_model.bin", "modeling.py", "README.md", "deeper/model.safetensors")
    hub.repositories["someone/toy"].commits[FIRST] |= dict.fromkeys(unwanted, b"x")

    fetch(weights)

    assert hub.fetched() == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.safetensors",
        "/escaped.safetensors",
        "part/../../escaped.safetensors",
        "..\\escaped.safetensors",
        "part/..\\..\\escaped.safetensors",
        "C:escaped.safetensors",
    ],
)
def test_a_name_that_could_lead_out_of_the_folder_is_not_followed(
    name: str, hub: Hub, weights: Path
) -> None:
    hub.repositories["someone/toy"].commits[FIRST] |= {name: b"x", "part/a.safetensors": b"y"}
    files = (*ENTRY.files, WantedFile("part/*.safetensors"))

    fetch(weights, dataclasses.replace(ENTRY, files=files))

    wanted = ["config.json", "model.safetensors", "part/a.safetensors"]
    assert hub.fetched() == wanted
    found = {path.name for path in weights.parent.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "a.safetensors", "pins.json", ".pull.lock"}


def test_what_breaks_off_is_taken_up_where_it_was(
    small_pieces: None, hub: Hub, weights: Path
) -> None:
    hub.break_off_after = [1200]

    fetch(weights)

    assert [request.headers.get("Range") for request in hub.elsewhere] == [None, "bytes=1000-"]
    assert (weights / "Toy" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_later_pull_goes_on_where_a_stopped_one_was(
    small_pieces: None, hub: Hub, weights: Path
) -> None:
    # Six times is once more than huggingface_hub asks again.
    hub.break_off_after = [1200, *[0] * 5]
    with pytest.raises(WeightsMissingError, match="run the same command again to go on"):
        fetch(weights)
    assert not (weights / "Toy" / "model.safetensors").exists()
    hub.elsewhere.clear()

    fetch(weights)

    assert [request.headers["Range"] for request in hub.elsewhere] == ["bytes=1000-"]
    assert (weights / "Toy" / "model.safetensors").read_bytes() == WEIGHTS
    assert on_disk(weights) == {"Toy/config.json", "Toy/model.safetensors"}


def test_the_start_of_one_file_is_not_gone_on_with_as_another(
    small_pieces: None, hub: Hub, weights: Path
) -> None:
    hub.break_off_after = [1200, *[0] * 5]
    with pytest.raises(WeightsMissingError):
        fetch(weights)
    (weights / "pins.json").unlink()
    hub.repositories["someone/toy"].commits[FIRST]["model.safetensors"] = WEIGHTS[::-1]

    fetch(weights)

    assert (weights / "Toy" / "model.safetensors").read_bytes() == WEIGHTS[::-1]


def test_a_start_that_is_longer_than_the_file_is_begun_again(
    small_pieces: None, hub: Hub, weights: Path
) -> None:
    hub.break_off_after = [1200, *[0] * 5]
    with pytest.raises(WeightsMissingError):
        fetch(weights)
    (partial,) = weights.glob("Toy/.*.partial")
    partial.write_bytes(WEIGHTS * 2)

    fetch(weights)

    assert (weights / "Toy" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_later_pull_keeps_the_commit_of_the_first_one(
    small_pieces: None, hub: Hub, weights: Path
) -> None:
    hub.break_off_after = [0] * 6
    with pytest.raises(WeightsMissingError):
        fetch(weights)
    repository = hub.repositories["someone/toy"]
    repository.commits[SECOND], repository.main = {**FILES, "config.json": b"{}"}, SECOND

    fetch(weights)

    assert pins(weights)["Toy"]["revision"] == FIRST
    assert (weights / "Toy" / "config.json").read_bytes() == CONFIG


def test_the_catalogue_s_revision_is_the_one_that_is_fetched(hub: Hub, weights: Path) -> None:
    hub.repositories["someone/toy"].commits[SECOND] = {**FILES, "config.json": b"{}"}

    fetch(weights, dataclasses.replace(ENTRY, revision=SECOND))

    assert (weights / "Toy" / "config.json").read_bytes() == b"{}"


def test_a_right_file_that_was_copied_by_hand_is_not_fetched(hub: Hub, weights: Path) -> None:
    (weights / "Toy").mkdir(parents=True)
    (weights / "Toy" / "model.safetensors").write_bytes(WEIGHTS)

    fetch(weights)

    assert hub.fetched() == ["config.json"]
    assert pins(weights)["Toy"]["files"]["model.safetensors"]["sha256"] == sha256(WEIGHTS)


def test_a_token_opens_a_gated_repository_and_goes_to_the_hub_only(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("someone/gated", dict(FILES), token="let-me-in")
    monkeypatch.setenv("HF_TOKEN", "let-me-in")

    fetch(weights, GATED)

    assert on_disk(weights) == {"Gated/config.json", "Gated/model.safetensors"}
    assert all(r.headers.get("authorization") == "Bearer let-me-in" for r in hub.requests)
    assert [request.headers.get("authorization") for request in hub.elsewhere] == [None]


def test_progress_counts_the_bytes_of_all_files(hub: Hub, weights: Path) -> None:
    told: list[tuple[str, int, int]] = []

    pull([ENTRY], weights, on_bytes=lambda *words: told.append(words))

    total = len(CONFIG) + len(WEIGHTS)
    assert told[0] == ("Toy/config.json", 0, total)
    assert told[-1] == ("Toy/model.safetensors", total, total)
