"""The promises of docs/fidelity.md on a quick run of its own script, and the page itself."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fidelity_report.names import (
    BFLOAT16,
    COMPAT,
    COMPILED,
    DEMO,
    DEMO_UNHOISTED,
    EAGER,
    FLOAT64,
    PIXELS,
    REFERENCE,
    STAGES,
    UNHOISTED,
)
from fidelity_report.page import GOAL, HOISTING_GOAL
from fidelity_report.traps import TRAPS

ROOT = Path(__file__).parents[2]


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = [str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", "fidelity_report", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One scene in three steps, and a random model of two blocks."""
    out = tmp_path_factory.mktemp("fidelity") / "quick.json"
    run = run_script("--quick", "--out", str(out))
    assert run.returncode == 0, run.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def test_reference_equals_the_pipeline_to_the_bit_in_every_stage(report: dict[str, Any]) -> None:
    stages = report["stages"][REFERENCE]

    assert set(stages) == set(STAGES)
    assert [name for name, entry in stages.items() if not entry["equal"]] == []
    assert report["random_model"][REFERENCE]["equal"]


def test_diffusers_order_and_law_in_bfloat16_equal_the_pipeline_up_to_the_decoder(
    report: dict[str, Any],
) -> None:
    stages = report["stages"][COMPAT]

    assert {name for name, entry in stages.items() if not entry["equal"]} <= set(PIXELS)
    assert report["random_model"][COMPAT]["equal"]


def test_the_comparison_can_tell_two_laws_apart(report: dict[str, Any]) -> None:
    """Ours rounds otherwise: were a step equal to diffusers', nothing above would be shown."""
    assert not report["stages"][UNHOISTED]["step"]["equal"]
    assert not report["random_model"][UNHOISTED]["equal"]


def test_the_hoisted_order_in_float32_is_diffusers_order_up_to_the_last_bits(
    report: dict[str, Any],
) -> None:
    hoisting = report["hoisting"]

    assert hoisting["same_control"]
    assert 0 < hoisting["all_steps"]["max"] <= HOISTING_GOAL
    assert 0 < report["random_model"][DEMO]["error"]["max"] <= HOISTING_GOAL


def test_the_demos_picture_is_diffusers_to_a_hundredth_of_a_grey_level(
    report: dict[str, Any],
) -> None:
    hoisted = report["stages"][DEMO]

    assert all(stage["equal"] for stage in report["stages"][DEMO_UNHOISTED].values())
    assert hoisted["tokens"]["equal"]
    assert hoisted["pooled"]["equal"]
    assert hoisted["picture"]["error"]["max"] < 0.01


@pytest.mark.parametrize("name", [EAGER, COMPILED])
def test_a_hoisted_step_errs_less_than_diffusers_bfloat16(
    name: str, report: dict[str, Any]
) -> None:
    ratio = report["stages"][name]["step"]["ratio"]

    # Far below it, something else than a bfloat16 step would be compared.
    assert 0.5 < ratio["median"] < ratio["max"] < 1 < GOAL


def test_a_hoisted_step_loses_nothing_at_timesteps_that_bfloat16_has_not(
    report: dict[str, Any],
) -> None:
    theirs, ours = report["stages"][BFLOAT16], report["stages"][EAGER]

    assert theirs["step_of_run"]["error"]["median"] > theirs["step"]["error"]["median"]
    assert ours["step_of_run"]["error"]["median"] < ours["step"]["error"]["max"]
    assert ours["step_of_run"]["ratio"]["max"] < 0.7


@pytest.mark.parametrize("name", [EAGER, COMPILED])
def test_a_hoisted_run_errs_less_than_diffusers_bfloat16(name: str, report: dict[str, Any]) -> None:
    """One scene: the margins are those of a single pair."""
    stages = report["stages"][name]

    assert stages["control"]["ratio"]["median"] < 1.2
    assert stages["all_steps"]["ratio"]["median"] < 0.7
    assert stages["decode"]["ratio"]["median"] < 1
    assert stages["picture"]["ratio"]["median"] < 0.8


def test_a_run_in_diffusers_order_errs_as_diffusers_bfloat16_does(report: dict[str, Any]) -> None:
    """So what the hoisted order gains is its order's, not the law's."""
    stages = report["stages"][UNHOISTED]

    assert 0.9 < stages["step"]["ratio"]["median"] < 1.1
    assert 0.8 < stages["all_steps"]["ratio"]["median"] < 1.2


def test_bfloat16_errs_a_thousand_times_as_much_as_float32(report: dict[str, Any]) -> None:
    """The oracle's own rounding plays no part in the ratios."""
    assert report["stages"][FLOAT64]["step"]["ratio"]["max"] < 1e-3


def test_weights_after_any_sequence_of_scales_are_those_of_a_fresh_fuse(
    report: dict[str, Any],
) -> None:
    sequences = report["law"]["sequences"]

    assert sequences["ours"] == 0
    assert sequences["diffusers"]["base_after_one_cycle"] > 0.05


def test_scale_zero_is_the_base_model_to_the_bit(report: dict[str, Any]) -> None:
    zero = report["law"]["scale_zero"]

    assert zero["ours"] == {"weights_different": 0.0, "step_equal": True, "step_change": 0.0}
    assert not zero["diffusers"]["step_equal"], "diffusers has changed; see test_lora_traps.py"


def test_fused_weights_are_the_nearest_to_the_exact_sums(report: dict[str, Any]) -> None:
    """All but a few, that fall on the middle of two numbers as float32 sees it."""
    for entry in report["law"]["rounding"].values():
        assert entry["ours"]["not_the_nearest"] < 1e-4
        assert entry["ours"]["mean_error_ulp"] < 0.26
        assert entry["diffusers"]["not_the_nearest"] > 0.01


def test_our_conversion_keeps_the_published_delta_and_diffusers_does_not(
    report: dict[str, Any],
) -> None:
    conversion = report["law"]["conversion"]

    assert conversion["cosine_ours"] > 0.9999
    assert abs(conversion["cosine_diffusers"]) < 0.05
    assert conversion["converted_alike"] == conversion["linears"] - 1


def test_the_unfused_weights_cost_memory_only_where_they_are_kept(report: dict[str, Any]) -> None:
    kept = {name: cost["bytes_kept"] for name, cost in report["changes"]["masters"].items()}

    assert kept["file"] == 0
    assert kept["host"] == kept["device"] > 10_000_000


# The page -----------------------------------------------------------------------------------------


def test_the_page_is_what_the_script_makes_of_the_figures() -> None:
    run = subprocess.run(
        [str(ROOT / "scripts" / "fidelity"), "--check"], capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr


def test_a_page_that_was_edited_by_hand_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fidelity_report import __main__ as script

    page = tmp_path / "fidelity.md"
    page.write_text(script.PAGE.read_text(encoding="utf-8").replace("0.", "1."), encoding="utf-8")
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["scripts/fidelity", "--check"])

    with pytest.raises(SystemExit, match="out of date"):
        script.main()


def test_every_promise_on_the_page_was_kept() -> None:
    page = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    rows = page.split("| promise | kept | measured |")[1].split("\n\n")[0].splitlines()[2:]

    assert len(rows) == 6
    assert all(" | yes | " in row for row in rows), rows


def test_every_trap_names_tests_that_exist() -> None:
    tests = {
        node.name
        for path in (ROOT / "tests" / "unit" / "model").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }

    assert len(TRAPS) == 10
    for trap in TRAPS:
        assert trap.upstream
        assert trap.ours
        assert {*trap.upstream, *trap.ours} <= tests
