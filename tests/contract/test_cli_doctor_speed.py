"""`depthflux doctor`: what of the speed that can be switched on is to be had on this machine."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from depthflux.cli.diagnosis import describe_speed

Call = Callable[..., Result]


def test_doctor_says_whether_compiling_and_quantizing_are_possible(cli: Call) -> None:
    machine = json.loads(cli("doctor", "--json").stdout)["machine"]

    assert machine["compiling"] == "possible"
    assert machine["quantizing"] == f"torchao {importlib.metadata.version('torchao')}"
    assert machine["attention"] == "torch (auto: torch's own choice on the CPU)"


def test_doctor_says_what_compiling_and_quantizing_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    told = describe_speed("missing")

    assert "needs a C++ compiler" in told["compiling"]
    assert told["quantizing"].endswith("pip install 'depthflux[fast]'")
