"""Which kernel computes the blocks' attention: the one that was asked for, or the fastest here.

The fastest is found by timing them, once per machine, at FLUX's default load; what came out is
kept in `attention.json` in the cache folder, under all that it depends on.

Knows nothing of blocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depthflux.engine.attention import (
    FLASH3,
    FLASH3_MODULE,
    FLUX_HEAD_WIDTH,
    FLUX_HEADS,
    TORCH,
    attend_once,
    check_attention,
    flash3_is_installed,
    obstacle,
    random_heads,
)
from depthflux.errors import DepthFluxError
from depthflux.files import cache_folder, make_folder, write_atomically
from depthflux.model.placement import Placement, device_name
from depthflux.settings import EngineSettings

logger = logging.getLogger("depthflux")

#: FLUX's tokens at 1024*1024: 512 of the prompt and 4096 of the picture.
TIMED_TOKENS = 4608
#: Timings of each kernel, in turns, so that a change of the clock meets all of them.
ROUNDS = 7
#: Calls in one timing, so that waiting for the device does not show.
CALLS = 10
#: What is timed on CUDA; the plain formula, math, is no rival there.
CANDIDATES = ("cudnn", "flash", "efficient", FLASH3)


@dataclass(frozen=True)
class AttentionChoice:
    """The kernel that computes attention.

    Attributes:
        kernel: as `attention_by` takes it.
        reason: why, in words.
    """

    kernel: str
    reason: str


def choose_attention(
    settings: EngineSettings, placement: Placement, heads: int, head_width: int
) -> AttentionChoice:
    """The kernel for a model's attention; on CUDA, `auto` times them where that is not known yet.

    Args:
        settings: attention is what is asked for; in diffusers' order torch chooses, as it does
            there.
        placement: device and dtype.
        heads: of the model's attention.
        head_width: likewise.

    Raises:
        DeviceError: the kernel that was asked for cannot run here.
    """
    known = _known_choice(settings, placement)
    if known is not None:
        return known
    milliseconds = remembered(placement, heads, head_width)
    if milliseconds is None:
        milliseconds = measure(CANDIDATES, placement, heads, head_width)
        remember(placement, heads, head_width, milliseconds)
    choice = fastest(milliseconds)
    logger.info("attention: %s (%s)", choice.kernel, choice.reason)
    return choice


def expect_attention(settings: EngineSettings, placement: Placement) -> AttentionChoice:
    """What `choose_attention` gives for FLUX, as far as it is known without timing anything.

    Raises:
        DeviceError: the kernel that was asked for cannot run here.
    """
    known = _known_choice(settings, placement)
    if known is not None:
        return known
    milliseconds = remembered(placement, FLUX_HEADS, FLUX_HEAD_WIDTH)
    if milliseconds is None:
        return AttentionChoice("the fastest", "auto: timed when a model is loaded first")
    return fastest(milliseconds)


def _known_choice(settings: EngineSettings, placement: Placement) -> AttentionChoice | None:
    """The kernel where nothing has to be timed to know it."""
    if settings.order == "diffusers":
        return AttentionChoice(TORCH, "order=diffusers: torch's own choice, as in diffusers")
    if settings.attention != "auto":
        check_attention(settings.attention, placement)
        return AttentionChoice(settings.attention, "as set")
    if placement.device.type != "cuda":
        return AttentionChoice(TORCH, "auto: torch's own choice on the CPU")
    return None


def fastest(milliseconds: Mapping[str, float]) -> AttentionChoice:
    """The kernel with the least time; torch's own choice where none could run."""
    if not milliseconds:
        return AttentionChoice(TORCH, f"auto: none of {', '.join(CANDIDATES)} can run here")
    ranked = sorted(milliseconds, key=milliseconds.__getitem__)
    times = ", ".join(f"{kernel} {milliseconds[kernel]:.3g} ms" for kernel in ranked)
    return AttentionChoice(ranked[0], f"auto: the fastest here of {times}")


@torch.no_grad()
def measure(
    kernels: Sequence[str],
    placement: Placement,
    heads: int,
    head_width: int,
    *,
    tokens: int = TIMED_TOKENS,
) -> dict[str, float]:
    """Milliseconds that attention takes by each kernel that can run here: medians.

    Args:
        kernels: as `attention_by` takes them.
        placement: device and dtype.
        heads: of the model's attention.
        head_width: likewise.
        tokens: of the sequence.
    """
    able = [k for k in kernels if not obstacle(k, placement, heads, head_width)]
    qkv = random_heads(placement, heads, head_width, tokens)
    timings: dict[str, list[float]] = {kernel: [] for kernel in able}
    for counts in (False, *[True] * ROUNDS):  # the first round warms up
        for kernel in able:
            milliseconds = _time(kernel, placement, qkv)
            if counts:
                timings[kernel].append(milliseconds)
    return {kernel: statistics.median(values) for kernel, values in timings.items()}


def _time(kernel: str, placement: Placement, qkv: tuple[torch.Tensor, ...]) -> float:
    """Milliseconds of one call, the mean of CALLS."""
    _wait(placement)
    start = time.perf_counter()
    for _ in range(CALLS):
        attend_once(kernel, *qkv)
    _wait(placement)
    return 1000 * (time.perf_counter() - start) / CALLS


def _wait(placement: Placement) -> None:
    if placement.device.type == "cuda":
        torch.cuda.synchronize(placement.device)


def remembered(placement: Placement, heads: int, head_width: int) -> dict[str, float] | None:
    """What was measured here before; None where nothing was, or it cannot be read."""
    entry = _entries().get(_key(placement, heads, head_width))
    if not isinstance(entry, dict) or not set(entry) <= set(CANDIDATES):
        return None
    if not all(isinstance(value, float) and value > 0 for value in entry.values()):
        return None
    return entry


def remember(
    placement: Placement, heads: int, head_width: int, milliseconds: Mapping[str, float]
) -> None:
    """Keep what was measured; where nothing was, or it cannot be written, it is measured again."""
    path = _file()
    if path is None or not milliseconds:
        return
    entries = _entries() | {_key(placement, heads, head_width): dict(milliseconds)}
    with contextlib.suppress(DepthFluxError):
        make_folder(path.parent)
        write_atomically(path, json.dumps(entries, indent=1).encode())


def _key(placement: Placement, heads: int, head_width: int) -> str:
    """All that a kernel's time depends on."""
    device = placement.device
    parts = [device_name(device), f"torch {torch.__version__}"]
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        parts += [f"sm{major}{minor}", f"cudnn {torch.backends.cudnn.version()}"]
    parts += [
        f"{FLASH3_MODULE} {'installed' if flash3_is_installed() else 'missing'}",
        str(placement.dtype).removeprefix("torch."),
        f"{heads} heads of {head_width}",
    ]
    return ", ".join(parts)


def _entries() -> dict[str, Any]:
    path = _file()
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _file() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "attention.json"
