"""docs/architecture.md beside the tree: what its table names is there, and no room goes unnamed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import depthflux

SOURCE = Path(depthflux.__file__).parent
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
#: From its heading to the end of the page.
TABLE = PAGE.read_text(encoding="utf-8").partition("## Where to look\n")[2]
NAMED = sorted(set(re.findall(r"`([\w./-]+)`", TABLE)) - {"auto", "fit"})
ROOMS = sorted(
    str(path.relative_to(SOURCE))
    for package in ("server", "images", "bench/hosted", "bench/quality", "bench/report")
    for path in (SOURCE / package).iterdir()
    if path.suffix == ".py" and path.name != "__init__.py"
)


@pytest.mark.parametrize("name", NAMED)
def test_what_the_table_sends_to_is_there(name: str) -> None:
    assert (SOURCE / name).exists() or (ROOT / name).exists()


def test_the_pages_it_sends_to_are_there() -> None:
    pages = re.findall(r"\]\(([^)#:]+)\)", TABLE)

    assert pages
    assert [page for page in pages if not (PAGE.parent / page).exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_of_a_package_is_named(room: str) -> None:
    package, name = room.removesuffix(".py").rsplit("/", 1)
    listed = (SOURCE / package / "__init__.py").read_text(encoding="utf-8").split('"""')[1]

    assert room in NAMED or re.search(rf"\b{name}\b", listed)


@pytest.mark.parametrize(
    "name",
    ["logs.py", "configurations.py", "scratch.py", "scripts/chaos", "scripts/undefended"],
)
def test_the_table_leads_to_what_no_package_lists(name: str) -> None:
    assert name in NAMED
