"""One defence taken away in a copy of the source, and what its tests say then.

A test that passes without its defence shows nothing, and one that cannot even start shows nothing
either: only a failure in the test's own body counts. Knows nothing of what the defences are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defences.declared import ROOT, Defence

#: Longest time of one trial, in seconds: without a defence a test may well hang.
LONGEST_S = 300
#: Longest time of one test in it, in seconds.
_TEST_S = 120


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a trial has shown.

    Attributes:
        problem: why the defence is not shown; empty where it is.
        seconds: that the tests took.
        output: of pytest, for whoever looks into a problem.
    """

    problem: str
    seconds: float
    output: str


def check_edits(defence: Defence) -> None:
    """See that a defence can be taken away.

    Raises:
        ValueError: its text is not there, or more than once, or not in the source.
    """
    for edit in defence.edits:
        # Only the source is copied; what is beside it would itself be changed.
        if not edit.file.startswith("src/") or ".." in edit.file:
            raise ValueError(f"{edit.file}: only lines in src can be taken away")
        count = (ROOT / edit.file).read_text(encoding="utf-8").count(edit.present)
        if count != 1:
            raise ValueError(f"{edit.file}: the text of {defence.promise!r} occurs {count} times")


def try_without(defence: Defence) -> Verdict:
    """Take a defence away in a copy, and run its tests against that.

    Raises:
        ValueError: it cannot be taken away.
    """
    check_edits(defence)
    with tempfile.TemporaryDirectory(prefix="undefended-") as folder:
        copy = _copy(Path(folder))
        for edit in defence.edits:
            path = copy / edit.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(edit.present, edit.absent), encoding="utf-8")
        outcomes, seconds, output = _run(defence.tests, copy / "src", Path(folder) / "report.xml")
    return Verdict(problem=_problem(defence.tests, outcomes), seconds=seconds, output=output)


def _copy(folder: Path) -> Path:
    """The source alone is copied; what stands beside it is found where it is."""
    copy = folder / "depthflux"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("src", ".git", ".venv"):
            (copy / path.name).symlink_to(path)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _run(
    tests: Sequence[str], source: Path, report: Path
) -> tuple[dict[str, set[str]], float, str]:
    """Each test's outcomes (of all its parameters), the seconds, and what pytest has said."""
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--timeout={_TEST_S}"]
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        return {}, LONGEST_S, f"the tests took more than {LONGEST_S} s"
    if not report.exists():
        return {}, 0.0, run.stdout + run.stderr
    suite = ElementTree.parse(report).getroot()[0]  # noqa: S314 - our own pytest wrote it
    outcomes: dict[str, set[str]] = {}
    for case in suite.iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error")), "passed")
        outcomes.setdefault(_plain(case.get("name", "")), set()).add(outcome)
    return outcomes, float(suite.get("time", 0)), run.stdout + run.stderr


def _problem(tests: Sequence[str], outcomes: dict[str, set[str]]) -> str:
    if not outcomes:
        return "the tests did not run"
    problems = []
    for test in tests:
        found = outcomes.get(_plain(test.rpartition("::")[2]), set())
        if "failure" not in found:
            word = "could not start" if "error" in found else "passes" if found else "did not run"
            problems.append(f"{test} {word}")
    return "; ".join(problems)


def _plain(name: str) -> str:
    """A test's name without its parameters."""
    return re.sub(r"\[.*", "", name, flags=re.DOTALL)
