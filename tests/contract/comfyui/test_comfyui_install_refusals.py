"""`depthflux comfyui install` where something is in its way: nothing of anybody's is lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from depthflux.comfyui.install import install
from depthflux.errors import OutputError

Call = Callable[..., Result]


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def inside(comfyui: Path) -> list[str]:
    return sorted(path.name for path in (comfyui / "custom_nodes").iterdir())


def left_by_a_kill(comfyui: Path) -> Path:
    """What an install leaves that ends between its two renames."""
    folder = install(comfyui)
    (folder / "nodes.py").write_text("older")
    shutil.copytree(folder, folder.with_name(f".depthflux-new-{'a' * 16}.disabled"))
    return folder.rename(folder.with_name(f".depthflux-old-{'b' * 16}.disabled"))


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes the names of files, and not what is in them."""

    def refuse(_self: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", refuse)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~nosuchuser", "there is no such user"),
        ("x" * 300, "File name too long"),
        ("a/" + "x" * 300 + "/b", "File name too long"),
    ],
    ids=["user", "name", "part"],
)
def test_a_path_that_cannot_be_one_is_refused_in_one_line(
    path: str, words: str, cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)

    result = cli("comfyui", "install", "--path", path)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: path='")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_declaration_that_is_a_pipe_is_not_waited_for(cli: Call, comfyui: Path) -> None:
    folder = comfyui / "custom_nodes" / "depthflux"
    folder.mkdir()
    os.mkfifo(folder / "declaration.json")

    result = cli("comfyui", "install", "--path", comfyui)

    assert result.exit_code == 2
    assert "something else is there already" in result.stderr


def test_a_full_disk_is_told_with_the_path_and_what_to_do(
    cli: Call, comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(comfyui)
    before = (comfyui / "custom_nodes" / "depthflux" / "nodes.py").read_text()
    full(monkeypatch)

    result = cli("comfyui", "install", "--path", comfyui)

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: cannot write {comfyui / 'custom_nodes' / 'depthflux'}: No space left on device; "
        "see that custom_nodes may be written and has room.\n"
    )
    assert inside(comfyui) == ["depthflux"]
    assert (comfyui / "custom_nodes" / "depthflux" / "nodes.py").read_text() == before


def test_where_the_new_folder_cannot_take_the_name_the_old_one_keeps_it(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = install(comfyui), Path.rename
    (folder / "nodes.py").write_text("older")

    def refuse(path: Path, target: Path) -> Path:
        if path.name.startswith(".depthflux-new-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)

    with pytest.raises(OutputError, match="Input/output error"):
        install(comfyui)

    assert (folder / "nodes.py").read_text() == "older"
    assert inside(comfyui) == ["depthflux"]


def test_what_cannot_get_its_name_back_is_kept_all_the_same(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = install(comfyui), Path.rename

    def once(path: Path, target: Path) -> Path:
        if path.name.startswith("."):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", once)
        with pytest.raises(OutputError, match="Input/output error"):
            install(comfyui)

    (kept,) = (comfyui / "custom_nodes").iterdir()
    assert kept.name.startswith(".depthflux-old-")
    assert (kept / "nodes.py").is_file()
    assert install(comfyui) == folder
    assert inside(comfyui) == ["depthflux"]


def test_after_a_kill_between_the_renames_the_next_install_sweeps(comfyui: Path) -> None:
    left_by_a_kill(comfyui)

    folder = install(comfyui)

    assert inside(comfyui) == ["depthflux"]
    assert (folder / "nodes.py").read_text() != "older"


def test_after_a_kill_between_the_renames_a_failing_install_restores(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_kill(comfyui)
    full(monkeypatch)

    with pytest.raises(OutputError, match="No space left"):
        install(comfyui)

    assert inside(comfyui) == ["depthflux"]
    assert (comfyui / "custom_nodes" / "depthflux" / "nodes.py").read_text() == "older"


def test_somebody_else_s_folder_that_a_kill_has_left_renamed_is_not_swept(comfyui: Path) -> None:
    left_by_a_kill(comfyui).joinpath("declaration.json").write_text("theirs")

    with pytest.raises(OutputError, match="something else is there already"):
        install(comfyui)

    assert (comfyui / "custom_nodes" / "depthflux" / "declaration.json").read_text() == "theirs"


def test_what_cannot_be_removed_is_told_and_the_nodes_are_installed(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = install(comfyui)
    (folder / "nodes.py").write_text("older")

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING, "depthflux"):
        install(comfyui)

    (said,) = caplog.messages
    (left,) = {*inside(comfyui)} - {"depthflux"}
    assert said == (
        f"cannot remove {comfyui / 'custom_nodes' / left}: Permission denied; ComfyUI passes over "
        "it: remove it yourself."
    )
    assert (folder / "nodes.py").read_text() != "older"


def test_files_of_the_user_s_in_our_folder_are_replaced_with_force_alone(
    cli: Call, comfyui: Path
) -> None:
    folder = install(comfyui)
    (folder / "my_notes.txt").write_text("mine")
    (folder / "__pycache__").mkdir()  # ComfyUI's Python makes it

    refused = cli("comfyui", "install", "--path", comfyui)
    kept = (folder / "my_notes.txt").read_text()
    forced = cli("comfyui", "install", "--path", comfyui, "--force")

    assert refused.exit_code == 2
    assert "what `install` has not written: 'my_notes.txt'; move it away, or add --force to " in (
        refused.stderr
    )
    assert refused.stderr.count("\n") == 1
    assert kept == "mine"
    assert forced.exit_code == 0
    assert not (folder / "my_notes.txt").exists()


def test_what_an_older_version_has_written_is_known_by_its_own_list(comfyui: Path) -> None:
    folder = install(comfyui)
    declared = json.loads((folder / "declaration.json").read_text())
    (folder / "gone_since.py").touch()
    declared["files"].append("gone_since.py")
    (folder / "declaration.json").write_text(json.dumps(declared))

    install(comfyui)

    assert sorted(path.name for path in folder.iterdir()) == sorted(
        json.loads((folder / "declaration.json").read_text())["files"]
    )
