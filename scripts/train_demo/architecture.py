"""Every module of the demo pipeline, and the folder that holds them. It knows nothing of training.

The classes are FLUX.1-dev's own, the sizes are not. `write_untrained` writes a complete seeded
folder, for tests and as the frame into which each finished training stage puts its weights.

    model_index.json  scheduler/  tokenizer/  tokenizer_2/  text_encoder/  text_encoder_2/
    transformer/  vae/  depth_estimator/  control_lora.safetensors  demo.json
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    T5Config,
    T5EncoderModel,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from train_demo.grammar import COLOURS, PALETTE, SHAPES
from train_demo.tokenization import (
    CLIP_MAX_LENGTH,
    T5_MAX_LENGTH,
    build_clip_tokenizer,
    build_t5_tokenizer,
)

LATENT_CHANNELS = 16
PACKED_CHANNELS = 64
"""Channels of one token: 16 latent channels of 2 by 2 cells, as in FLUX."""

# Half precision halves the download; float16 keeps three bits more than bfloat16 and the weights
# are small.
STORED_DTYPE = torch.float16


@dataclass(frozen=True)
class Size:
    """The widths and depths of one miniature.

    Attributes:
        heads: attention heads of the transformer; with head_width they give its width.
        head_width: width of one head, the sum of rope_axes.
        double_blocks: blocks with separate text and image streams.
        single_blocks: blocks with one joint stream.
        rope_axes: rotary dimensions for (unused, row, column).
        text_width: width of both text encoders.
        text_layers: layers of both text encoders.
        vae_channels: channels of each resolution, finest first, for 16x compression; 8x drops the
            first.
        lora_rank: rank of the control LoRA.
        depth_width: width of the depth estimator's backbone.
        depth_layers: layers of that backbone.
        depth_pixels: side of the square the depth estimator sees, a multiple of 14.
    """

    heads: int
    head_width: int
    double_blocks: int
    single_blocks: int
    rope_axes: tuple[int, int, int]
    text_width: int
    text_layers: int
    vae_channels: tuple[int, ...]
    lora_rank: int
    depth_width: int
    depth_layers: int
    depth_pixels: int


SIZES = {
    "tiny": Size(2, 16, 1, 1, (4, 6, 6), 32, 1, (8, 8, 8, 16, 16), 8, 32, 4, 56),
    "demo": Size(6, 32, 2, 4, (4, 14, 14), 128, 2, (16, 16, 32, 64, 128), 64, 128, 6, 252),
}


def build_transformer(size: Size) -> FluxTransformer2DModel:
    """FLUX's transformer with guidance embedding: [B, S, 64] packed latents in and out."""
    return FluxTransformer2DModel(
        in_channels=PACKED_CHANNELS,
        num_layers=size.double_blocks,
        num_single_layers=size.single_blocks,
        attention_head_dim=size.head_width,
        num_attention_heads=size.heads,
        joint_attention_dim=size.text_width,
        pooled_projection_dim=size.text_width,
        guidance_embeds=True,
        axes_dims_rope=size.rope_axes,
    )


def build_vae(size: Size, vae_scale_factor: int = 16) -> AutoencoderKL:
    """An autoencoder of 16 latent channels without attention, `vae_scale_factor` pixels a cell."""
    channels = {16: size.vae_channels, 8: size.vae_channels[1:]}[vae_scale_factor]
    levels = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def build_clip(size: Size) -> CLIPTextModel:
    """CLIP's text model; FLUX takes its pooled output, [B, text_width]."""
    tokenizer = build_clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.text_width,
            intermediate_size=2 * size.text_width,
            projection_dim=size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=4,
            max_position_embeddings=CLIP_MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_t5(size: Size) -> T5EncoderModel:
    """T5's encoder; FLUX takes its last hidden state, [B, 32, text_width]."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(build_t5_tokenizer()),
            d_model=size.text_width,
            d_kv=size.text_width // 4,
            d_ff=2 * size.text_width,
            num_layers=size.text_layers,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def build_depth_estimator(size: Size) -> DepthAnythingForDepthEstimation:
    """Depth Anything over DINOv2, patch 14: pixels [B, 3, H, W] in, disparity [B, H, W] out."""
    layers, width = size.depth_layers, size.depth_width
    backbone = Dinov2Config(
        image_size=size.depth_pixels,
        patch_size=14,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        mlp_ratio=3,
        out_indices=[layers - 3, layers - 2, layers - 1, layers],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    neck = [width // 4, width // 2, width // 2, width]
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=14,
            reassemble_hidden_size=width,
            neck_hidden_sizes=neck,
            fusion_hidden_size=width // 4,
            head_hidden_size=16,
        )
    )


def build_depth_processor(size: Size) -> DPTImageProcessorPil:
    """Depth Anything's own preprocessing, on PIL whether or not torchvision is there."""
    return DPTImageProcessorPil(
        size={"height": size.depth_pixels, "width": size.depth_pixels},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        do_resize=True,
        do_rescale=True,
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's scheduler: the shift grows with the number of tokens."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def lora_targets(transformer: FluxTransformer2DModel) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear of the transformer by name: FLUX's control LoRA adapts them all."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def untrained_lora(
    transformer: FluxTransformer2DModel, rank: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """A small random control LoRA in diffusers' layout; x_embedder reads 128 channels."""
    state: dict[str, torch.Tensor] = {}
    for name, linear in lora_targets(transformer):
        inputs = 2 * PACKED_CHANNELS if name == "x_embedder" else linear.in_features
        down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        up = torch.randn(linear.out_features, rank, generator=generator) * 0.1 / rank**0.5
        state[f"transformer.{name}.lora_A.weight"] = down
        state[f"transformer.{name}.lora_B.weight"] = up
    return state


def write_untrained(
    folder: Path,
    *,
    seed: int = 0,
    vae_scale_factor: int = 8,
    size: Literal["tiny", "demo"] = "tiny",
) -> Path:
    """Writes a complete pipeline with seeded random weights.

    Args:
        folder: made if missing; files in it are replaced.
        seed: the same seed gives the same weights.
        vae_scale_factor: pixels a latent cell spans, 8 as in FLUX or 16 as in the trained demo.
        size: "tiny" for tests (about 1 MB), "demo" for the sizes of the trained demo.

    Returns:
        The folder.
    """
    chosen = SIZES[size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = build_transformer(chosen)
        write_module(build_vae(chosen, vae_scale_factor), folder / "vae")
        write_module(build_clip(chosen), folder / "text_encoder")
        write_module(build_t5(chosen), folder / "text_encoder_2")
        write_module(build_depth_estimator(chosen), folder / "depth_estimator")
    write_module(transformer, folder / "transformer")
    lora = untrained_lora(transformer, chosen.lora_rank, torch.Generator().manual_seed(seed))
    write_lora(lora, folder)
    write_frame(folder, chosen)
    return folder


def write_frame(folder: Path, size: Size) -> None:
    """Writes all that is not learned: index, scheduler, tokenizers, depth preprocessing."""
    build_scheduler().save_pretrained(folder / "scheduler")
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    build_depth_processor(size).save_pretrained(folder / "depth_estimator")
    index = {
        "_class_name": "FluxControlPipeline",
        "_diffusers_version": "0.32.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(index, folder / "model_index.json")
    write_card(folder, {"trained": False})


def write_card(folder: Path, training: dict[str, object]) -> None:
    """Writes demo.json: what this model is and what its prompts may say."""
    card = {
        "name": "depthflux/demo",
        "palette": {name: list(PALETTE[name]) for name in COLOURS},
        "shapes": list(SHAPES),
        "clip_max_length": CLIP_MAX_LENGTH,
        "t5_max_length": T5_MAX_LENGTH,
        "training": training,
    }
    write_json(card, folder / "demo.json")


def write_json(content: object, path: Path) -> None:
    """Writes JSON in one move, so that a reader never sees half a file."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_module(module: nn.Module, folder: Path) -> None:
    """Saves a module's configuration and its weights in STORED_DTYPE, each file in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as staging:
        kept = {name: value.dtype for name, value in module.state_dict().items()}
        original = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.to(STORED_DTYPE).save_pretrained(staging)
        module.to(next(iter(kept.values())))
        module.load_state_dict(original)
        for path in Path(staging).iterdir():
            path.chmod(0o644)  # safetensors makes files that only their owner can read
            os.replace(path, folder / path.name)


def write_lora(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Saves a control LoRA as control_lora.safetensors in STORED_DTYPE, in one move."""
    temporary = folder / "control_lora.safetensors.partial"
    save_file(
        {name: value.to(STORED_DTYPE).contiguous() for name, value in state.items()}, temporary
    )
    temporary.chmod(0o644)
    temporary.replace(folder / "control_lora.safetensors")
