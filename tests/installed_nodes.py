"""The nodes as a ComfyUI has them: installed, imported its way, with its bar and its interrupt.

No ComfyUI is needed: what the nodes call of it stands in here, in as many lines.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from depthflux.comfyui.install import install

PICTURE = Path("examples/one-object.png")


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    """What ComfyUI raises in a node that was interrupted."""


class StandInComfy:
    """ComfyUI's `comfy.utils` and `comfy.model_management`, as far as nodes meet them.

    Attributes:
        moves: the progress bar's values and totals, in order.
        interrupt_at: the value at which somebody presses the button; None for never.
        interrupted: whether the button was pressed.
        on_move: called with the bar's value.
        unloaded: how often all of ComfyUI's models were unloaded.
    """

    def __init__(self) -> None:
        self.moves: list[tuple[int, int]] = []
        self.interrupt_at: int | None = None
        self.interrupted = False
        self.unloaded = 0
        self.on_move: Callable[[int], None] = lambda _value: None
        comfy = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int) -> None:
                comfy.moves.append((value, total))
                if comfy.interrupt_at is not None and value >= comfy.interrupt_at:
                    comfy.interrupted = True
                comfy.on_move(value)

        utilities, management = ModuleType("comfy.utils"), ModuleType("comfy.model_management")
        setattr(utilities, "ProgressBar", ProgressBar)  # noqa: B010 - modules have no such name
        for called in (
            self.throw_exception_if_processing_interrupted,
            self.unload_all_models,
            self.soft_empty_cache,
        ):
            setattr(management, called.__name__, called)
        self.modules = {
            "comfy": ModuleType("comfy"),
            "comfy.utils": utilities,
            "comfy.model_management": management,
        }

    def throw_exception_if_processing_interrupted(self) -> None:
        if self.interrupted:
            self.interrupted = False
            raise InterruptProcessingException

    def unload_all_models(self) -> None:
        self.unloaded += 1

    def soft_empty_cache(self) -> None:
        """Nothing is cached here."""


class InstalledNodes:
    """A folder of nodes, imported as ComfyUI imports it.

    Attributes:
        folder: in custom_nodes.
        classes: by the names that graphs say.
        titles: what people see.
    """

    def __init__(self, comfyui: Path) -> None:
        (comfyui / "custom_nodes").mkdir(parents=True)
        (comfyui / "main.py").touch()
        self.folder = install(comfyui)
        # Its own way of naming a module: the path, without dots.
        self._name = str(self.folder).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(self._name, self.folder / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self._name] = module
        spec.loader.exec_module(module)
        self.classes: dict[str, Any] = module.NODE_CLASS_MAPPINGS
        self.titles: dict[str, str] = module.NODE_DISPLAY_NAME_MAPPINGS

    def module(self, name: str) -> Any:
        """One of the folder's files."""
        return importlib.import_module(f"{self._name}.{name}")

    @property
    def error(self) -> type[Exception]:
        """What the nodes raise."""
        found: type[Exception] = self.module("errors").NodeError
        return found

    def engine(self, address: str = "", profile: str = "demo") -> Any:
        """What Depthflux Engine hands on."""
        (choice,) = self.run("DepthfluxEngine", profile=profile, address=address)
        return choice

    def run(self, kind: str, **given: Any) -> Any:
        """Run a node as ComfyUI does: its function by its name, in inference mode."""
        node = self.classes[kind]()
        with torch.inference_mode():
            return getattr(node, node.FUNCTION)(**given)

    def generate(self, address: str = "", **fields: Any) -> Any:
        """Run Depthflux Generate on the example, quickly."""
        given = {
            "control_image": image_of(PICTURE),
            "prompt": "a white cylinder on a yellow floor, purple sky",
            "seed": 3,
            "size": "512*512",
            "num_inference_steps": 4,
            **fields,
        }
        return self.run("DepthfluxGenerate", engine=self.engine(address), **given)


def image_of(path: Path) -> torch.Tensor:
    """A picture as ComfyUI's LoadImage gives it: float32 [1, H, W, 3], 0..1."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    return torch.from_numpy(pixels / 255.0)[None]


@contextmanager
def demo_server(folder: Path) -> Iterator[str]:
    """`depthflux serve --profile demo` while the block lasts; its address."""
    command = [sys.executable, "-m", "depthflux", "serve", "--profile", "demo", "--port", "0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")],
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(60)
