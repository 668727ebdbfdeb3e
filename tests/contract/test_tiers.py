"""The page on what profiles cost in quality: written from its figures, which hold every profile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from depthflux.settings import profile_names

ROOT = Path(__file__).parents[2]
FIGURES = json.loads((ROOT / "docs" / "benchmarks" / "tiers.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_figures_give() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "tiers"), "--render", "--check"]

    told = subprocess.run(command, capture_output=True, text=True)

    assert told.returncode == 0, told.stderr


def test_every_profile_is_on_it_but_the_one_that_is_exact_on_a_cpu() -> None:
    assert {*FIGURES["tiers"], FIGURES["base"], "cpu"} == set(profile_names())


def test_every_profile_painted_the_whole_suite() -> None:
    assert {(tier["completed"], tier["tasks"]) for tier in FIGURES["tiers"].values()} == {(12, 12)}
