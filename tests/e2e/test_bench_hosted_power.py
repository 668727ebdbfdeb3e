"""The power that a GPU draws while `depthflux bench hosted` measures a profile on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

EXAMPLE = Path(__file__).parents[2] / "examples" / "one-object.png"
SUITE = f"""
description = "One picture."

[[case]]
name = "one"
control_image = "{EXAMPLE}"
prompt = "a red cube on a table"
seed = 1
size = "512*512"
num_inference_steps = 4
"""


def test_a_picture_s_energy_is_measured_on_the_gpu_that_paints_it(tmp_path: Path) -> None:
    suite, out = tmp_path / "power.toml", tmp_path / "run"
    suite.write_text(SUITE)
    words = ["--suite", str(suite), "--against-profile", "demo", "--profile", "exact"]
    words += ["--device", "cuda:0", "--set", "model=demo", "--repeat", "2", "--out", str(out)]

    run = subprocess.run(
        [sys.executable, "-m", "depthflux", "bench", "hosted", *words],
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert run.returncode == 0, run.stderr
    for side in json.loads((out / "report.json").read_bytes())["sides"]:
        # No GPU that is at work draws less than this, and none more.
        assert 5 < side["cost"]["mean_watts"] < 2000, side["cost"]["how"]
        assert side["cost"]["joules_per_picture"] > 0
        assert side["gpu"]["driver_version"]
        assert side["device"]
