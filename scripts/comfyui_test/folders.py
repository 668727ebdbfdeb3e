"""Where a ComfyUI lies and which Python runs it, and a base folder of its own for one test.

Knows nothing of what is asked of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from comfyui_test.errors import CannotRunError

#: What makes a folder ComfyUI's.
_SIGNS = ("main.py", "nodes.py", "comfy/cli_args.py")
#: Where the environment of a ComfyUI is looked for, from its folder.
_PYTHONS = (
    "venv/bin/python",
    ".venv/bin/python",
    "../venv/bin/python",
    "../.venv/bin/python",
    "../python_embeded/python.exe",
)
#: What a ComfyUI keeps beside custom_nodes.
_OWN = ("custom_nodes", "input", "output", "temp", "user", "models")


def check_comfyui(path: Path) -> Path:
    """ComfyUI's folder, resolved.

    Raises:
        CannotRunError: there is no ComfyUI.
    """
    missing = [sign for sign in _SIGNS if not (path / sign).is_file()]
    if missing:
        raise CannotRunError(
            f"PATH={str(path)!r} is no ComfyUI: there is no {missing[0]} in it; give the folder "
            "that holds ComfyUI's main.py."
        )
    return path.resolve()


def find_python(comfyui: Path, given: Path | None) -> Path:
    """The Python that runs ComfyUI: the given one, or that of an environment beside it.

    Raises:
        CannotRunError: there is none.
    """
    # Not resolved: an environment's python is a link, and is known by where the link lies.
    found = [given] if given is not None else [comfyui / place for place in _PYTHONS]
    for python in found:
        if os.access(python, os.X_OK) and python.is_file():
            return python.absolute()
    looked = str(given) if given is not None else ", ".join(_PYTHONS)
    raise CannotRunError(
        f"no Python for ComfyUI at {looked}; give that of ComfyUI's environment: "
        "--python PATH/venv/bin/python."
    )


def make_base(folder: Path) -> Path:
    """An empty base directory, so that ComfyUI writes nothing into its own folder."""
    for name in _OWN:
        (folder / name).mkdir(parents=True)
    return folder


def options_for(comfyui: Path, base: Path, port: int) -> list[str]:
    """The options that this ComfyUI is started with; those that it does not know are left out.

    Raises:
        CannotRunError: it is too old to be given a base directory.
    """
    text = (comfyui / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    known = set(re.findall(r'"(--[a-z-]+)"', text))
    if "--base-directory" not in known:
        raise CannotRunError(f"{comfyui}: this ComfyUI is too old; it has no --base-directory.")
    wanted = {
        "--cpu": (),
        "--listen": ("127.0.0.1",),
        "--port": (str(port),),
        "--base-directory": (str(base),),
        "--database-url": (f"sqlite:///{base / 'user' / 'comfyui.db'}",),
        "--disable-auto-launch": (),
        # They would ask a service on the internet.
        "--disable-api-nodes": (),
    }
    return [word for name, values in wanted.items() if name in known for word in (name, *values)]


def environment_for(base: Path, key: str, address: str = "") -> dict[str, str]:
    """ComfyUI's environment: nothing of depthflux's settings but what the server under test takes.

    Args:
        base: its base directory.
        key: the server's API key.
        address: the server's, which gets the key; empty for the one that it usually has.
    """
    own = str(Path(__file__).resolve().parents[1])
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part != own]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DEPTHFLUX_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        # It shares its cores with the server, and threads that spin would take turns with it.
        "OMP_WAIT_POLICY": "PASSIVE",
        "HOME": str(base),
        "DEPTHFLUX_COMFYUI_API_KEY": key,
        **({"DEPTHFLUX_COMFYUI_ADDRESS": address} if address else {}),
    }
