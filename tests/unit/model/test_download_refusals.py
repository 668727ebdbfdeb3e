"""What pulling refuses: other bytes, closed gates, missing networks; nothing wrong is left."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest
from hub_server import FIRST, SECOND, Hub, sha256
from toy_entries import ENTRY, FILES, GATED, WEIGHTS, fetch, on_disk

from depthflux.errors import (
    LicenceError,
    OutputError,
    WeightsCorruptError,
    WeightsMissingError,
)
from depthflux.model.catalogue import Entry, WantedFile
from depthflux.model.hub import locked


def refuse(hub: Hub, status: int, code: str) -> None:
    hub.repositories["someone/toy"].refuses = (status, code)


def with_sum(sum_: str, entry: Entry = ENTRY) -> Entry:
    """The same entry whose catalogue knows the weights' sum."""
    files = (WantedFile("config.json"), WantedFile("model.safetensors", len(WEIGHTS), sum_))
    return dataclasses.replace(entry, files=files)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_under_the_same_name_and_commit_is_refused(
    name: str, hub: Hub, weights: Path
) -> None:
    fetch(weights)
    (weights / "Toy" / name).unlink()
    hub.repositories["someone/toy"].commits[FIRST][name] = FILES[name][::-1]

    with pytest.raises(WeightsCorruptError, match=rf"Toy/{name} has the sha256 .* pins\.json"):
        fetch(weights)

    assert on_disk(weights) == {f"Toy/{other}" for other in FILES if other != name}


def test_a_sum_that_the_catalogue_does_not_know_is_refused_before_anything_is_fetched(
    hub: Hub, weights: Path
) -> None:
    with pytest.raises(WeightsCorruptError, match=f"the catalogue says {'0' * 64}"):
        fetch(weights, with_sum("0" * 64))

    assert hub.fetched() == []
    assert on_disk(weights) == set()


def test_bytes_that_are_not_those_announced_are_thrown_away(hub: Hub, weights: Path) -> None:
    large = {"size": len(WEIGHTS), "sha256": sha256(WEIGHTS), "pointerSize": 1}
    repository = hub.repositories["someone/toy"]
    repository.claims = {"model.safetensors": {"lfs": large}}
    repository.commits[FIRST]["model.safetensors"] = WEIGHTS[::-1]

    with pytest.raises(WeightsCorruptError, match=r"what came for Toy/model.safetensors has the"):
        fetch(weights, with_sum(sha256(WEIGHTS)))

    assert on_disk(weights) == {"Toy/config.json"}


def test_a_small_file_is_compared_with_the_sum_that_git_knows_it_by(
    hub: Hub, weights: Path
) -> None:
    hub.repositories["someone/toy"].claims = {"config.json": {"blobId": "0" * 40}}

    with pytest.raises(
        WeightsCorruptError, match=r"config\.json is not the file that the Hub lists"
    ):
        fetch(weights)

    assert on_disk(weights) == set()


def test_a_wrong_file_that_is_there_is_named_and_not_replaced(hub: Hub, weights: Path) -> None:
    (weights / "Toy").mkdir(parents=True)
    (weights / "Toy" / "model.safetensors").write_bytes(b"mine")

    with pytest.raises(WeightsCorruptError, match=r"has 4 bytes where the Hub says 3072.* delete"):
        fetch(weights)

    assert (weights / "Toy" / "model.safetensors").read_bytes() == b"mine"
    assert hub.fetched() == []


def test_all_gated_repositories_are_named_before_anything_is_fetched(
    hub: Hub, weights: Path
) -> None:
    other = dataclasses.replace(GATED, repository="someone/other", folder="Other")
    for name in ("someone/gated", "someone/other"):
        hub.add(name, dict(FILES), token="let-me-in")

    with pytest.raises(LicenceError, match="Toy Licence") as caught:
        fetch(weights, ENTRY, GATED, other)

    for words in (GATED.page, other.page, "hf auth login", "HF_TOKEN"):
        assert words in str(caught.value)
    assert hub.fetched() == []


def test_a_gated_repository_that_the_hub_hides_is_told_alike(hub: Hub, weights: Path) -> None:
    hub.add("someone/gated", dict(FILES), refuses=(401, "RepoNotFound"))

    with pytest.raises(LicenceError, match=r"answered 401.* Accept it at"):
        fetch(weights, GATED)


def test_another_commit_than_the_pinned_one_is_refused(hub: Hub, weights: Path) -> None:
    fetch(weights)
    hub.repositories["someone/toy"].claimed_commit = SECOND

    with pytest.raises(WeightsMissingError, match=f"it is about '{SECOND}', not {FIRST}"):
        fetch(weights)


