"""What the device gives at best for the work that a step consists of, measured beside it.

A step's rate says little alone: this is what the same machine reaches in the same minutes with
nothing but one matrix product, one attention or one copy. Knows nothing of the engine.
"""

from typing import Any

import torch
from torch.nn import functional

from bench_gpu.bench import Bench
from bench_gpu.card import TEXT_TOKENS, image_tokens
from depthflux.bench.clocks import repeated_seconds

#: Bytes that are copied; many times a cache.
COPIED_BYTES = {"cuda": 2**32, "cpu": 2**26}


def ceilings(bench: Bench, *, picture: str) -> dict[str, Any]:
    """bfloat16 matrix product and attention at a picture's own shapes, and copies."""
    device, config = bench.device, bench.size.transformer
    tokens = image_tokens(bench.size, picture) + TEXT_TOKENS
    heads, head_width = config["num_attention_heads"], config["attention_head_dim"]
    width = heads * head_width
    product = _matrix_product(tokens, width, device)
    attention = _attention(tokens, heads, head_width, device)
    return {
        "matrix_product": f"[{tokens}, {width}] x [{width}, {4 * width}]",
        "matrix_product_teraflops_per_second": round(product / 1e12, 4),
        "attention": f"{heads} heads of {head_width}, {tokens} tokens",
        "attention_teraflops_per_second": round(attention / 1e12, 4),
        "copy_gigabytes_read_and_written_per_second": round(_copy(device) / 1e9, 2),
        "pinned_host_to_device_gigabytes_per_second": _upload(device),
    }


def _matrix_product(tokens: int, width: int, device: torch.device) -> float:
    """Operations in a second of the MLP's first linear; on random numbers, as zeros run faster."""
    left = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
    right = torch.randn(width, 4 * width, device=device, dtype=torch.bfloat16)
    seconds = repeated_seconds(lambda: left @ right, device)
    return 2 * tokens * width * 4 * width / seconds


def _attention(tokens: int, heads: int, head_width: int, device: torch.device) -> float:
    """Operations in a second of attention over all tokens, by torch's own choice of kernel."""
    shape = (1, heads, tokens, head_width)
    query, key, value = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in "qkv")
    seconds = repeated_seconds(
        lambda: functional.scaled_dot_product_attention(query, key, value), device
    )
    return 4 * tokens**2 * heads * head_width / seconds


def _copy(device: torch.device) -> float:
    """Bytes in a second, read and written, from one place of the device's memory to another."""
    source = torch.ones(COPIED_BYTES[device.type], device=device, dtype=torch.int8)
    target = torch.empty_like(source)
    return 2 * source.nbytes / repeated_seconds(lambda: target.copy_(source), device)


def _upload(device: torch.device) -> float | None:
    """Gigabytes in a second from pinned host memory; None where there is no device beside it."""
    if device.type != "cuda":
        return None
    source = torch.ones(2**30, dtype=torch.int8).pin_memory()
    target = torch.empty_like(source, device=device)
    seconds = repeated_seconds(lambda: target.copy_(source, non_blocking=True), device)
    return round(source.nbytes / seconds / 1e9, 2)
