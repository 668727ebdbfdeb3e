"""Parts of a model that need not be on the device all the time: where they live instead.

The text encoders serve a new prompt once, the modulation linears a request once; in host memory
they cost a copy then, and nothing in the loop. A picture decoded in tiles needs less at once. None
of this but the tiles changes a bit of the result.

Streaming is accelerate's: a module's weights come to the device when it is called and go when it
is done, one module at a time. Knows nothing of how much memory there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn

from depthflux.model.footprint import MODULATION, TILE_PIXELS
from depthflux.model.fusing import packed
from depthflux.settings import Home, TextHome

CPU = torch.device("cpu")
#: Where modulation linears are read to that do not live on the device.
HOMES = {"host": CPU, "file": torch.device("meta")}


def text_device(home: TextHome, device: torch.device) -> torch.device:
    """Where the text encoders' weights are read to; `place_text_encoders` is still to follow."""
    return device if home == "device" else CPU


def transformer_device(name: str, home: Home, device: torch.device) -> torch.device:
    """Where a tensor of the transformer is read to, by its name.

    Modulation linears that live on the host never pass through the device's memory; those that
    live in the file stay empty.
    """
    return HOMES.get(home, device) if MODULATION.search(name) else device


def place_text_encoders(encoders: Iterable[Any], home: TextHome, device: torch.device) -> None:
    """Bring text encoders to their home; they are called as before, with ids on the device.

    Args:
        encoders: transformers' modules, on any one device; they are not to be moved again.
        home: `device`; `host`, from which each weight is streamed when it is needed; or `cpu`,
            where they run in their own dtype and from which their results return.
        device: where ids come from and results go.
    """
    for encoder in encoders:
        if home == "device":
            encoder.to(device)
        elif home == "host":
            _stream(encoder, device)
        else:
            hook = AlignDevicesHook(execution_device=CPU, io_same_device=True)
            add_hook_to_module(encoder.to(CPU), hook)


def place_modulations(transformer: nn.Module, home: Home, device: torch.device) -> None:
    """Bring the modulation linears to their home, in place: the linears stay the same objects.

    Args:
        transformer: diffusers' FluxTransformer2DModel, filled.
        home: `device`; `host` memory, pinned where the device is a GPU; or `file`, which lets go
            of them: `ControlLora.linear` makes them anew.
        device: the transformer's.
    """
    named = {n: p for n, p in transformer.named_parameters() if MODULATION.search(n)}
    if home == "device":
        for parameter in named.values():
            parameter.data = parameter.data.to(device)
        return
    if home == "file":
        for name in named:
            _empty(transformer, name)
        return
    copies = packed({n: p.data for n, p in named.items()}, pin=device.type == "cuda")
    for name, parameter in named.items():
        parameter.data = copies[name]


def decode_in_tiles(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents in overlapping tiles of 512 x 512 pixels, through diffusers.

    diffusers' own tiles are of the size that the autoencoder was trained at, 1024 for FLUX, which
    would save nothing at 1024x1024. Tiles overlap by a quarter and are blended there. Each is
    normalised by its own statistics, so pixels differ a little everywhere. Encoding stays whole:
    other control latents would lead to another picture. docs/experiments.md has both figures.

    Args:
        vae: diffusers' AutoencoderKL.
        latents: [B, C, h, w], in the scale that its `decode` takes.

    Returns:
        [B, 3, H, W]; a picture of one tile is that of `decode`.
    """
    cells = TILE_PIXELS // 2 ** (len(vae.config.block_out_channels) - 1)
    if max(latents.shape[-2:]) <= cells:
        whole: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return whole
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE_PIXELS, cells
    tiled: torch.Tensor = vae.tiled_decode(latents, return_dict=False)[0]
    return tiled


def _empty(module: nn.Module, name: str) -> None:
    """Put an empty parameter in place of a filled one."""
    owner, _, part = name.rpartition(".")
    empty = nn.Parameter(module.get_parameter(name).to("meta"), requires_grad=False)
    setattr(module.get_submodule(owner), part, empty)


def _stream(encoder: Any, device: torch.device) -> None:
    """Keep an encoder's weights in host memory and bring each to the device while it is used."""
    weights = encoder.state_dict()
    # T5's embedding has two names; one copy is enough.
    first = {tensor.data_ptr(): name for name, tensor in reversed(weights.items())}
    kept = packed({name: weights[name] for name in first.values()}, pin=device.type == "cuda")
    state = {name: kept[first[tensor.data_ptr()]] for name, tensor in weights.items()}
    cpu_offload(encoder, execution_device=device, state_dict=state)
