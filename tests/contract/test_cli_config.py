"""`depthflux config show`: what will run on this machine, and why."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

Call = Callable[..., Result]


def switches(cli: Call, *words: object) -> dict[str, dict[str, object]]:
    result = cli("config", "show", *words, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, dict[str, object]] = json.loads(result.stdout)["switches"]
    return found


def test_each_switch_is_told_with_its_reason(cli: Call) -> None:
    told = switches(cli, "--profile", "exact", "--compile", "--set", "max_batch=4")

    assert told["hoisting"]["applied"] is True
    assert told["compilation"]["applied"] is True
    assert told["batching"] == {
        "applied": True,
        "reason": "up to 4 pictures of a request together",
    }
    assert told["quantization"] == {"applied": False, "reason": "not asked for"}


def test_turbo_is_told_as_what_it_is(cli: Call) -> None:
    told = switches(cli, "--profile", "turbo", "--compile")

    assert "approximation" in str(told["quantization"]["reason"])
    assert "50% of the steps, an approximation" in str(told["step_skipping"]["reason"])


def test_a_combination_that_cannot_run_is_shown_and_not_an_error(cli: Call) -> None:
    told = switches(cli, "--profile", "fast")

    assert told["compilation"]["applied"] is False
    assert str(told["compilation"]["reason"]).startswith("refused: quantize=auto without compiling")


def test_the_second_table_says_on_or_off_and_why(cli: Call) -> None:
    lines = cli("config", "show", "--profile", "demo").stdout.splitlines()

    table = lines[lines.index("what will run") :]
    assert table[1].split() == ["switch", "why"]
    rows = {line.split()[0]: line.split()[1:] for line in table[2:]}
    assert rows["compilation"] == ["off", "switched", "off"]
    assert rows["hoisting"][0] == "on"


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "document"])
def test_a_device_that_is_not_there_runs_nothing(cli: Call, form: list[str]) -> None:
    result = cli("config", "show", "--profile", "exact", "--device", "cuda:7", *form)

    assert result.exit_code == 0
    if form:
        assert json.loads(result.stdout)["switches"] == {}
    else:
        assert "nothing" in result.stdout.split("what will run")[1]


def test_the_memory_that_flux_would_take_is_told_for_a_gpu_that_is_not_here_too(cli: Call) -> None:
    shown = cli("config", "show", "--profile", "gpu24")
    document = json.loads(cli("config", "show", "--profile", "gpu24", "--json").stdout)

    memory = document["memory"]
    assert 20e9 < memory["estimated_bytes"] < 24e9
    assert memory["available_bytes"] is None
    assert "modulation linears" not in memory["resident_bytes"]
    assert shown.stdout.splitlines()[-1].startswith(
        "memory of cuda, estimated for FLUX at 864*1636"
    )


def test_a_limit_is_told_beside_the_memory_that_is_needed(cli: Call) -> None:
    result = cli(
        "config", "show", "--profile", "exact", "--device", "cpu", "--set", "memory_limit_gb=24"
    )

    assert result.stdout.splitlines()[-1].endswith("; 24.0 GB can be had")


def test_the_memory_of_another_model_is_not_guessed(cli: Call) -> None:
    assert json.loads(cli("config", "show", "--profile", "demo", "--json").stdout)["memory"] is None
