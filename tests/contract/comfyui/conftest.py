"""What the tests of the nodes share: them, installed, servers, and a stand-in for ComfyUI.

torch is imported late: pytest loads this file before tests/conftest.py says how many threads it
has, on which the last bit of a picture depends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from stand_in.running import StandInServer

if TYPE_CHECKING:
    from installed_nodes import InstalledNodes, StandInComfy


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> InstalledNodes:
    from installed_nodes import InstalledNodes

    return InstalledNodes(tmp_path_factory.mktemp("comfyui") / "ComfyUI")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `depthflux serve --profile demo`."""
    from installed_nodes import demo_server

    with demo_server(tmp_path_factory.mktemp("demo")) as address:
        yield address


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInServer]:
    """A server whose engine is a stand-in, for what is not about pixels."""
    with StandInServer(tmp_path_factory.mktemp("quick") / "data") as running:
        yield running


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> StandInComfy:
    from installed_nodes import StandInComfy

    stand_in = StandInComfy()
    for name, module in stand_in.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in
