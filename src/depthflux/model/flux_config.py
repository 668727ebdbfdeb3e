"""FLUX.1-dev's configuration, component by component, for files that come without one.

A single file such as `flux1-dev.safetensors` holds weights only. What its diffusers folder says in
`config.json` stands here, in diffusers' and transformers' words.

Source: Black Forest Labs' published model definitions (width 3072, 19 double and 38 single blocks,
24 heads; autoencoder of 128 channels times 1, 2, 4, 4), CLIP ViT-L/14's and T5 v1.1 XXL's. A test
builds each module from it and counts: 11.90 billion parameters, 83.8, 123.1 and 4762 million.

Knows nothing of files or of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": True,
}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}

#: By component. Of a tokenizer from another repository only the length is replaced.
FLUX_CONFIG: Mapping[str, Mapping[str, Any]] = {
    "transformer": TRANSFORMER,
    "vae": VAE,
    "text_encoder": CLIP_L,
    "text_encoder_2": T5_XXL,
    "scheduler": SCHEDULER,
    "tokenizer": {"model_max_length": 77},
    "tokenizer_2": {"model_max_length": 512},
}
