"""The kernels that can compute the blocks' attention, and making one of them the one that does.

    cudnn, flash, efficient, math    torch's own
    flash3                           FlashAttention 3, where the package flash_attn_interface is
    torch                            whichever torch takes by itself

All are exact up to rounding; nothing is quantized and nothing is fetched. A kernel that was chosen
computes all of the attention or the run fails: torch is left no other one to fall back to.

Knows nothing of blocks, nor of which kernel is the fastest: that is attention_choice's.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from depthflux.errors import DeviceError, first_line
from depthflux.model.placement import Placement, device_name
from depthflux.settings import Attention

#: torch's own choice.
TORCH = "torch"
FLASH3 = "flash3"
FLASH3_MODULE = "flash_attn_interface"
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
#: FLUX's attention, which a kernel has to be able to compute: heads and their width.
FLUX_HEADS, FLUX_HEAD_WIDTH = 24, 128
#: Tokens of the trial that tells whether a kernel runs at all.
TRIAL_TOKENS = 64

# torch's choice of a kernel is one for the process, and so is its name here.
_one_at_a_time = threading.RLock()
_kernel = TORCH


@contextmanager
def attention_by(kernel: str) -> Iterator[None]:
    """Let a kernel, and no other, compute attention, for compiling as well as for running.

    Torch takes a kernel when a graph is made or, without one, at each call, so blocks must both
    compile and run in here. The choice is one for the process: runs of several engines in threads
    wait for each other.

    Args:
        kernel: one of BACKENDS, `flash3`, or `torch`.
    """
    global _kernel
    # All for torch's own choice: this may be a run inside of another engine's.
    backends = [BACKENDS[kernel]] if kernel in BACKENDS else list(BACKENDS.values())
    with _one_at_a_time, sdpa_kernel(backends):
        before, _kernel = _kernel, kernel
        try:
            yield
        finally:
            _kernel = before


def flash3_computes() -> bool:
    """Whether attention is FlashAttention 3's at present; read by the blocks.

    Torch guards a graph by all that was read while it was made, so it is by reading the name that
    a graph made with one kernel is not taken for another, such as a second engine's.
    """
    return _kernel == FLASH3


@torch.library.custom_op("depthflux::flash3", mutates_args=())
def flash3(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """FlashAttention 3 of all tokens to all; all [B, N, heads, head width], in half precision.

    An operator of torch's, so that a graph holds it as one node.
    """
    attended = importlib.import_module(FLASH3_MODULE).flash_attn_func(q, k, v)
    # Releases before 3.0.0b2 give the softmax's normaliser, too.
    result: torch.Tensor = attended[0] if isinstance(attended, tuple) else attended
    return result.contiguous()


@flash3.register_fake
def _(q: torch.Tensor, _k: torch.Tensor, _v: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def flash3_is_installed() -> bool:
    """Whether FlashAttention 3's package can be found; it is not imported."""
    return importlib.util.find_spec(FLASH3_MODULE) is not None


def attend_once(kernel: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention by a kernel, outside of any block; [B, N, heads, head width] each."""
    with attention_by(kernel):
        if kernel == FLASH3:
            result: torch.Tensor = flash3(q, k, v)
            return result
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def random_heads(
    placement: Placement, heads: int, head_width: int, tokens: int
) -> tuple[torch.Tensor, ...]:
    """q, k and v of one picture, standard normal, [1, tokens, heads, head width] each."""
    shape = (1, tokens, heads, head_width)
    make: dict[str, Any] = {"device": placement.device, "dtype": placement.dtype}
    return tuple(torch.randn(shape, **make) for _ in range(3))


@torch.no_grad()
def obstacle(
    kernel: str,
    placement: Placement,
    heads: int = FLUX_HEADS,
    head_width: int = FLUX_HEAD_WIDTH,
) -> str:
    """Why a kernel cannot compute attention here; empty where it can. It is tried out."""
    if kernel == TORCH:
        return ""
    if kernel == FLASH3 and placement.device.type != "cuda":
        return "it needs CUDA"
    if kernel == FLASH3 and not flash3_is_installed():
        return f"the package {FLASH3_MODULE} is not installed"
    try:
        # torch warns of each reason why a kernel does not suit.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attend_once(kernel, *random_heads(placement, heads, head_width, TRIAL_TOKENS))
    except (RuntimeError, ImportError) as error:
        return first_line(error)
    return ""


def check_attention(asked: Attention, placement: Placement) -> None:
    """See that the kernel that was asked for can run, at FLUX's shape and before weights are read.

    Raises:
        DeviceError: it cannot.
    """
    if asked == "auto":
        return
    problem = obstacle(asked, placement)
    if problem:
        dtype = str(placement.dtype).removeprefix("torch.")
        raise DeviceError(
            f"attention={asked} cannot run on {device_name(placement.device)} in {dtype}: "
            f"{problem}.",
            fix="Use attention=auto.",
        )
