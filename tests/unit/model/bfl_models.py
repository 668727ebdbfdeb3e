"""Black Forest Labs' files loaded into diffusers' transformer through the code under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import torch
from bfl_reference import Size
from diffusers import FluxTransformer2DModel

from depthflux.model.flux_layout import Shape, linear_origins, norm_origins
from depthflux.model.tensors import Part, TensorFiles


def parts(config: Any) -> dict[str, Part]:
    """Where diffusers' tensors lie in a file of Black Forest Labs' layout."""
    shape = Shape.of(config)
    linears = {
        f"{name}.{kind}": Part(f"{origin.module}.{kind}", origin.rows, origin.swapped)
        for name, origin in linear_origins(shape).items()
        for kind in ("weight", "bias")
    }
    norms = {f"{n}.weight": Part(f"{o.module}.scale") for n, o in norm_origins(shape).items()}
    return linears | norms


def load(file: Path, size: Size, dtype: torch.dtype = torch.float32) -> tuple[Any, TensorFiles]:
    """diffusers' transformer with a file's weights, and the file."""
    with accelerate.init_empty_weights():
        transformer = FluxTransformer2DModel(
            num_layers=size.double,
            num_single_layers=size.single,
            num_attention_heads=size.heads,
            attention_head_dim=size.head_width,
            in_channels=size.channels,
            joint_attention_dim=size.text_width,
            pooled_projection_dim=size.pooled_width,
            axes_dims_rope=(size.head_width // 2, size.head_width // 4, size.head_width // 4),
            guidance_embeds=True,
        )
    files = TensorFiles([file], parts(transformer.config))
    state = {name: files.read(name).to(dtype, copy=True) for name in files.headers}
    transformer.load_state_dict(state, assign=True)
    return transformer.eval().requires_grad_(False), files


def inputs(size: Size, *, control: bool = False) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return {
        "image": torch.randn(1, 6, size.channels * (2 if control else 1), generator=draw),
        "text": torch.randn(1, 4, size.text_width, generator=draw),
        "pooled": torch.randn(1, size.pooled_width, generator=draw),
        "timestep": torch.tensor([0.6]),
        "guidance": torch.tensor([3.5]),
    }


def forward(transformer: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """diffusers' forward pass with every token at place 0."""
    with torch.no_grad():
        return transformer(
            hidden_states=given["image"],
            encoder_hidden_states=given["text"],
            pooled_projections=given["pooled"],
            timestep=given["timestep"],
            guidance=given["guidance"],
            img_ids=torch.zeros(given["image"].shape[1], 3),
            txt_ids=torch.zeros(given["text"].shape[1], 3),
            return_dict=False,
        )[0]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()
