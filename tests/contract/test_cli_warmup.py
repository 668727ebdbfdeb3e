"""`depthflux warmup` where nothing is to be compiled; tests/unit/engine/test_warmup.py compiles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Call = Callable[..., Result]


def test_a_profile_that_does_not_compile_has_nothing_to_do(cli: Call, miniature_16x: Path) -> None:
    result = cli("warmup", "--profile", "demo", "--model", miniature_16x, "--json")

    assert result.exit_code == 0, result.output
    assert "nothing to do: the blocks are not compiled (switched off)" in result.stderr
    document = json.loads(result.stdout)
    assert document["compiled"] is False
    assert document["parts"] == []
    assert document["folder"] is None


def test_a_combination_that_cannot_run_is_one_line(cli: Call, miniature_16x: Path) -> None:
    words = ("warmup", "--profile", "fast", "--model", miniature_16x, "--device", "cpu")

    result = cli(*words)

    assert result.exit_code == 3
    assert result.stderr.startswith("error: quantize=auto without compiling would be slower")
    assert len(result.stderr.strip().splitlines()) == 1
