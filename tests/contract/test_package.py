"""The package from outside: its names, what importing it costs, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import depthflux

SOURCE = Path(depthflux.__file__).parent
#: The way of the data: a room imports only from rooms before it; `cli` is on top.
LAYERS = [
    "errors",
    "files",
    "configurations",
    "logs",
    "quiet",
    "scratch",
    "settings",
    "contract",
    "images",
    "depth",
    "canvas",
    "safety",
    "model",
    "engine",
    "bench",
    "server",
    "comfyui",
]
FRONT_ENDS = ["cli"]
#: Rooms that know less than their place in the order would let them.
NARROW = {"comfyui": {"errors", "files", "settings", "contract", "comfyui"}}
#: Libraries that only some rooms may import.
CONFINED = {
    "diffusers": {"model", "engine", "bench"},
    "peft": {"model", "engine"},
    "accelerate": {"model", "engine", "bench"},
    "transformers": {"model", "engine", "depth", "bench"},
    "torchao": {"model", "bench"},
    "onnxruntime": {"safety"},
    "huggingface_hub": {"model", "depth"},
    "httpx2": {"model"},
    "httpx": {"bench", "images", "server"},
    "jinja2": {"bench"},
    "scipy": {"bench"},
    "torchmetrics": {"bench"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "sqlalchemy": {"server"},
    "prometheus_client": {"server"},
    "click": {"cli"},
    "rich": {"cli"},
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(path for path in SOURCE.rglob("*.py") if room_of(path) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    room = room_of(path)
    if room == "__main__":
        return
    allowed = {*LAYERS[: LAYERS.index(room)], room} if room in LAYERS else {*LAYERS, room}
    allowed &= NARROW.get(room, allowed)
    own = {name.split(".")[1] for name in imports_of(path) if name.startswith("depthflux.")}

    assert own - {"__version__"} <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_libraries_stay_in_the_rooms_that_adapt_them(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports_of(path)}

    strays = {
        lib for lib, rooms in CONFINED.items() if lib in libraries and room_of(path) not in rooms
    }
    assert strays == set()


def test_only_the_hub_s_adapter_can_reach_the_hub() -> None:
    reaching = {
        str(path.relative_to(SOURCE))
        for path in FILES
        for name in imports_of(path)
        if name.split(".")[0] in ("huggingface_hub", "httpx2")
        # Its errors come out of transformers, too.
        and not name.startswith("huggingface_hub.errors")
    }

    assert reaching == {"model/hub.py"}


def test_every_room_is_known_to_the_layering() -> None:
    rooms = {room_of(path) for path in FILES} - {"__main__"}

    assert rooms <= {*LAYERS, *FRONT_ENDS}


def test_all_is_sorted_complete_and_every_name_resolves() -> None:
    assert depthflux.__all__ == sorted(depthflux.__all__)
    assert set(depthflux._HOMES) == set(depthflux.__all__)
    assert all(getattr(depthflux, name) is not None for name in depthflux.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        depthflux.lode  # noqa: B018 - looked up for its error


def test_importing_the_package_imports_no_torch_and_does_no_work() -> None:
    script = "import sys, depthflux; print(sorted(m for m in sys.modules if '.' not in m))"

    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout

    for library in ("torch", "diffusers", "transformers", "numpy", "PIL", "pydantic", "httpx"):
        assert f"'{library}'" not in loaded


def test_no_room_asserts_on_input_or_catches_everything() -> None:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                found.append(f"{path.name}:{node.lineno} asserts")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{path.name}:{node.lineno} catches everything")
    assert found == []
