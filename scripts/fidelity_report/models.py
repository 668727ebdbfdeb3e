"""The models that are measured: the trained miniature, and a random one as deep as FLUX.

Both are folders laid out like FLUX.1-dev's, with every tensor in bfloat16 as in FLUX's own files:
loading them in bfloat16 then loses nothing, so that what is measured is computing alone.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from depthflux.model.demo import demo_folder
from train_demo.architecture import PACKED_CHANNELS, untrained_lora
from train_demo.grammar import canonical_prompt
from train_demo.pictures import HELD_OUT_SEED
from train_demo.render import control_image, render
from train_demo.scenes import sample_scene

CONTROL_LORA = "control_lora.safetensors"
SIDE = 512
#: The random model's LoRA; its deltas are a tenth of the weights' size.
RANK = 16
#: FLUX.1-dev's own head.
HEAD_WIDTH, ROPE_AXES = 128, (16, 56, 56)


@dataclass(frozen=True)
class Case:
    """One unseen scene of the miniature's world.

    Attributes:
        prompt: what it shows, in words.
        control: its exact depth map, near = white, mode L, 512 x 512.
        seed: of the picture that is painted.
    """

    prompt: str
    control: Image.Image
    seed: int


def unseen_cases(count: int) -> list[Case]:
    """Scenes that no stage of the training has seen, with one, two and three objects in turn."""
    cases = []
    for index in range(count):
        seed = HELD_OUT_SEED + 2000 + index
        scene = sample_scene(random.Random(seed), count=1 + index % 3)
        depth = control_image(render(scene, SIDE, SIDE).disparity).numpy()
        cases.append(Case(canonical_prompt(scene.words()), Image.fromarray(depth), seed))
    return cases


def write_miniature(folder: Path) -> Path:
    """The packaged miniature with its tensors rounded to bfloat16."""
    shutil.copytree(demo_folder(), folder)
    for path in folder.rglob("*.safetensors"):
        tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


def write_random(folder: Path, miniature: Path, *, heads: int, double: int, single: int) -> Path:
    """The miniature's folder with a random transformer and control LoRA in their place.

    Args:
        folder: is made.
        miniature: gives everything else.
        heads: of 128 channels each.
        double: double blocks; FLUX has 19.
        single: single blocks; FLUX has 38.
    """
    shutil.copytree(miniature, folder)
    config = FluxTransformer2DModel.load_config(miniature / "transformer")
    draw = torch.Generator().manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=double,
        num_single_layers=single,
        num_attention_heads=heads,
        attention_head_dim=HEAD_WIDTH,
        axes_dims_rope=ROPE_AXES,
        in_channels=PACKED_CHANNELS,
        joint_attention_dim=config["joint_attention_dim"],
        pooled_projection_dim=config["pooled_projection_dim"],
        guidance_embeds=True,
    ).requires_grad_(False)
    lora = untrained_lora(transformer, RANK, draw)
    for name, parameter in transformer.named_parameters():
        # Weights that keep the size of what passes through; biases and norms that matter.
        if parameter.ndim == 2:
            parameter.normal_(generator=draw).div_(parameter.shape[1] ** 0.5)
        elif is_norm(name):
            parameter.normal_(generator=draw).mul_(0.1).add_(1)
            lora[f"transformer.{name}"] = 1 + 0.1 * torch.randn(parameter.shape, generator=draw)
        else:
            parameter.normal_(generator=draw).mul_(0.1)
    transformer.to(torch.bfloat16).save_pretrained(folder / "transformer")
    save_file({name: t.to(torch.bfloat16) for name, t in lora.items()}, folder / CONTROL_LORA)
    return folder


def is_norm(name: str) -> bool:
    """Whether a parameter of diffusers' transformer is a q/k norm's weight."""
    return ".norm_" in name and "linear" not in name
