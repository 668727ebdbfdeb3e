"""Install the nodes: a folder in a ComfyUI's custom_nodes, whole or not at all.

Knows nothing of what the nodes do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from depthflux.comfyui.declaration import MARKER, declaration
from depthflux.errors import OutputError, show
from depthflux.files import flush_file, open_regular

logger = logging.getLogger("depthflux")

#: What the folder is called in custom_nodes.
FOLDER = "depthflux"
_DECLARATION = "declaration.json"
#: Any of these beside custom_nodes makes a ComfyUI: its code, the code of its installable forks,
#: or what lies in a base directory of its own.
_SIGNS = ("main.py", "nodes.py", "comfy", "models", "user")
#: Larger ones are not the file of ours.
_MOST_DECLARED_BYTES = 2**20
#: Python's own, beside what was written.
_CACHE = "__pycache__"
#: What an install works in. ComfyUI passes over names that end so, half-written or not.
_BESIDE = re.compile(rf"\.{FOLDER}-(new|old)-[0-9a-f]{{16}}\.disabled")
_OLD = f".{FOLDER}-old-"
_README = """\
# depthflux

Nodes of depthflux {version}: Depthflux Generate, Depthflux Depth Map, Depthflux Engine. Written by
`depthflux comfyui install`, which also brings them up to date; nothing else has to be installed.
"""


def install(comfyui: Path, *, force: bool = False) -> Path:
    """Put the nodes into a ComfyUI; an older folder of theirs is replaced.

    Args:
        comfyui: ComfyUI's folder, or its base directory.
        force: replace whatever else is called so in custom_nodes, or lies in the folder.

    Returns:
        The folder that was written.

    Raises:
        OutputError: it is no ComfyUI, something else is there, or it may not be written.
    """
    custom_nodes = _custom_nodes_of(comfyui)
    target = custom_nodes / FOLDER
    try:
        _restore(target)
        if os.path.lexists(target) and not force:
            _check_ours(target)
        new = _beside(target, "new")
        try:
            new.mkdir()
            _write_nodes(new)
            _exchange(new, target)
        finally:
            # What an install left behind that was killed goes, too.
            _sweep(target)
    except OSError as error:
        raise _refused(
            target,
            f"{error.strerror or error}; see that custom_nodes may be written and has room",
        ) from error
    return target


def _custom_nodes_of(comfyui: Path) -> Path:
    try:
        # RuntimeError: ~ of a user that there is none of. OSError: a name that is too long, or
        # a folder that may not be looked into.
        expanded = comfyui.expanduser()
        custom_nodes = expanded / "custom_nodes"
        is_comfyui = any((expanded / sign).exists() for sign in _SIGNS)
        if custom_nodes.is_dir() and is_comfyui:
            return custom_nodes.resolve()
    except RuntimeError as error:
        raise _no_comfyui(comfyui, "there is no such user whose home it could be") from error
    except OSError as error:
        raise _no_comfyui(comfyui, error.strerror or str(error)) from error
    missing = "no folder custom_nodes" if is_comfyui else "neither main.py nor models"
    raise _no_comfyui(comfyui, f"there is {missing} in it")


def _no_comfyui(comfyui: Path, reason: str) -> OutputError:
    return OutputError(
        f"path={str(comfyui)!r} is no ComfyUI: {reason}; give the folder that holds "
        "ComfyUI's main.py and custom_nodes, or its base directory.",
        field="path",
        value=str(comfyui),
        allowed="ComfyUI's folder",
    )


def _restore(target: Path) -> None:
    """Give the name back to what had it where an install was killed between its two renames."""
    if os.path.lexists(target):
        return
    old = [path for path in _left_behind(target.parent) if path.name.startswith(_OLD)]
    if old:
        # Of several, which a failing removal can leave, the last one that had the name.
        max(old, key=lambda path: path.lstat().st_ctime_ns).rename(target)


def _check_ours(target: Path) -> None:
    """See that a folder was written by `install`, and holds nothing else; a link to one was not.

    Raises:
        OutputError: it was not, or something else is in it.
        OSError: it cannot be looked into.
    """
    declared = None if target.is_symlink() or not target.is_dir() else _declared_in(target)
    if declared is None:
        raise _refused(
            target, "something else is there already; move it away, or add --force to replace it"
        )
    written = declared.get("files")
    names = set(written) if isinstance(written, list) else {*_sources()}
    foreign = sorted({path.name for path in target.iterdir()} - names - {_CACHE})
    if foreign:
        shown = ", ".join(show(name) for name in foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise _refused(
            target,
            f"the nodes are there already, and beside them what `install` has not written: {shown}"
            "; move it away, or add --force to replace the folder with all that is in it",
        )


def _declared_in(folder: Path) -> dict[str, Any] | None:
    """The declaration in a folder of ours; None in any other."""
    try:
        with open_regular(folder / _DECLARATION) as file:
            found: Any = json.loads(file.read(_MOST_DECLARED_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("marker") == MARKER else None


def _sources() -> dict[str, bytes]:
    folder = Path(__file__).parent / "node"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def _write_nodes(folder: Path) -> None:
    document, files = declaration(), _sources()
    files["README.md"] = _README.format(version=document["version"]).encode()
    # By it the next install knows what in the folder is somebody else's.
    document["files"] = [*files, _DECLARATION]
    files[_DECLARATION] = (json.dumps(document, indent=2) + "\n").encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
        flush_file(folder / name)
    flush_file(folder)


def _exchange(new: Path, target: Path) -> None:
    """Give a folder its name; what has it keeps it unless the new one is in its place."""
    if not os.path.lexists(target):
        new.rename(target)
        return
    old = _beside(target, "old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}-{what}-{secrets.token_hex(8)}.disabled")


def _left_behind(custom_nodes: Path) -> list[Path]:
    return [path for path in custom_nodes.iterdir() if _BESIDE.fullmatch(path.name)]


def _sweep(target: Path) -> None:
    """Remove what installs have worked in; what resists is told, and is in nobody's way."""
    with contextlib.suppress(OSError):
        for path in _left_behind(target.parent):
            if not os.path.lexists(target) and path.name.startswith(_OLD):
                continue  # what had the name and could not be given it back
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError as error:
                logger.warning(
                    "cannot remove %s: %s; ComfyUI passes over it: remove it yourself.",
                    path,
                    error.strerror or error,
                )


def _refused(target: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot write {target}: {reason}.",
        field="path",
        value=str(target),
        allowed="a ComfyUI whose custom_nodes may be written",
    )
