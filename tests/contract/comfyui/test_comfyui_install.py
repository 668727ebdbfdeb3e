"""`depthflux comfyui install`: where to, what it replaces, and what the folder needs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from installed_nodes import InstalledNodes

import depthflux
from depthflux.comfyui.declaration import MARKER

Call = Callable[..., Result]
NODE = Path(depthflux.__file__).parent / "comfyui" / "node"
#: What ComfyUI brings, of what is not Python's own.
BROUGHT = {"torch", "numpy", "PIL"}
#: Runs where nothing of depthflux's environment but what ComfyUI brings can be imported.
BARE = """
import importlib.abc, importlib.util, json, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"depthflux", "pydantic", "httpx", "click", "comfy", "rich",
                                      "diffusers", "transformers", "peft", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
spec = importlib.util.spec_from_file_location("nodes_of_ours", sys.argv[1] + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
kind = module.NODE_CLASS_MAPPINGS["DepthfluxGenerate"]
import torch
image = torch.zeros(1, 8, 8, 3)
problems = []
for profile, address in (("demo", ""), ("auto", "http://127.0.0.1:9")):
    engine = module.NODE_CLASS_MAPPINGS["DepthfluxEngine"]().choose(profile, address)[0]
    try:
        kind().generate(image, "a cone", engine=engine, size="512*512")
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
print(json.dumps({"inputs": list(kind.INPUT_TYPES()["optional"]), "problems": problems}))
"""


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def test_the_folder_is_written_and_its_path_printed(cli: Call, comfyui: Path) -> None:
    result = cli("comfyui", "install", "--path", comfyui)

    folder = comfyui / "custom_nodes" / "depthflux"
    assert result.exit_code == 0
    assert result.stdout == f"{folder}\n"
    assert "restart ComfyUI" in result.stderr
    assert {path.name for path in NODE.glob("*.py")} | {"declaration.json", "README.md"} == {
        path.name for path in folder.iterdir()
    }
    assert json.loads((folder / "declaration.json").read_text())["marker"] == MARKER
    assert [path.name for path in (comfyui / "custom_nodes").iterdir()] == ["depthflux"]


def test_with_json_the_path_is_in_a_document(cli: Call, comfyui: Path) -> None:
    result = cli("comfyui", "install", "--path", comfyui, "--json")

    assert json.loads(result.stdout) == {"path": str(comfyui / "custom_nodes" / "depthflux")}


def test_an_older_folder_of_ours_is_replaced_whole(cli: Call, comfyui: Path) -> None:
    folder = comfyui / "custom_nodes" / "depthflux"
    cli("comfyui", "install", "--path", comfyui)
    (folder / "nodes.py").write_text("old")

    result = cli("comfyui", "install", "--path", comfyui)

    assert result.exit_code == 0
    assert (folder / "nodes.py").read_bytes() == (NODE / "nodes.py").read_bytes()
    assert [path.name for path in (comfyui / "custom_nodes").iterdir()] == ["depthflux"]


@pytest.mark.parametrize("kind", ["folder", "file", "link", "marker of another"])
def test_what_is_not_ours_is_replaced_with_force_alone(
    kind: str, cli: Call, comfyui: Path, tmp_path: Path
) -> None:
    folder, theirs = comfyui / "custom_nodes" / "depthflux", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious.py").write_text("theirs")
    if kind == "link":
        cli("comfyui", "install", "--path", comfyui)
        folder.rename(tmp_path / "linked")
        folder.symlink_to(tmp_path / "linked")
    elif kind == "file":
        folder.write_text("theirs")
    else:
        folder.mkdir()
        (folder / "declaration.json").write_text('{"marker": "other"}' if "of" in kind else "{")

    refused = cli("comfyui", "install", "--path", comfyui)
    untouched = folder.is_file() or not (folder / "README.md").exists() or folder.is_symlink()
    forced = cli("comfyui", "install", "--path", comfyui, "--force")

    assert refused.exit_code == 2
    assert "something else is there already" in refused.stderr
    assert "--force" in refused.stderr
    assert untouched
    assert forced.exit_code == 0
    assert not folder.is_symlink()
    assert (folder / "README.md").is_file()
    if kind == "link":  # the link went, not what it led to
        assert (tmp_path / "linked" / "README.md").is_file()


@pytest.mark.parametrize("made", [[], ["custom_nodes"], ["main.py"], ["models"]])
def test_what_is_no_comfyui_is_refused_and_left_alone(
    made: list[str], cli: Call, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    for name in made:
        (folder / name).mkdir(parents=True)

    result = cli("comfyui", "install", "--path", folder)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: path='")
    assert "is no ComfyUI" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(folder.glob("custom_nodes/*"))


def test_a_base_directory_will_do(cli: Call, tmp_path: Path) -> None:
    for name in ("custom_nodes", "models"):
        (tmp_path / name).mkdir()

    assert cli("comfyui", "install", "--path", tmp_path).exit_code == 0


def test_where_nothing_may_be_written_nothing_is(cli: Call, comfyui: Path) -> None:
    # A root user may write anywhere, so the place is taken away instead.
    (comfyui / "custom_nodes").rmdir()
    (comfyui / "custom_nodes").symlink_to("/proc/self/fd")

    result = cli("comfyui", "install", "--path", comfyui)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot write /proc/")


def test_the_folder_works_where_only_comfyui_s_own_libraries_are(
    nodes: InstalledNodes, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", BARE, str(nodes.folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )

    said = json.loads(run.stdout)
    assert "control_scale" in said["inputs"]
    assert said["problems"][0].startswith("NodeError: depthflux is not installed in ComfyUI")
    assert said["problems"][1].startswith("NodeError: http://127.0.0.1:9 does not answer") or (
        said["problems"][1].startswith("NoAnswerError: http://127.0.0.1:9 does not answer")
    )


@pytest.mark.parametrize("path", sorted(NODE.glob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_folder_imports_nothing_else(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(str(node.module).partition(".")[0])

    assert imported <= set(sys.stdlib_module_names) | BROUGHT


def test_a_damaged_folder_says_how_to_mend_it(tmp_path: Path) -> None:
    damaged = InstalledNodes(tmp_path / "ComfyUI")
    (damaged.folder / "declaration.json").write_text("{")

    with pytest.raises(damaged.error, match="install the nodes anew: depthflux comfyui install"):
        damaged.classes["DepthfluxGenerate"].INPUT_TYPES()


def test_the_nodes_variables_are_none_of_the_engine_s(
    cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", "https://gpu.example.org")
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_API_KEY", "a-key-of-sixteen-letters")

    shown = cli("config", "show", "--profile", "demo")

    assert shown.exit_code == 0
    assert "a-key-of-sixteen-letters" not in shown.output
