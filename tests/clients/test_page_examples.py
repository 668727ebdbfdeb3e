"""What README.md and docs/http-api.md show of the hosted clients, run as it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest
from hosted_clients import CALL_TIMEOUT_S, CLIENTS, Endpoint, install

ROOT = Path(__file__).parents[2]
#: What the pages are written for.
ADDRESS, KEY = "http://127.0.0.1:8000", "any"


def examples(page: str) -> list[tuple[str, str]]:
    """Language and text of a page's examples that use a client."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"```(python|js)\n(.*?)```", text, flags=re.DOTALL)
    return [(language, block) for language, block in found if "wavespeed" in block]


EXAMPLES = [
    pytest.param(language, block, id=f"{page}-{language}")
    for page in ("README.md", "docs/http-api.md")
    for language, block in examples(page)
]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands: beside the examples' pictures."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(language: str, block: str, folder: Path) -> list[Path | str]:
    """The words that run an example with the newest client."""
    name = "python-newest" if language == "python" else "javascript-newest"
    installed = install(next(client for client in CLIENTS if client.name == name))
    if language == "python":
        (folder / "example.py").write_text(block)
        return [installed / "bin" / "python", folder / "example.py"]
    # Node.js looks for packages beside the program.
    (installed / "example.mjs").write_text(block)
    return ["node", installed / "example.mjs"]


def test_each_page_has_an_example() -> None:
    assert [param.id for param in EXAMPLES] == [
        "README.md-python",
        "docs/http-api.md-python",
        "docs/http-api.md-js",
    ]


@pytest.mark.parametrize(("language", "block"), EXAMPLES)
def test_the_example_prints_the_address_of_a_picture(
    language: str, block: str, server: Endpoint, reader: Path
) -> None:
    assert ADDRESS in block
    there = block.replace(ADDRESS, server.url)
    for quote in ('"', "'"):
        there = there.replace(f"{quote}{KEY}{quote}", f"{quote}{server.key}{quote}")

    run = subprocess.run(
        program(language, there, reader), capture_output=True, text=True, timeout=CALL_TIMEOUT_S
    )

    assert run.returncode == 0, run.stderr
    (address,) = re.findall(r"http://[\w.:/-]+\.png", run.stdout)
    assert httpx.get(address, trust_env=False).headers["Content-Type"] == "image/png"
