"""Comparing weights on disk with the catalogue and with the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from depthflux.errors import WeightsCorruptError, WeightsMissingError
from depthflux.files import sha256_of_file
from depthflux.model.catalogue import Entry, WantedFile
from depthflux.model.pins import FilePin, FolderPins, read_pins, record_pins
from depthflux.model.verification import FileCheck, check_entry, pin_unpinned, require_right

WEIGHTS = save({"weight": np.ones(4, np.float32)})
KNOWN = b'{"known": true}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weights folder with one entry's files in it."""
    (tmp_path / "Toy").mkdir()
    (tmp_path / "Toy" / "known.json").write_bytes(KNOWN)
    (tmp_path / "Toy" / "a.safetensors").write_bytes(WEIGHTS)
    return tmp_path


@pytest.fixture
def entry(folder: Path) -> Entry:
    """An entry of whose two files the catalogue knows one."""
    known = WantedFile("known.json", len(KNOWN), sha256_of_file(folder / "Toy" / "known.json"))
    return Entry(
        name="toy",
        title="a toy",
        repository="someone/toy",
        folder="Toy",
        files=(known, WantedFile("*.safetensors"), WantedFile("extra.txt", optional=True)),
        licence="MIT",
        commercial=True,
    )


def check(entry: Entry, folder: Path) -> dict[str, FileCheck]:
    pins = read_pins(folder).get(entry.folder)
    return {c.path: c for c in check_entry(entry, folder, pins, sha256_of_file)}


def pin(entry: Entry, folder: Path) -> None:
    pin_unpinned(list(check(entry, folder).values()), folder)


def test_a_file_is_ok_as_the_catalogue_says_or_not_pinned(entry: Entry, folder: Path) -> None:
    checks = check(entry, folder)

    assert {path: c.state for path, c in checks.items()} == {
        "known.json": "ok",
        "a.safetensors": "unpinned",
    }
    assert checks["known.json"].detail == "as the catalogue says"
    require_right(checks.values(), folder)


def test_looking_records_nothing(entry: Entry, folder: Path) -> None:
    check(entry, folder)

    assert not (folder / "pins.json").exists()


def test_pinning_records_what_is_there_and_later_looks_compare_with_it(
    entry: Entry, folder: Path
) -> None:
    pin(entry, folder)

    recorded = read_pins(folder)["Toy"]
    assert recorded.repository == "someone/toy"
    assert recorded.revision is None
    assert list(recorded.files) == ["a.safetensors"]
    assert check(entry, folder)["a.safetensors"].detail == "as pins.json says"


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        (
            "a.safetensors",
            WEIGHTS[:-1],
            r"Toy/a\.safetensors has 87 bytes where pins\.json says 88",
        ),
        ("a.safetensors", WEIGHTS[:-1] + b"!", r"Toy/a\.safetensors has the sha256 \w{64} where"),
        ("known.json", b'{"known": frue}', r"Toy/known\.json has the sha256 .* the catalogue says"),
    ],
    ids=["size", "sum", "the catalogue's sum"],
)
def test_a_file_that_changed_is_wrong(
    name: str, data: bytes, told: str, entry: Entry, folder: Path
) -> None:
    pin(entry, folder)
    (folder / "Toy" / name).write_bytes(data)

    checks = check(entry, folder)

    assert checks[name].state == "wrong"
    with pytest.raises(WeightsCorruptError, match=told):
        require_right(checks.values(), folder)


def test_all_wrong_and_missing_files_are_named_at_once(entry: Entry, folder: Path) -> None:
    pin(entry, folder)
    (folder / "Toy" / "known.json").write_text("{}")
    (folder / "Toy" / "a.safetensors").unlink()

    with pytest.raises(WeightsCorruptError) as caught:
        require_right(check(entry, folder).values(), folder)

    assert "Toy/known.json has 2 bytes" in str(caught.value)
    assert "Toy/a.safetensors is not there, though pins.json records it" in str(caught.value)


def test_pinning_never_records_over_what_is_known(entry: Entry, folder: Path) -> None:
    pin(entry, folder)
    before = (folder / "pins.json").read_bytes()
    (folder / "Toy" / "known.json").write_text("{}")
    (folder / "Toy" / "a.safetensors").write_bytes(WEIGHTS[:-1] + b"!")

    pin(entry, folder)

    assert (folder / "pins.json").read_bytes() == before


def test_a_truncated_file_is_wrong_though_nothing_is_recorded_of_it(
    entry: Entry, folder: Path
) -> None:
    (folder / "Toy" / "a.safetensors").write_bytes(WEIGHTS[:-1])

    pin(entry, folder)

    assert check(entry, folder)["a.safetensors"].state == "wrong"
    assert read_pins(folder) == {}


def test_a_wanted_file_that_is_not_there_is_missing_an_optional_one_is_not(
    entry: Entry, folder: Path
) -> None:
    (folder / "Toy" / "a.safetensors").unlink()

    checks = check(entry, folder)

    assert {path for path, c in checks.items() if c.state == "missing"} == {"*.safetensors"}
    with pytest.raises(WeightsMissingError, match="depthflux weights pull toy"):
        require_right(checks.values(), folder)


def test_records_that_name_files_elsewhere_are_not_followed(entry: Entry, folder: Path) -> None:
    (folder / "secret.txt").write_text("x")
    pins = FolderPins("someone/toy", None, {"../secret.txt": FilePin(1, "0" * 64)})

    checks = list(check_entry(entry, folder, pins, sha256_of_file))

    assert {c.path for c in checks} == {"known.json", "a.safetensors"}


def test_recording_keeps_what_is_recorded_of_others(folder: Path) -> None:
    one, other = FilePin(1, "1" * 64), FilePin(2, "2" * 64)
    record_pins(folder, "Toy", "someone/toy", "c" * 40, {"a": one})
    record_pins(folder, "Other", "someone/other", None, {"b": other})

    record_pins(folder, "Toy", "someone/toy", None, {"b": other})

    assert read_pins(folder) == {
        "Toy": FolderPins("someone/toy", "c" * 40, {"a": one, "b": other}),
        "Other": FolderPins("someone/other", None, {"b": other}),
    }
