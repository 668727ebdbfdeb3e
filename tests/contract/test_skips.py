"""Only the gpu mark may skip in continuous integration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest

def test_optional_part() -> None:
    pytest.importorskip("a_package_that_nobody_has")

@pytest.mark.xfail(reason="known")
def test_known() -> None:
    assert False

@pytest.mark.gpu
def test_gpu() -> None:
    pytest.skip("no GPU")
"""


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", "1 failed, 1 skipped, 1 xfailed"), ("", "2 skipped, 1 xfailed")],
    ids=["ci", "by hand"],
)
def test_a_missing_optional_part_fails_in_ci_and_skips_by_hand(
    ci: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs CUDA\n")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
    )

    assert outcome in run.stdout, run.stdout


def test_a_module_that_skips_itself_fails_in_ci(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_suite.py").write_text('import pytest\npytest.importorskip("nobody_has")\n')

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
    )

    assert run.returncode != 0
    assert "skipped although CI=true" in run.stdout
