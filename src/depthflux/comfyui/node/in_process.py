"""An engine in ComfyUI's own process, where depthflux is installed in ComfyUI's Python.

One engine is kept between queueings; another profile's is loaded in its place. Knows nothing of
ComfyUI but through a `Watch`.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import threading
from typing import Any, NamedTuple

import torch

from .errors import NodeError, tell
from .painted import DEPTH_MAP_PROMPT, Painted, envelope_of
from .pictures import Pixels, pixels_of_picture
from .running import Watch, make_room

#: The engine that was loaded last, by its profile.
_kept: dict[str, Any] = {}
_lock = threading.Lock()
#: What another package of ComfyUI's Python that does not fit raises, as a rule; depthflux's own
#: errors are none of these, and pass.
_OTHERS = (
    ImportError,
    RuntimeError,
    OSError,
    ValueError,
    AttributeError,
    TypeError,
    MemoryError,
)


def is_installed() -> bool:
    """Whether depthflux can be imported here: the package, not this folder, which is called so."""
    try:
        return importlib.util.find_spec("depthflux.contract") is not None
    except (ModuleNotFoundError, ValueError):
        return False


class LocalEngine(NamedTuple):
    """An engine of a profile, loaded when it is first asked."""

    profile: str

    def paint(self, fields: dict[str, Any], png: bytes, watch: Watch) -> Painted:
        """The pictures and their depth map.

        Raises:
            NodeError: depthflux is not installed here; its own errors pass.
        """
        prediction = self._generate(fields, png, watch)
        pictures = [pixels_of_picture(picture) for picture in prediction.images]
        depth_map = pixels_of_picture(prediction.depth_map)
        return Painted(pictures, depth_map, envelope_of(prediction.envelope()["data"], fields))

    def depth_map(self, fields: dict[str, Any], png: bytes, watch: Watch) -> Pixels:
        """The depth map alone.

        Raises:
            NodeError: depthflux is not installed here; its own errors pass.
        """
        asked = {**fields, "prompt": DEPTH_MAP_PROMPT, "only_depth_map": True}
        return pixels_of_picture(self._generate(asked, png, watch).depth_map)

    def _generate(self, fields: dict[str, Any], png: bytes, watch: Watch) -> Any:
        watch.look()
        # ComfyUI runs nodes in inference mode; an engine runs here as it does everywhere else.
        with _lock, torch.inference_mode(False):
            engine = self._engine()
            return engine.generate(**fields, control_image=png, on_step=watch.step)

    def _engine(self) -> Any:
        if self.profile not in _kept:
            if not is_installed():
                raise NodeError(
                    "depthflux is not installed in ComfyUI's Python; start `depthflux serve` and "
                    "give Depthflux Engine its address."
                )
            unload()
            make_room()
            _kept[self.profile] = _load(self.profile)
        return _kept[self.profile]


def _load(profile: str) -> Any:
    try:
        return importlib.import_module("depthflux").load(profile)
    except _OTHERS as error:
        raise NodeError(
            f"depthflux cannot be loaded in ComfyUI's Python: {tell(_first_line(error))}; start "
            "`depthflux serve` and give Depthflux Engine its address."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def unload() -> None:
    """Let go of the engine that is kept, and of its memory."""
    _kept.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
