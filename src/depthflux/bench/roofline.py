"""What the device reaches at best for the work of a step, measured beside the systems.

A step's rate says little alone: this is what the same machine reaches in the same minutes with
nothing but one matrix product or one attention, at the very shapes that the step has. Knows
nothing of the systems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from depthflux.bench.clocks import repeated_seconds
from depthflux.bench.flux_fast import fp8_problem
from depthflux.bench.operations import Attention, Product, attention, block_products

FP8 = torch.float8_e4m3fn


class Pass(NamedTuple):
    """Seconds of a step's work, measured once.

    Attributes:
        plain: of each kind of product, all its times in a step together.
        fp8: likewise in scaled fp8; None where the device has none.
        attention: of all blocks.
    """

    plain: list[float]
    fp8: list[float] | None
    attention: float


class Roofline:
    """The blocks' matrix products and their attention at one size."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        image_tokens: int,
        text_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Know what a step computes.

        Args:
            config: the transformer's, in diffusers' words.
            image_tokens: of the picture.
            text_tokens: that the transformer reads.
            device: where.
            dtype: what the unrounded systems compute in.
        """
        tokens = {"image_tokens": image_tokens, "text_tokens": text_tokens}
        self._products = block_products(config, **tokens)
        self._attention = attention(config, **tokens)
        self._device, self._dtype = device, dtype
        self._passes: list[Pass] = []

    def measure(self) -> None:
        """Measure once more; what is described is the best of all passes."""
        device, dtype = self._device, self._dtype
        plain = [_seconds(p, _plain_product(p, device, dtype), device) for p in self._products]
        fp8 = None
        if not fp8_problem(device):
            fp8 = [_seconds(p, _fp8_product(p, device), device) for p in self._products]
        attended = _attention_seconds(self._attention, device, dtype)
        self._passes.append(Pass(plain, fp8, attended))

    def describe(self) -> dict[str, Any]:
        """Rates in TFLOP/s of every product, of all together, and of the attention.

        `step_milliseconds` is the time of one step that does nothing else. The same with scaled
        fp8 products, or why there are none.
        """
        attended = min(one.attention for one in self._passes)
        fp8 = [one.fp8 for one in self._passes if one.fp8 is not None]
        return {
            "dtype": str(self._dtype).removeprefix("torch."),
            "attention_teraflops_per_second": _rate(self._attention.flops, attended),
            "plain": self._summary([one.plain for one in self._passes], attended),
            "fp8": self._summary(fp8, attended) if fp8 else None,
            "fp8_missing": fp8_problem(self._device),
        }

    def _summary(self, passes: list[list[float]], attended: float) -> dict[str, Any]:
        """Rates of the products one by one and together, and the composite time of a step."""
        products, seconds = self._products, [min(each) for each in zip(*passes, strict=True)]
        each = {
            product.name: {
                "shape": (
                    f"[{product.rows}, {product.inputs}] x [{product.inputs}, {product.outputs}]"
                ),
                "times": product.times,
                "teraflops_per_second": _rate(product.flops, second),
            }
            for product, second in zip(products, seconds, strict=True)
        }
        return {
            "products": each,
            "products_teraflops_per_second": _rate(sum(p.flops for p in products), sum(seconds)),
            "step_milliseconds": round(1000 * (sum(seconds) + attended), 4),
        }


def _seconds(product: Product, work: Callable[[], object], device: torch.device) -> float:
    """Of all times that a step computes a product."""
    return product.times * repeated_seconds(work, device)


def _plain_product(
    product: Product, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    # Random numbers, as zeros draw less power and run faster.
    left = torch.randn(product.rows, product.inputs, device=device, dtype=dtype)
    weight = torch.randn(product.outputs, product.inputs, device=device, dtype=dtype)
    return lambda: functional.linear(left, weight)


def _fp8_product(product: Product, device: torch.device) -> Callable[[], object]:
    """A product of fp8 numbers with a scale for every row, already rounded."""
    left = torch.randn(product.rows, product.inputs, device=device).to(FP8)
    weight = torch.randn(product.outputs, product.inputs, device=device).to(FP8)
    left_scale = torch.ones(product.rows, 1, device=device)
    weight_scale = torch.ones(1, product.outputs, device=device)
    return lambda: torch._scaled_mm(
        left,
        weight.T,
        scale_a=left_scale,
        scale_b=weight_scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _attention_seconds(attended: Attention, device: torch.device, dtype: torch.dtype) -> float:
    """Of all blocks, by the fastest kernel that torch has for the shape."""
    shape = (1, attended.heads, attended.tokens, attended.head_width)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    measured = [
        _attention_of(backend, (query, key, value), device) for backend in _backends(device)
    ]
    return attended.times * min(seconds for seconds in measured if seconds is not None)


def _backends(device: torch.device) -> list[Any]:
    backend = torch.nn.attention.SDPBackend
    if device.type == "cuda":
        return [backend.CUDNN_ATTENTION, backend.FLASH_ATTENTION, backend.EFFICIENT_ATTENTION]
    return [backend.FLASH_ATTENTION]


def _attention_of(
    backend: Any,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    device: torch.device,
) -> float | None:
    """Of one block; None where the device does not have this kernel."""
    with torch.nn.attention.sdpa_kernel(backend):
        try:
            functional.scaled_dot_product_attention(*tensors)
        except RuntimeError:
            return None
        return repeated_seconds(lambda: functional.scaled_dot_product_attention(*tensors), device)


def _rate(flops: int, seconds: float) -> float:
    """TFLOP/s."""
    return round(flops / seconds / 1e12, 4)
