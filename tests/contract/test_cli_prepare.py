"""`depthflux weights prepare`: saved once, loaded by the next start, refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import depthflux
from depthflux.model.tensors import TensorFiles

Call = Callable[..., Result]


def test_the_next_start_loads_what_was_prepared(
    cli: Call, miniature_8x: Path, tmp_path: Path
) -> None:
    words = ("weights", "prepare", "--profile", "exact", "--model", miniature_8x)

    result = cli(*words, "--weights-dir", tmp_path, "--control-scale", "0.5", "--json")

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["control_scale"] == 0.5
    assert len(TensorFiles([Path(name) for name in document["files"]]).headers) > 50
    engine = depthflux.load("exact", model=str(miniature_8x), weights_dir=tmp_path)
    assert engine.model.control_lora.scale == 0.5


def test_the_folder_is_printed_alone(cli: Call, miniature_8x: Path, tmp_path: Path) -> None:
    words = ("weights", "prepare", "--profile", "exact", "--model", miniature_8x)

    result = cli(*words, "--weights-dir", tmp_path)

    assert Path(result.stdout.strip()).is_dir()
    assert "control_scale 1" in result.stderr


def test_a_scale_out_of_range_exits_with_2(cli: Call, tmp_path: Path) -> None:
    result = cli("weights", "prepare", "--control-scale", "2.5", "--weights-dir", tmp_path)

    assert result.exit_code == 2
    assert "control_scale=2.5 is not allowed" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_exits_with_2_and_names_it(
    cli: Call, miniature_8x: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    words = ("weights", "prepare", "--profile", "exact", "--model", miniature_8x)

    result = cli(*words, "--weights-dir", blocked)

    assert result.exit_code == 2
    assert str(blocked) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
