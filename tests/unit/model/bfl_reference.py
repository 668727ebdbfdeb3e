"""FLUX in Black Forest Labs' key layout, small enough to read: the second witness for ours.

Tensors of the base model and of a control LoRA under the makers' names, and the forward pass
computed straight from them. Written from the published shapes and formulas, it shares nothing with
the tables under test, nor with diffusers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """FLUX.1-dev's own numbers but for the blocks, unless told otherwise."""

    heads: int = 24
    head_width: int = 128
    double: int = 19
    single: int = 38
    channels: int = 64
    text_width: int = 4096
    pooled_width: int = 768
    rank: int = 128

    @property
    def width(self) -> int:
        return self.heads * self.head_width


def linear_shapes(size: Size) -> dict[str, tuple[int, int]]:
    """Every linear's (outputs, inputs)."""
    d = size.width
    shapes = {
        "img_in": (d, size.channels),
        "txt_in": (d, size.text_width),
        "final_layer.linear": (size.channels, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    for name, inputs in (("time_in", 256), ("guidance_in", 256), ("vector_in", size.pooled_width)):
        shapes[f"{name}.in_layer"] = (d, inputs)
        shapes[f"{name}.out_layer"] = (d, d)
    for i in range(size.double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            shapes[f"{block}_mod.lin"] = (6 * d, d)
            shapes[f"{block}_attn.qkv"] = (3 * d, d)
            shapes[f"{block}_attn.proj"] = (d, d)
            shapes[f"{block}_mlp.0"] = (4 * d, d)
            shapes[f"{block}_mlp.2"] = (d, 4 * d)
    for i in range(size.single):
        block = f"single_blocks.{i}"
        shapes[f"{block}.modulation.lin"] = (3 * d, d)
        shapes[f"{block}.linear1"] = (7 * d, d)
        shapes[f"{block}.linear2"] = (d, 5 * d)
    return shapes


def norm_names(size: Size) -> list[str]:
    """Every q/k norm's key."""
    streams = [f"double_blocks.{i}.{s}_attn" for i in range(size.double) for s in ("img", "txt")]
    blocks = streams + [f"single_blocks.{i}" for i in range(size.single)]
    return [f"{block}.norm.{which}_norm.scale" for block in blocks for which in ("query", "key")]


def random_base(size: Size, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
    """A base model whose activations keep their size."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs) in linear_shapes(size).items():
        weight = torch.randn(outputs, inputs, generator=draw) / inputs**0.5
        tensors[f"{name}.weight"] = weight.to(dtype)
        tensors[f"{name}.bias"] = (0.1 * torch.randn(outputs, generator=draw)).to(dtype)
    for name in norm_names(size):
        tensors[name] = (1 + 0.1 * torch.randn(size.head_width, generator=draw)).to(dtype)
    return tensors


def random_lora(
    size: Size, dtype: torch.dtype = torch.float32, seed: int = 1, *, biases: bool = True
) -> Tensors:
    """A control LoRA: every linear, biases, norms, and an `img_in` of twice the channels."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs) in linear_shapes(size).items():
        inputs = 2 * inputs if name == "img_in" else inputs
        down = torch.randn(size.rank, inputs, generator=draw) / inputs**0.5
        up = torch.randn(outputs, size.rank, generator=draw) * 0.3 / size.rank**0.5
        tensors[f"{name}.lora_A.weight"] = down.to(dtype)
        tensors[f"{name}.lora_B.weight"] = up.to(dtype)
        if biases:
            tensors[f"{name}.lora_B.bias"] = (0.1 * torch.randn(outputs, generator=draw)).to(dtype)
    for name in norm_names(size):
        tensors[name] = (1 + 0.1 * torch.randn(size.head_width, generator=draw)).to(dtype)
    return tensors


def fused(base: Tensors, lora: Tensors, scale: float) -> Tensors:
    """The definition: W + s·(B·A), b + s·b_B, n + s·(n_control - n), in float32."""
    tensors = {name: tensor.float() for name, tensor in base.items()}
    for key in [key for key in lora if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        delta = lora[f"{name}.lora_B.weight"].float() @ lora[key].float()
        weight = tensors[f"{name}.weight"]
        weight = functional.pad(weight, (0, delta.shape[1] - weight.shape[1]))
        tensors[f"{name}.weight"] = weight + scale * delta
        if f"{name}.lora_B.bias" in lora:
            tensors[f"{name}.bias"] = (
                tensors[f"{name}.bias"] + scale * lora[f"{name}.lora_B.bias"].float()
            )
    for key in [key for key in lora if key.endswith("norm.scale")]:
        tensors[key] = tensors[key] + scale * (lora[key].float() - tensors[key])
    return tensors


class Flux:
    """The forward pass. All tokens stand at place 0, where the rotary embedding does nothing."""

    def __init__(self, tensors: Tensors, size: Size) -> None:
        self.tensors, self.size = tensors, size

    def __call__(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        pooled: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor,
    ) -> torch.Tensor:
        """Velocity [1, S, C] of image tokens [1, S, C or 2C], text [1, T, text width]."""
        image, text = self.linear("img_in", image), self.linear("txt_in", text)
        vector = self.mlp("time_in", sinusoids(timestep))
        vector = vector + self.mlp("guidance_in", sinusoids(guidance))
        vector = vector + self.mlp("vector_in", pooled)
        for i in range(self.size.double):
            image, text = self.double_block(f"double_blocks.{i}", image, text, vector)
        both = torch.cat([text, image], dim=1)
        for i in range(self.size.single):
            both = self.single_block(f"single_blocks.{i}", both, vector)
        image = both[:, text.shape[1] :]
        shift, scale = self.modulation("final_layer.adaLN_modulation.1", vector, 2)
        return self.linear("final_layer.linear", modulated(image, shift, scale))

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def mlp(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.linear(f"{name}.out_layer", functional.silu(self.linear(f"{name}.in_layer", x)))

    def modulation(self, name: str, vector: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        return self.linear(name, functional.silu(vector))[:, None].chunk(parts, dim=-1)

    def heads(self, qkv: torch.Tensor, norm: str) -> list[torch.Tensor]:
        """q, k, v of [1, heads, tokens, head width], q and k normalised."""
        batch, tokens, _ = qkv.shape
        split = qkv.reshape(batch, tokens, 3, self.size.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split
        query = rms(query) * self.tensors[f"{norm}.query_norm.scale"]
        return [query, rms(key) * self.tensors[f"{norm}.key_norm.scale"], value]

    def double_block(
        self, block: str, image: torch.Tensor, text: torch.Tensor, vector: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        streams = {"txt": text, "img": image}
        mods = {s: self.modulation(f"{block}.{s}_mod.lin", vector, 6) for s in streams}
        parts = []
        for s, x in streams.items():
            qkv = self.linear(f"{block}.{s}_attn.qkv", modulated(x, *mods[s][:2]))
            parts.append(self.heads(qkv, f"{block}.{s}_attn.norm"))
        query, key, value = (torch.cat(both, dim=2) for both in zip(*parts, strict=True))
        mixed = attention(query, key, value)
        mixes = {"txt": mixed[:, : text.shape[1]], "img": mixed[:, text.shape[1] :]}
        for s, x in streams.items():
            _, _, gate, shift, scale, gate_mlp = mods[s]
            x = x + gate * self.linear(f"{block}.{s}_attn.proj", mixes[s])
            hidden = self.linear(f"{block}.{s}_mlp.0", modulated(x, shift, scale))
            hidden = functional.gelu(hidden, approximate="tanh")
            streams[s] = x + gate_mlp * self.linear(f"{block}.{s}_mlp.2", hidden)
        return streams["img"], streams["txt"]

    def single_block(self, block: str, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(f"{block}.modulation.lin", vector, 3)
        width = self.size.width
        both = self.linear(f"{block}.linear1", modulated(x, shift, scale))
        qkv, hidden = both.split([3 * width, 4 * width], dim=-1)
        mixed = attention(*self.heads(qkv, f"{block}.norm"))
        hidden = functional.gelu(hidden, approximate="tanh")
        return x + gate * self.linear(f"{block}.linear2", torch.cat([mixed, hidden], dim=-1))


def sinusoids(value: torch.Tensor) -> torch.Tensor:
    """[B] in 0..1 → [B, 256], cosines first."""
    rates = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = 1000 * value[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2)
