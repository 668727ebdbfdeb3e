"""Install the nodes: a folder in a ComfyUI's custom_nodes, whole or not at all.

Knows nothing of what the nodes do.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from depthflux.comfyui.declaration import MARKER, declaration
from depthflux.errors import OutputError
from depthflux.files import write_atomically

#: What the folder is called in custom_nodes.
FOLDER = "depthflux"
#: Any of these beside custom_nodes makes a ComfyUI: its code, the code of its installable forks,
#: or what lies in a base directory of its own.
_SIGNS = ("main.py", "nodes.py", "comfy", "models", "user")
#: Larger ones are not the file of ours.
_MOST_DECLARED_BYTES = 2**20
_README = """\
# depthflux

Nodes of depthflux {version}: Depthflux Generate, Depthflux Depth Map, Depthflux Engine. Written by
`depthflux comfyui install`, which also brings them up to date; nothing else has to be installed.
"""


def install(comfyui: Path, *, force: bool = False) -> Path:
    """Put the nodes into a ComfyUI; an older folder of theirs is replaced.

    Args:
        comfyui: ComfyUI's folder, or its base directory.
        force: replace whatever else is called so in custom_nodes.

    Returns:
        The folder that was written.

    Raises:
        OutputError: it is no ComfyUI, something else is there, or it may not be written.
    """
    custom_nodes = _custom_nodes_of(comfyui.expanduser())
    target = custom_nodes / FOLDER
    if os.path.lexists(target) and not force and not _is_ours(target):
        raise _refused(
            target, "something else is there already; move it away, or add --force to replace it"
        )
    # ComfyUI passes over names that end so: a folder that is left half-written is never loaded.
    beside = custom_nodes / f".{FOLDER}-{secrets.token_hex(8)}.disabled"
    try:
        beside.mkdir()
        _write_nodes(beside)
        _exchange(beside, target)
    except OSError as error:
        raise _refused(target, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _custom_nodes_of(comfyui: Path) -> Path:
    custom_nodes = comfyui / "custom_nodes"
    is_comfyui = any((comfyui / sign).exists() for sign in _SIGNS)
    if custom_nodes.is_dir() and is_comfyui:
        return custom_nodes.resolve()
    missing = "no folder custom_nodes in it" if is_comfyui else "neither main.py nor models in it"
    raise OutputError(
        f"path={str(comfyui)!r} is no ComfyUI: there is {missing}; give the folder that holds "
        "ComfyUI's main.py and custom_nodes, or its base directory.",
        field="path",
        value=str(comfyui),
        allowed="ComfyUI's folder",
    )


def _is_ours(target: Path) -> bool:
    """Whether a folder was written by `install`; a link to one was not."""
    if target.is_symlink() or not target.is_dir():
        return False
    try:
        with (target / "declaration.json").open("rb") as file:
            found: Any = json.loads(file.read(_MOST_DECLARED_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("marker") == MARKER


def _write_nodes(folder: Path) -> None:
    document = declaration()
    files = {
        path.name: path.read_bytes()
        for path in sorted((Path(__file__).parent / "node").glob("*.py"))
    }
    files["declaration.json"] = (json.dumps(document, indent=2) + "\n").encode()
    files["README.md"] = _README.format(version=document["version"]).encode()
    for name, data in files.items():
        write_atomically(folder / name, data)


def _exchange(new: Path, target: Path) -> None:
    """Give a folder its name; what has it goes, but only once the new one is in its place."""
    if not os.path.lexists(target):
        new.rename(target)
        return
    old = target.with_name(f".{target.name}-{secrets.token_hex(8)}.disabled")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            old.unlink()


def _refused(target: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot write {target}: {reason}.",
        field="path",
        value=str(target),
        allowed="a ComfyUI whose custom_nodes may be written",
    )
