"""The flux-fast recipe on today's diffusers: what F is.

Source: huggingface/flux-fast, as far as it still applies: fp8 per tensor on all linears, fused
q/k/v, max-autotune with static shapes for the transformer and the decoder, channels-last VAE and
its inductor flags. Its FlashAttention 3 processor is written for an attention class that diffusers
no longer has, and its ahead-of-time packaging changes cold starts only; both are left out.

Knows nothing of timing.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch._inductor.config

from depthflux.bench.systems import Pipeline
from depthflux.model.loading import Model

COMPILE_OPTIONS: dict[str, Any] = {"mode": "max-autotune", "fullgraph": True, "dynamic": False}
INDUCTOR_FLAGS: dict[str, Any] = {
    "conv_1x1_as_mm": True,
    "epilogue_fusion": False,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
}
#: Ada's compute capability, the first whose tensor cores take fp8.
FIRST_WITH_FP8 = (8, 9)


def fp8_problem(device: torch.device) -> str:
    """Why a device does not compute in fp8, in words; empty where it does."""
    if device.type != "cuda":
        return f"{device.type} has no fp8 matrix products"
    capability = torch.cuda.get_device_capability(device)
    if capability < FIRST_WITH_FP8:
        needed = "{}.{}".format(*FIRST_WITH_FP8)
        return "compute capability {}.{} has no fp8; {} has".format(*capability, needed)
    return ""


def flux_fast_problem(device: torch.device) -> str:
    """Why F cannot run here, in words; empty where it can."""
    if problem := fp8_problem(device):
        return problem
    return "" if importlib.util.find_spec("torchao") else "torchao is not installed"


#: The GPUs that the recipe was made for, by the first number of their compute capability.
HOPPER = 9


def flux_fast(model: Model) -> Pipeline:
    """F around a model of its own, whose modules are changed."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        PerTensor,
        quantize_,
    )

    model.transformer.fuse_qkv_projections()
    model.vae.fuse_qkv_projections()
    model.vae.to(memory_format=torch.channels_last)
    if torch.cuda.get_device_capability(model.placement.device)[0] == HOPPER:
        # In place of its FlashAttention 3, which no package brings: the fastest that torch has.
        model.transformer.set_attention_backend("_native_cudnn")
    # Its inductor flags stand below; torchao would set others for the whole process.
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerTensor(), set_inductor_config=False
    )
    quantize_(model.transformer, config)
    model.vae.decode = torch.compile(model.vae.decode, **COMPILE_OPTIONS)
    return Pipeline("F", model, compile_options=COMPILE_OPTIONS, during=_inductor_flags)


def _inductor_flags() -> AbstractContextManager[Any]:
    # Around F's runs only: they are the whole process's, and C is meant to run without them.
    flags: AbstractContextManager[Any] = torch._inductor.config.patch(INDUCTOR_FLAGS)
    return flags
