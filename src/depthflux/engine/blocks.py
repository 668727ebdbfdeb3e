"""FLUX's two kinds of block as the loop runs them: tensors in, tensors out, nothing constant in it.

What depends on the step and the prompt only, the modulations and the rotary embedding, comes in
ready. q, k and v are one matrix product, with the MLP's first layer in single blocks; those read
and write one sequence, text tokens first, instead of joining and parting two. The weights are
those of diffusers' modules, so that whatever is fused there is computed with here.

Sums that are no matrix product (normalising, modulating, gating, adding) are computed in float32
and rounded once. Source of the formulas: Black Forest Labs' FLUX.1 and diffusers 0.42's
transformer_flux, whose results these equal up to rounding.

Knows nothing of steps, prompts or schedules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from depthflux.engine.attention import flash3, flash3_computes
from depthflux.model.packing import pack

#: The epsilon of all of FLUX's layer norms.
LAYER_NORM_EPSILON = 1e-6
#: Vectors that modulate a double block's stream: shift, 1 + scale and gate of the attention, then
#: of the MLP; a single block has the first three, the last layer the first two.
DOUBLE_VECTORS, SINGLE_VECTORS, FINAL_VECTORS = 6, 3, 2


class Stream(nn.Module):
    """One of a double block's two streams: what it does with its own tokens."""

    def __init__(
        self,
        projections: tuple[nn.Linear, nn.Linear, nn.Linear],
        norm_q: nn.Module,
        norm_k: nn.Module,
        out: nn.Linear,
        feed_forward: Any,
    ) -> None:
        """Take over a stream's modules; the projections are those to q, k and v."""
        super().__init__()
        self.qkv = pack(projections)
        self.norm_q, self.norm_k = norm_q, norm_k
        self.out = out
        self.up, self.down = feed_forward.net[0].proj, feed_forward.net[2]

    def project(
        self, tokens: torch.Tensor, modulation: torch.Tensor, head_width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalised q and k, and v, each [B, N, heads, head width]."""
        qkv = self.qkv(modulated(tokens, modulation[1], modulation[0]))
        q, k, v = qkv.unflatten(-1, (3, -1, head_width)).unbind(2)
        return self.norm_q(q), self.norm_k(k), v

    def finish(
        self, tokens: torch.Tensor, attended: torch.Tensor, modulation: torch.Tensor
    ) -> torch.Tensor:
        """The tokens after the attention and the MLP."""
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulation.unbind()
        tokens = gated(tokens, self.out(attended), gate)
        hidden = functional.gelu(
            self.up(modulated(tokens, mlp_scale, mlp_shift)), approximate="tanh"
        )
        return gated(tokens, self.down(hidden), mlp_gate)


class DoubleBlock(nn.Module):
    """A block in which picture and text tokens attend to each other, each with its own weights."""

    def __init__(self, block: Any) -> None:
        """Take over diffusers' FluxTransformerBlock, whose weights become views of packed ones."""
        super().__init__()
        attention = block.attn
        self.head_width = attention.head_dim
        self.image = Stream(
            (attention.to_q, attention.to_k, attention.to_v),
            attention.norm_q,
            attention.norm_k,
            attention.to_out[0],
            block.ff,
        )
        self.text = Stream(
            (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj),
            attention.norm_added_q,
            attention.norm_added_k,
            attention.to_add_out,
            block.ff_context,
        )

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        image_modulation: torch.Tensor,
        text_modulation: torch.Tensor,
        rope: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the block.

        Args:
            image: the picture's tokens, [B, S, d].
            text: the prompt's tokens, [B, T, d].
            image_modulation: float32 [6, d], see DOUBLE_VECTORS.
            text_modulation: likewise.
            rope: cosines and sines, float32 [T + S, 1, head width / 2, 2].

        Returns:
            The picture's and the prompt's tokens.
        """
        of_text = self.text.project(text, text_modulation, self.head_width)
        of_image = self.image.project(image, image_modulation, self.head_width)
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(of_text, of_image, strict=True))
        attended = attend(rotate(q, rope), rotate(k, rope), v)
        length = text.shape[1]
        return (
            self.image.finish(image, attended[:, length:], image_modulation),
            self.text.finish(text, attended[:, :length], text_modulation),
        )


class SingleBlock(nn.Module):
    """A block over one sequence, whose attention and MLP run side by side."""

    def __init__(self, block: Any) -> None:
        """Take over diffusers' FluxSingleTransformerBlock, as DoubleBlock does."""
        super().__init__()
        attention = block.attn
        self.head_width = attention.head_dim
        self.width = block.mlp_hidden_dim
        self.qkv_up = pack((attention.to_q, attention.to_k, attention.to_v, block.proj_mlp))
        self.norm_q, self.norm_k = attention.norm_q, attention.norm_k
        self.out = block.proj_out

    def forward(
        self, tokens: torch.Tensor, modulation: torch.Tensor, rope: torch.Tensor
    ) -> torch.Tensor:
        """Run the block.

        Args:
            tokens: the prompt's, then the picture's, [B, T + S, d].
            modulation: float32 [3, d], see SINGLE_VECTORS.
            rope: cosines and sines, float32 [T + S, 1, head width / 2, 2].

        Returns:
            The tokens, [B, T + S, d].
        """
        shift, scale, gate = modulation.unbind()
        wide = self.qkv_up(modulated(tokens, scale, shift))
        qkv, up = wide.split([wide.shape[-1] - self.width, self.width], dim=-1)
        q, k, v = qkv.unflatten(-1, (3, -1, self.head_width)).unbind(2)
        attended = attend(rotate(self.norm_q(q), rope), rotate(self.norm_k(k), rope), v)
        hidden = torch.cat([attended, functional.gelu(up, approximate="tanh")], dim=-1)
        return gated(tokens, self.out(hidden), gate)


def modulated(tokens: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Layer norm over the last axis, times a vector, plus a vector, in the tokens' dtype."""
    normed = functional.layer_norm(tokens.float(), scale.shape, scale, shift, LAYER_NORM_EPSILON)
    return normed.to(tokens.dtype)


def gated(tokens: torch.Tensor, change: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """The tokens plus a change times a vector, in the tokens' dtype."""
    return torch.addcmul(tokens.float(), change.float(), gate).to(tokens.dtype)


def rotate(heads: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbouring numbers by its token's angle.

    Args:
        heads: queries or keys, [B, N, heads, head width].
        rope: cosines and sines, float32 [N, 1, head width / 2, 2].
    """
    pairs = heads.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        # Compiled into one kernel with what is around it.
        cosine, sine = rope.unbind(-1)
        a, b = pairs.unbind(-1)
        turned = torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1)
    else:
        # A complex product is one pass over memory, where the real form takes seven.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    return turned.flatten(-2).to(heads.dtype)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of all tokens to all; q, k, v [B, N, heads, head width] to [B, N, d]."""
    if flash3_computes():
        return flash3(q, k, v).flatten(2)
    attended = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    )
    return attended.transpose(1, 2).flatten(2)
