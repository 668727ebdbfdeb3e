"""The switches of speed and memory: which are on, on this machine and with these settings, and why.

Each is a function that answers without loading a weight, and refuses what cannot work. Loading asks
`check_switches` first; `depthflux config show` prints `switches_of`.

Knows nothing of models; how a switch takes effect is the business of the room it names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from depthflux.engine.attention import TORCH
from depthflux.engine.attention_choice import expect_attention
from depthflux.engine.compilation import MODES, choose_compilation
from depthflux.errors import SetupError
from depthflux.model.placement import Placement
from depthflux.model.quantization import choose_quantization
from depthflux.settings import EngineSettings

IN_DIFFUSERS_ORDER = "order=diffusers computes as diffusers does"


@dataclass(frozen=True)
class Switch:
    """One way of saving time or memory.

    Attributes:
        name: such as `hoisting`.
        applied: whether it is on.
        reason: what it does here, or why it is off, in words.
    """

    name: str
    applied: bool
    reason: str


def check_switches(settings: EngineSettings, placement: Placement) -> None:
    """Refuse what cannot work here, before any weight is read.

    Raises:
        SettingsError: settings that exclude each other on this machine.
        DeviceError: something that was asked for cannot be had on it.
    """
    for switch in SWITCHES.values():
        switch(settings, placement)


def switches_of(settings: EngineSettings, placement: Placement) -> list[Switch]:
    """All switches as a load with these settings would find them; one that is refused says so."""
    switches = []
    for name, find in SWITCHES.items():
        try:
            switches.append(find(settings, placement))
        except SetupError as error:
            switches.append(Switch(name, False, f"refused: {error}"))
    return switches


def hoisting(settings: EngineSettings, _placement: Placement) -> Switch:
    """What is constant over the steps is computed once."""
    if settings.order == "diffusers":
        return Switch("hoisting", False, IN_DIFFUSERS_ORDER)
    return Switch("hoisting", True, "modulations, text and positions are computed before the loop")


def compilation(settings: EngineSettings, placement: Placement) -> Switch:
    """The blocks are compiled."""
    chosen = choose_compilation(settings, placement)
    if not chosen.applied:
        return Switch("compilation", False, chosen.reason)
    mode = MODES[placement.device.type]
    reason = f"{chosen.reason}: each kind of block as one graph for all sizes, mode {mode}"
    return Switch("compilation", True, reason)


def attention(settings: EngineSettings, placement: Placement) -> Switch:
    """A kernel was chosen for attention."""
    choice = expect_attention(settings, placement)
    if choice.kernel == TORCH:
        return Switch("attention", False, choice.reason)
    return Switch("attention", True, f"{choice.kernel} ({choice.reason})")


def quantization(settings: EngineSettings, placement: Placement) -> Switch:
    """The blocks' large linears are rounded to 8 bits."""
    chosen = choose_quantization(settings.quantize, placement)
    if not chosen.applied:
        return Switch("quantization", False, chosen.reason)
    choose_compilation(settings, placement)  # refuses eager 8 bits
    reason = f"{chosen.kind} in the blocks' large linears, an approximation ({chosen.reason})"
    return Switch("quantization", True, reason)


def step_skipping(settings: EngineSettings, _placement: Placement) -> Switch:
    """Some steps are extrapolated."""
    if settings.skip_steps == 0:
        return Switch("step_skipping", False, "every step is computed")
    share = f"{settings.skip_steps:.0%}"
    return Switch("step_skipping", True, f"{share} of the steps, an approximation by a fixed mask")


def batching(settings: EngineSettings, _placement: Placement) -> Switch:
    """Pictures of a request are denoised together."""
    if settings.max_batch == 1:
        return Switch("batching", False, "one after another, so that each equals a request's own")
    return Switch("batching", True, f"up to {settings.max_batch} pictures of a request together")


def modulation_home(settings: EngineSettings, placement: Placement) -> Switch:
    """The modulation linears live elsewhere than on the device."""
    name = "modulation_home"
    if settings.modulation == "device":
        return Switch(name, False, "the modulation linears stay on the device")
    if settings.modulation == "file":
        return Switch(name, True, "modulation linears are held nowhere, read and fused when needed")
    if placement.device.type == "cpu":
        return Switch(name, False, "the device is the host")
    return Switch(name, True, "modulation linears in host memory, streamed a request")


def text_encoders_home(settings: EngineSettings, placement: Placement) -> Switch:
    """The text encoders live elsewhere than on the device."""
    if settings.text_encoders == "device":
        return Switch("text_encoders_home", False, "the text encoders stay on the device")
    if placement.device.type == "cpu":
        return Switch("text_encoders_home", False, "the device is the host")
    where = {
        "host": "in host memory, streamed for a new prompt",
        "cpu": "on the CPU, and run there",
    }
    reason = f"text encoders {where[settings.text_encoders]}"
    return Switch("text_encoders_home", True, reason)


def vae_tiling(settings: EngineSettings, _placement: Placement) -> Switch:
    """Pictures are decoded in tiles."""
    if not settings.vae_tiling:
        return Switch("vae_tiling", False, "pictures are decoded whole")
    return Switch("vae_tiling", True, "decoded in overlapping tiles; pixels differ at their seams")


def channels_last(settings: EngineSettings, placement: Placement) -> Switch:
    """The VAE's convolutions keep a pixel's channels together."""
    if settings.order == "diffusers":
        return Switch("channels_last", False, IN_DIFFUSERS_ORDER)
    if placement.dtype == torch.float32:
        return Switch("channels_last", True, "faster decoding; float32 encoding would err more")
    return Switch("channels_last", True, "the VAE's convolutions are faster so")


def remember(settings: EngineSettings, _placement: Placement) -> Switch:
    """What a request was encoded to is kept for the next."""
    if settings.remember == "none":
        return Switch("remember", False, "every request is encoded anew")
    where = "in memory" if settings.remember == "memory" else "in memory, prompts on disk, too"
    return Switch("remember", True, f"encoded prompts and control images, {where}")


#: In the order in which a run meets them.
SWITCHES: dict[str, Callable[[EngineSettings, Placement], Switch]] = {
    switch.__name__: switch
    for switch in (
        quantization,
        compilation,
        attention,
        hoisting,
        modulation_home,
        text_encoders_home,
        remember,
        batching,
        step_skipping,
        channels_last,
        vae_tiling,
    )
}
