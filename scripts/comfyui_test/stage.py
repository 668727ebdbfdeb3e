"""A server, a ComfyUI with the nodes installed, and what checks ask of both.

Knows nothing of what should come back.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from comfyui_test.comfyui import ComfyUI, free_port
from comfyui_test.errors import CannotRunError
from comfyui_test.folders import environment_for, make_base, options_for
from comfyui_test.messages import Run
from comfyui_test.served import Served
from comfyui_test.workflows import Workflow, fed_by, pointed, read_workflows
from depthflux.bench.hosted.local_server import LocalServer
from depthflux.errors import DepthFluxError
from stand_in.running import ROOT

#: The control image of the examples.
PICTURE = ROOT / "examples" / "one-object.png"
PROFILE = "demo"
#: How long a command of ours may take, in seconds.
_COMMAND_S = 60.0

Pixels = npt.NDArray[np.uint8]


@dataclass
class Stage:
    """What a check has to do with.

    Attributes:
        comfyui: the running ComfyUI, our nodes in it.
        server: the running server, profile demo.
        served: the same, asked directly.
        base: ComfyUI's base directory.
        picture: the control image's name in ComfyUI.
        engine: the engine node's inputs in this round.
        workflows: the examples, pointed at that engine.
        failed_runs: how many runs ended in a node's error, which ComfyUI logs with a traceback.
        kept: what one check leaves to another.
    """

    comfyui: ComfyUI
    server: LocalServer
    served: Served
    base: Path
    picture: str
    engine: dict[str, Any]
    workflows: dict[str, Workflow] = field(default_factory=dict)
    failed_runs: int = 0
    kept: dict[str, Any] = field(default_factory=dict)

    def use(self, engine: dict[str, Any]) -> None:
        """Point the examples at an engine, and forget what checks have left."""
        self.engine, self.kept = engine, {}
        self.workflows = {
            name: pointed(workflow, engine, self.picture)
            for name, workflow in read_workflows().items()
        }

    @property
    def is_in_process(self) -> bool:
        """Whether this round's engine is in ComfyUI's process."""
        return not self.engine["address"]

    def pictures_of(self, run: Run, id: str) -> list[Pixels]:
        """The pictures that a SaveImage or PreviewImage node has told of."""
        told = run.outputs.get(id, {}).get("images", [])
        return [pixels_of(self.comfyui.view(image)) for image in told]

    def shown(
        self, run: Run, workflow: Workflow, kind: str, source: str, output: int
    ) -> list[Pixels]:
        """The pictures of a node's output, as the first node of a class shows it."""
        return self.pictures_of(run, fed_by(workflow, kind, source, output)[0])


def pixels_of(data: bytes) -> Pixels:
    """A file's pixels, uint8 [H, W, 3]; grey ones three times the same."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def run_depthflux(*words: str) -> None:
    """Run a command of depthflux.

    Raises:
        CannotRunError: it fails; its own last line.
    """
    command = [sys.executable, "-m", "depthflux", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S)
    except subprocess.TimeoutExpired as error:
        raise CannotRunError(f"depthflux {words[0]}: not done in {_COMMAND_S:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise CannotRunError(f"depthflux {words[0]}: {lines[-1]}")


@contextmanager
def stage(folder: Path, comfyui: Path, python: Path) -> Iterator[Stage]:
    """Everything started, and ended again.

    Args:
        folder: an empty one; logs, too, are left there.
        comfyui: ComfyUI's folder.
        python: what runs it.

    Raises:
        CannotRunError: something does not start.
    """
    base, port = make_base(folder / "base"), free_port()
    run_depthflux("comfyui", "install", "--path", str(base))
    server = LocalServer(PROFILE, {}, device="cpu", log=folder / "serve.log")
    try:
        with server:
            command = [str(python), "main.py", *options_for(comfyui, base, port)]
            running = ComfyUI(
                command,
                folder=comfyui,
                environment=environment_for(base, server.key, server.address),
                port=port,
                log=folder / "comfyui.log",
            )
            with running:
                picture = running.upload(PICTURE)
                engine = {"profile": "auto", "address": server.address}
                yield Stage(running, server, Served(server), base, picture, engine)
    except DepthFluxError as error:
        raise CannotRunError(str(error)) from error
