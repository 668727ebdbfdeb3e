"""What a submission may say: the endpoint's page, row by row.

Knows nothing of what is done with it.
"""

import re
from dataclasses import dataclass
from typing import Any

DEFAULT_CONTROL_IMAGE = (
    "https://d2g64w682n9w0w.cloudfront.net/media/images/1745416716025416255_1oAHDzwr.jpg"
)
# Outside the page's own range of 512 to 1536, and yet the page's default.
DEFAULT_SIZE = "864*1636"

_FLAGS = ("enable_safety_checker", "enable_sync_mode", "enable_base64_output")
_WHOLE = {"seed": (-1, 9999999999), "num_images": (1, 4), "num_inference_steps": (1, 50)}
_NUMBERS = {"control_scale": (0, 2), "guidance_scale": (1, 30)}


@dataclass(frozen=True)
class Asked:
    """A checked submission, defaults filled in."""

    prompt: str
    control_image: str
    control_scale: float
    seed: int | None
    """None: draw one."""
    num_images: int
    width: int
    height: int
    sync: bool
    base64: bool


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size_fault(size: Any) -> str | None:
    match = re.fullmatch(r"([0-9]{1,5})\*([0-9]{1,5})", size) if isinstance(size, str) else None
    if match is None:
        return "size must be a string like 864*1636"
    if size != DEFAULT_SIZE and not all(512 <= int(side) <= 1536 for side in match.groups()):
        return "size must be between 512 and 1536 per dimension"
    return None


def fault(body: Any) -> str | None:
    """What is wrong with a submission's JSON, or None. Unknown fields are ignored."""
    if not isinstance(body, dict):
        return "the body must be a JSON object"
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return "prompt is required"
    if not isinstance(body.get("control_image", ""), str):
        return "control_image must be a string"
    for name, (low, high) in (_WHOLE | _NUMBERS).items():
        value = body.get(name, low)
        right_kind = _is_whole(value) if name in _WHOLE else _is_number(value)
        if not right_kind or not low <= value <= high:
            return f"{name} must be {'an integer' if name in _WHOLE else 'a number'} {low} ~ {high}"
    for name in _FLAGS:
        if not isinstance(body.get(name, False), bool):
            return f"{name} must be a boolean"
    return _size_fault(body.get("size", DEFAULT_SIZE))


def read(body: dict[str, Any]) -> Asked:
    """A submission without a fault, with the page's defaults."""
    width, height = body.get("size", DEFAULT_SIZE).split("*")
    seed = body.get("seed", -1)
    return Asked(
        prompt=body["prompt"],
        control_image=body.get("control_image", DEFAULT_CONTROL_IMAGE),
        control_scale=body.get("control_scale", 1),
        seed=None if seed == -1 else seed,
        num_images=body.get("num_images", 1),
        width=int(width),
        height=int(height),
        sync=body.get("enable_sync_mode", False),
        base64=body.get("enable_base64_output", False),
    )
