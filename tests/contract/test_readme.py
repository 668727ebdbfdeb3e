"""The README is part of the contract: its examples run, its tables are the declarations'."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from depthflux.contract import parameter_table
from depthflux.model.catalogue import CATALOGUE, CONTROL_LORA
from depthflux.settings import profile_names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line
]
#: Commands that go on until they are told to end.
SERVING = [line for line in COMMANDS if line.startswith("depthflux serve")]
#: What the examples of HTTP are written for.
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands: a clone with its examples, no weights, nothing made yet."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_says_its_language() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "python"}
    assert README.count("```") == 2 * len(BLOCKS)


def test_the_tables_are_those_of_the_declarations_and_the_reports() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tables"), "--check"],
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stderr
    assert parameter_table() in README


def test_the_page_of_weights_names_every_entry_its_licence_and_the_published_sum() -> None:
    page = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")

    for entry in CATALOGUE:
        row = next(line for line in page.splitlines() if f"[{entry.repository}]" in line)
        assert f"`{entry.name}`" in row
        assert entry.licence in row
        assert ("no commercial use" in row) is not entry.commercial
        assert (", gated" in row) is entry.gated
    assert f"`{CONTROL_LORA.files[0].sha256}`" in page


def test_the_table_of_profiles_names_those_that_are_shipped() -> None:
    rows = README.split("| profile | what it is |")[1].split("\n\n")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", rows, flags=re.MULTILINE)) == set(profile_names())


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/architecture.md",
        "CONTRIBUTING.md",
        "docs/demo-model.md",
        "docs/container.md",
        "docs/fidelity.md",
        "docs/http-api.md",
    ],
)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize(
    "block",
    # The hosted client's comes from its registry: tests/clients runs it.
    [block for language, block in BLOCKS if language == "python" and "wavespeed" not in block],
    ids=["quick start"],
)
def test_the_python_examples_run(block: str, folder: Path) -> None:
    run = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    assert "(512, 512) [False]" in run.stdout
    assert len(list((folder / "out").glob("*.png"))) == 1


def test_the_commands_run(folder: Path) -> None:
    """Each in its own process, in order; the last one replays what the first one made."""
    lines = [line for line in COMMANDS if line.startswith("depthflux") and line not in SERVING]
    commands = [shlex.split(line) for line in lines]
    assert len(commands) >= 5

    for arguments in commands:
        made = sorted((folder / "out").glob("*.png")) if (folder / "out").is_dir() else []
        if made:
            (folder / "picture.png").write_bytes(made[0].read_bytes())
        run = subprocess.run(
            [sys.executable, "-m", "depthflux", *arguments[1:]], capture_output=True, text=True
        )
        assert run.returncode == 0, (arguments, run.stderr)

    (again,) = (folder / "again").glob("*.png")
    with Image.open(again) as new, Image.open(folder / "picture.png") as old:
        assert new.tobytes() == old.tobytes()
    with Image.open(folder / "depth.png") as depth:
        assert depth.mode == "L"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Where the server listens that the README starts; on a free port, in a folder of its own."""
    (line,) = SERVING
    words = [*shlex.split(line)[1:], "--port", "0", "--data-dir", str(folder / "data")]
    with subprocess.Popen(
        [sys.executable, "-m", "depthflux", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DEPTHFLUX_SERVER_DRAIN_TIMEOUT_S": "0"},
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        assert process.wait(60) == 0


def test_the_example_of_http_gives_a_picture(address: str, folder: Path) -> None:
    (block,) = (block for language, block in BLOCKS if language == "sh" and "curl" in block)
    end = time.monotonic() + 120
    while httpx.get(f"{address}/readyz").status_code != 200 and time.monotonic() < end:
        time.sleep(0.1)

    assert ADDRESS in block
    run = subprocess.run(
        ["sh", "-c", block.replace(ADDRESS, address)], capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr
    data = json.loads(run.stdout)["data"]
    assert (data["status"], data["model"]) == ("completed", "depthflux/demo")
    (output,) = data["outputs"]
    (folder / "picture.png").write_bytes(httpx.get(output).content)
    with Image.open(folder / "picture.png") as picture:
        assert picture.size == (512, 512)


def test_the_scripts_are_there_and_continuous_integration_runs_them() -> None:
    """`.ci/run` runs both on a fresh clone; here only that nothing else is promised."""
    scripts = [line.split()[0] for line in COMMANDS if line.startswith("scripts/")]
    ci = (ROOT / ".ci" / "run").read_text()

    assert scripts == ["scripts/demo", "scripts/test"]
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)
    assert all(re.search(rf"^(exec )?{script}\b", ci, flags=re.MULTILINE) for script in scripts)
