"""ComfyUI's progress bar and interrupt, while a node runs.

Outside ComfyUI there are neither, and nothing is done. Knows nothing of engines.
"""

from __future__ import annotations

import importlib
from typing import Any


class Watch:
    """Tells ComfyUI how far a node is, and raises ComfyUI's own exception once it is interrupted.

    Called from the thread that runs the node: ComfyUI knows by it which node this is.
    """

    def __init__(self, total: int) -> None:
        utilities, self._management = _comfy("comfy.utils"), _comfy("comfy.model_management")
        self._bar = utilities.ProgressBar(total) if utilities else None

    def step(self, done: int, total: int) -> None:
        """Move the bar; raises what ComfyUI raises where it was interrupted."""
        self.look()
        if self._bar is not None:
            self._bar.update_absolute(done, total)

    def look(self) -> None:
        """Raise what ComfyUI raises where it was interrupted."""
        if self._management is not None:
            self._management.throw_exception_if_processing_interrupted()


def make_room() -> None:
    """Let ComfyUI unload its own models, before one of ours is loaded beside them."""
    management = _comfy("comfy.model_management")
    if management is not None:
        management.unload_all_models()
        management.soft_empty_cache()


def _comfy(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