def test_a_token_without_access_is_told_to_accept_the_licence(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("someone/gated", dict(FILES), token="let-me-in")
    monkeypatch.setenv("HF_TOKEN", "someone-else")

    with pytest.raises(LicenceError, match=r"answered 403.* Accept it at"):
        fetch(weights, GATED)


def test_without_a_network_it_is_said_what_to_copy_where(hub: Hub, weights: Path) -> None:
    hub.close()

    with pytest.raises(WeightsMissingError, match="cannot be reached") as caught:
        fetch(weights, ENTRY, GATED)

    for words in (
        f"config.json, *.safetensors of {ENTRY.page} into {weights / 'Toy'}",
        f"config.json, model.safetensors of {GATED.page} into {weights / 'Gated'}",
        "depthflux weights verify --pin",
    ):
        assert words in str(caught.value)


def test_offline_mode_is_respected(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(WeightsMissingError, match=r"HF_HUB_OFFLINE .* is set\. Copy by hand"):
        fetch(weights)

    assert hub.requests == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda hub: hub.repositories.clear(), "answered 404 for someone/toy"),
        (
            lambda hub: hub.repositories["someone/toy"].commits[FIRST].pop("config.json"),
            rf"at revision {FIRST} has no config\.json",
        ),
        (
            lambda hub: setattr(hub.repositories["someone/toy"], "main", "gone"),
            "no longer the revision",
        ),
        (
            lambda hub: hub.add("someone/toy", dict(FILES), commit="main"),
            "is no list of files: it is about 'main', not a commit",
        ),
        (
            lambda hub: hub.repositories["someone/toy"].claims.update(
                {"config.json": {"size": "?"}}
            ),
            "is no list of files: invalid literal",
        ),
        (lambda hub: refuse(hub, 200, ""), "is no list of files: Expecting value"),
        (lambda hub: refuse(hub, 401, ""), "answered 401.* it may have run out"),
        (lambda hub: refuse(hub, 503, ""), "answered 503 .* Try again later"),
    ],
    ids=[
        "no repository",
        "no such file",
        "no revision",
        "no commit",
        "no size",
        "no JSON",
        "token refused",
        "out of order",
    ],
)
def test_a_repository_that_is_not_as_it_should_be_is_one_clear_line(
    spoil: object, told: str, hub: Hub, weights: Path
) -> None:
    spoil(hub)

    with pytest.raises(WeightsMissingError, match=told):
        fetch(weights)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    hub: Hub, weights: Path
) -> None:
    large = {"size": 10**18, "sha256": sha256(WEIGHTS), "pointerSize": 1}
    claim = {"model.safetensors": {"size": 10**18, "lfs": large}}
    hub.repositories["someone/toy"].claims = claim

    with pytest.raises(WeightsMissingError, match=r"1000000000\.00 GB are to be fetched"):
        fetch(weights)

    assert hub.fetched() == []


def test_a_disk_that_fills_up_is_one_clear_line_and_what_came_is_kept(
    small_pieces: None, hub: Hub, weights: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow past it; the weights have 3072 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write to Toy: .*; what was fetched is kept"):
            fetch(weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "Toy/model.safetensors" not in on_disk(weights)
    fetch(weights)
    assert (weights / "Toy" / "model.safetensors").read_bytes() == WEIGHTS


def test_fewer_bytes_than_were_announced_are_not_taken_for_the_file(
    hub: Hub, weights: Path
) -> None:
    large = {"size": 4000, "sha256": sha256(WEIGHTS), "pointerSize": 1}
    claim = {"model.safetensors": {"size": 4000, "lfs": large}}
    hub.repositories["someone/toy"].claims = claim

    with pytest.raises(WeightsMissingError, match="should be of size 4000 but has size 3072"):
        fetch(weights)

    assert "Toy/model.safetensors" not in on_disk(weights)


def test_only_one_pull_at_a_time_writes_to_a_folder(hub: Hub, weights: Path) -> None:
    weights.mkdir()

    with locked(weights), pytest.raises(WeightsMissingError, match="another pull is at work"):
        fetch(weights)


def test_a_folder_that_cannot_be_written_is_named(hub: Hub, weights: Path) -> None:
    weights.write_text("a file")

    with pytest.raises(OutputError, match=r"weights: File exists; .* --weights-dir"):
        fetch(weights)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"version": 2, "folders": {}}', '{"version": 1, "folders": {"Toy": {}}}'],
)
def test_records_that_cannot_be_read_are_refused_and_left(
    text: str, hub: Hub, weights: Path
) -> None:
    weights.mkdir()
    (weights / "pins.json").write_text(text)

    with pytest.raises(WeightsCorruptError, match=r"pins\.json does not hold the records"):
        fetch(weights)

    assert (weights / "pins.json").read_text() == text
