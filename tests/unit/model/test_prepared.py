"""The prepared transformer: found by what it was made of, whole or not there."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
from pathlib import Path

import pytest
import torch

from depthflux.errors import OutputError, WeightsCorruptError
from depthflux.model import prepared
from depthflux.model.placement import Placement
from depthflux.model.prepared import Ingredients, find_prepared, save_prepared
from depthflux.model.quantization import (
    Kind,
    plain_tensors,
    quantize_linears,
    read_quantized,
    write_weight,
)
from depthflux.model.tensors import TensorFiles

INGREDIENTS = Ingredients(
    transformer={"transformer.safetensors": "a" * 64},
    control_lora="b" * 64,
    compat="none",
    dtype="bfloat16",
    device="cpu",
    processor="CPU AVX2, 1 threads",
    versions={"torch": "2.13.0"},
)
WEIGHTS = {f"layer.{i}.weight": torch.full((64, 32), float(i)).bfloat16() for i in range(5)}


def test_what_was_saved_is_found_to_the_bit(tmp_path: Path) -> None:
    save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS)

    found = find_prepared(tmp_path, INGREDIENTS)

    assert found is not None
    assert found.control_scale == 1.0
    files = TensorFiles(found.files)
    assert files.headers.keys() == WEIGHTS.keys()
    assert all(torch.equal(files.read(name), tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantized_transformer_comes_back_to_the_bit_in_half_the_bytes(
    tmp_path: Path, kind: Kind
) -> None:
    saved, read = quantized_module(kind), quantized_module(kind)
    for seed, weight in enumerate(saved.parameters()):
        draw = torch.Generator().manual_seed(seed)
        write_weight(weight, torch.randn(64, 64, generator=draw))
    weights = plain_tensors(saved.state_dict())

    files = TensorFiles(save_prepared(tmp_path, INGREDIENTS, 1.0, weights).files)
    read_quantized(read, files)

    ours, theirs = plain_tensors(read.state_dict()), weights
    assert ours.keys() == files.headers.keys() == theirs.keys()
    assert all(torch.equal(ours[n].view(torch.uint8), theirs[n].view(torch.uint8)) for n in ours)
    assert sum(tensor.nbytes for tensor in theirs.values()) == 2 * (64 * 64 + 64 * 4)


def quantized_module(kind: Kind) -> torch.nn.Module:
    linears = {name: torch.nn.Linear(64, 64, bias=False, device="meta") for name in "ab"}
    module = torch.nn.ModuleDict(linears)
    placement = Placement(torch.device("cpu"), torch.bfloat16, "as set")
    quantize_linears(module, linears, kind, placement)
    return module


def test_large_weights_are_split_so_that_little_is_held_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "SHARD_BYTES", 2 * 64 * 32 * 2)

    saved = save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS)

    assert len(saved.files) == 3
    assert TensorFiles(saved.files).headers.keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"transformer": {"transformer.safetensors": "c" * 64}},
        {"control_lora": "c" * 64},
        {"compat": "diffusers"},
        {"dtype": "float32"},
        {"device": "cuda"},
        {"processor": "CPU AVX512, 1 threads"},
        {"versions": {"torch": "2.14.0"}},
        {"quantized": "int8"},
        {"law": prepared.LAW_VERSION + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_of_other_ingredients_nothing_is_found(tmp_path: Path, change: dict[str, object]) -> None:
    save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS)

    assert find_prepared(tmp_path, dataclasses.replace(INGREDIENTS, **change)) is None


def test_the_usual_scale_is_preferred(tmp_path: Path) -> None:
    for scale in (0.5, 1.0, 2.0):
        save_prepared(tmp_path, INGREDIENTS, scale, WEIGHTS)

    found = find_prepared(tmp_path, INGREDIENTS)

    assert found is not None
    assert found.control_scale == 1.0


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    file = save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS).files[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(WeightsCorruptError, match=r"transformer-0001\.safetensors.*prepare"):
        find_prepared(tmp_path, INGREDIENTS)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"files": {"../x": {}}}', "\udcff"])
def test_a_card_that_cannot_be_read_is_passed_over(tmp_path: Path, damage: str) -> None:
    folder = save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS).folder
    (folder / prepared.CARD).write_text(damage, errors="surrogateescape")

    assert find_prepared(tmp_path, INGREDIENTS) is None


def test_a_card_names_files_beside_it_only(tmp_path: Path) -> None:
    folder = save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS).folder
    card = json.loads((folder / prepared.CARD).read_text())
    card["files"] = {"../../elsewhere.safetensors": {"bytes": 1, "sha256": "0" * 64}}
    (folder / prepared.CARD).write_text(json.dumps(card))

    assert find_prepared(tmp_path, INGREDIENTS) is None


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    blocked = tmp_path / prepared.FOLDER
    blocked.write_text("a file where the folder should be")

    with pytest.raises(OutputError):
        save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS)

    assert list(tmp_path.iterdir()) == [blocked]


def test_a_full_disk_is_said_in_our_words_and_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputError, match="cannot write the prepared transformer"):
            save_prepared(tmp_path, INGREDIENTS, 1.0, WEIGHTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)

    assert list((tmp_path / prepared.FOLDER).iterdir()) == []


def test_an_interrupted_save_leaves_nothing_behind(tmp_path: Path) -> None:
    class Interrupted(dict[str, torch.Tensor]):
        def items(self):  # type: ignore[no-untyped-def]
            yield from list(super().items())[:2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_prepared(tmp_path, INGREDIENTS, 1.0, Interrupted(WEIGHTS))

    assert list((tmp_path / prepared.FOLDER).iterdir()) == []
    assert find_prepared(tmp_path, INGREDIENTS) is None
