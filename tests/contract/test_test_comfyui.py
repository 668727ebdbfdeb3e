"""scripts/test-comfyui, as much of it as needs no ComfyUI: what it refuses and starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfyui_test.comfyui import ComfyUI, free_port
from comfyui_test.errors import CannotRunError
from comfyui_test.folders import environment_for, find_python, make_base, options_for

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "test-comfyui"
#: Options of ComfyUI as its comfy/cli_args.py declares them.
OPTIONS = ("--cpu", "--listen", "--port", "--base-directory", "--disable-auto-launch")


def make_comfyui(folder: Path, main: str = "", options: tuple[str, ...] = OPTIONS) -> Path:
    """A folder that looks like ComfyUI's, its main.py ours."""
    (folder / "comfy").mkdir(parents=True)
    declared = "".join(f'parser.add_argument("{option}")\n' for option in options)
    (folder / "comfy" / "cli_args.py").write_text(declared)
    (folder / "nodes.py").write_text("")
    (folder / "main.py").write_text(main)
    return folder


def test_a_folder_without_comfyui_is_refused_in_one_line(tmp_path: Path) -> None:
    run = subprocess.run([SCRIPT, str(tmp_path)], capture_output=True, text=True)

    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == (
        f"error: PATH='{tmp_path}' is no ComfyUI: there is no main.py in it; give the folder that "
        "holds ComfyUI's main.py.\n"
    )


def test_a_comfyui_without_an_environment_is_refused_with_the_option_to_give(
    tmp_path: Path,
) -> None:
    comfyui = make_comfyui(tmp_path / "deep" / "ComfyUI")

    run = subprocess.run([SCRIPT, str(comfyui)], capture_output=True, text=True)

    assert run.returncode == 2
    assert "no Python for ComfyUI at venv/bin/python, " in run.stderr
    assert "--python PATH/venv/bin/python" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["ComfyUI/venv", "ComfyUI/.venv", "venv"])
def test_the_environment_beside_comfyui_is_found(place: str, tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    python = tmp_path / place / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

    assert os.path.samefile(find_python(comfyui, None).parent, python.parent)


def test_an_environment_is_known_by_where_its_link_lies(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)

    assert find_python(tmp_path, python) == python


def test_options_that_a_comfyui_does_not_know_are_left_out(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path)

    options = options_for(comfyui, tmp_path / "base", 1234)

    assert [word for word in options if word.startswith("--")] == [
        "--cpu", "--listen", "--port", "--base-directory", "--disable-auto-launch",
    ]  # fmt: skip
    assert options[options.index("--listen") + 1] == "127.0.0.1"
    assert options[options.index("--port") + 1] == "1234"


def test_a_comfyui_that_would_write_into_its_own_folder_is_refused(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path, options=("--cpu", "--port"))

    with pytest.raises(CannotRunError, match="too old; it has no --base-directory"):
        options_for(comfyui, tmp_path / "base", 1234)


def test_comfyui_is_told_the_key_and_nothing_else_of_depthflux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_API_KEYS", "somebody-elses-key")
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", "https://gpu.example.org")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "scripts"), "/theirs")))

    environment = environment_for(make_base(tmp_path), "the-key")

    ours = {name: value for name, value in environment.items() if name.startswith("DEPTHFLUX_")}
    assert ours == {"DEPTHFLUX_COMFYUI_API_KEY": "the-key"}
    given = environment_for(tmp_path / "base", "the-key", "http://127.0.0.1:9")
    assert given["DEPTHFLUX_COMFYUI_ADDRESS"] == "http://127.0.0.1:9"
    # Our modules are called as ComfyUI's are.
    assert environment["PYTHONPATH"] == "/theirs"


def test_a_comfyui_that_does_not_start_is_told_with_its_own_error(tmp_path: Path) -> None:
    comfyui = make_comfyui(
        tmp_path, main="import sys\nsys.stderr.write('starting\\n')\nimport no_such_module\n"
    )
    process = ComfyUI(
        [sys.executable, "main.py"],
        folder=comfyui,
        environment=dict(os.environ),
        port=free_port(),
        log=tmp_path / "comfyui.log",
    )

    with pytest.raises(CannotRunError) as caught, process:
        pytest.fail("it has started")

    assert str(caught.value) == (
        "ComfyUI ended with 1 before it listened: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )
