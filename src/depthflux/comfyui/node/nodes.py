"""The three nodes. Widgets are derived from declaration.json; the work is an engine's.

Knows nothing of where engines run.
"""

from __future__ import annotations

import json
import random
from typing import Any, ClassVar

import torch

from .addresses import USUAL_ADDRESS
from .declared import declaration, judged, names, size_of, widget
from .engines import EngineChoice, check_choice, engine_for
from .errors import NodeError
from .pictures import batch_of, png_of
from .running import Watch

#: The type of the socket between Depthflux Engine and the other two.
ENGINE = "DEPTHFLUX_ENGINE"
Inputs = dict[str, dict[str, tuple[Any, dict[str, Any]]]]


class DepthfluxEngine:
    """Which engine the other two ask."""

    CATEGORY = "depthflux"
    DESCRIPTION = "Which engine paints: a profile in this process, or a running depthflux serve."
    RETURN_TYPES = (ENGINE,)
    RETURN_NAMES = ("engine",)
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 - ComfyUI's name
        """The widgets."""
        profile = (
            "The preset of an engine in this process; with an address, the server has its own."
        )
        address = (
            f"Address of a running depthflux serve, such as {USUAL_ADDRESS}; empty: an engine in "
            "this process."
        )
        return {
            "required": {
                "profile": (declaration()["profiles"], {"default": "auto", "tooltip": profile}),
                "address": ("STRING", {"default": "", "tooltip": address}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, address: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """Whether the address may be asked; else why not, before anything runs."""
        try:
            # None where another node gives it.
            check_choice("auto", address or "")
        except NodeError as error:
            return str(error)
        return True

    def choose(self, profile: str, address: str) -> tuple[EngineChoice]:
        """Hand the choice on; nothing is loaded or asked yet."""
        return (check_choice(profile, address),)


class DepthfluxGenerate:
    """A picture or depth map and a prompt → pictures."""

    CATEGORY = "depthflux"
    DESCRIPTION = "Pictures from a prompt, guided by the depth of a picture."
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("images", "depth_map", "envelope")
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = (
        "The pictures, each exactly of the asked size.",
        "What they were guided by, near = white.",
        "The hosted response as JSON, with the fields and the seed that was drawn.",
    )
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 - ComfyUI's name
        """The sockets, and a widget for each field; all but two may be left out of a graph."""
        return {
            "required": {"control_image": _control_image(), "prompt": widget("prompt")},
            "optional": {name: widget(name) for name in names() if name != "prompt"}
            | {"engine": _engine_socket()},
        }

    @classmethod
    def IS_CHANGED(cls, **widgets: Any) -> float | str:  # noqa: N802 - ComfyUI's name
        """Not a number where a seed is drawn each time: no earlier one equals it."""
        # None where another node gives the seed, whose changes ComfyUI sees itself.
        seed = widgets.get("seed", declaration()["fields"]["seed"]["default"])
        return float("nan") if seed == declaration()["random_seed"] else ""

    @classmethod
    def VALIDATE_INPUTS(cls, size: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """What is wrong with the size, before anything runs.

        Of one input alone: ComfyUI shows what is said here once for each that is named.
        """
        return _problem_of(size)

    def generate(
        self,
        control_image: torch.Tensor,
        prompt: str,
        engine: EngineChoice | None = None,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Paint; what is wrong with the fields is told before any engine is asked."""
        asked = judged({**fields, "prompt": prompt}, names())
        if asked["seed"] == declaration()["random_seed"]:
            asked["seed"] = random.SystemRandom().randrange(declaration()["seed_count"])
        total = asked["num_inference_steps"] * asked["num_images"]
        watch = Watch(total)
        painted = engine_for(engine).paint(asked, png_of(control_image), watch)
        watch.step(total, total)
        return (
            batch_of(painted.pictures),
            batch_of([painted.depth_map]),
            json.dumps(painted.envelope, indent=2),
        )


class DepthfluxDepthMap:
    """A picture → the depth map that Depthflux Generate would be guided by."""

    CATEGORY = "depthflux"
    DESCRIPTION = "The depth map that pictures would be guided by, near = white; paints nothing."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("depth_map",)
    FUNCTION = "estimate"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802 - ComfyUI's name
        """The sockets, and a widget for each field that a depth map depends on."""
        return {
            "required": {"control_image": _control_image()},
            "optional": {name: widget(name) for name in declaration()["depth_fields"]}
            | {"engine": _engine_socket()},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, size: str | None = None) -> bool | str:  # noqa: N802 - ComfyUI's name
        """What is wrong with the size, before anything runs."""
        return _problem_of(size)

    def estimate(
        self, control_image: torch.Tensor, engine: EngineChoice | None = None, **fields: Any
    ) -> tuple[torch.Tensor]:
        """Estimate the depth, or take the given map, and place it."""
        asked = judged(fields, declaration()["depth_fields"])
        watch = Watch(1)
        depth_map = engine_for(engine).depth_map(asked, png_of(control_image), watch)
        watch.step(1, 1)
        return (batch_of([depth_map]),)


def _problem_of(size: str | None) -> bool | str:
    """What ComfyUI shows of a size before a graph runs; None where another node gives it."""
    try:
        if size is not None:
            size_of(size)
    except NodeError as error:
        return str(error)
    return True


def _control_image() -> tuple[str, dict[str, Any]]:
    return "IMAGE", {"tooltip": "The picture whose depth guides the result, or its depth map."}


def _engine_socket() -> tuple[str, dict[str, Any]]:
    tooltip = (
        "From Depthflux Engine; without one, the server in DEPTHFLUX_COMFYUI_ADDRESS, else an "
        f"engine in this process, else a server at {USUAL_ADDRESS}."
    )
    return ENGINE, {"tooltip": tooltip}
