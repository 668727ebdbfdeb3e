"""What a picture is conditioned on: the prompt's embeddings, the control image's distribution.

These depend on the encoders only, never on the transformer's weights, the seed or the step. What
the transformer makes of them before the loop is depthflux.engine.constants'.

Knows nothing of noise or steps taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from depthflux.model.loading import Model


@dataclass(frozen=True)
class PromptEmbedding:
    """A prompt as the transformer reads it.

    Attributes:
        text: the prompt.
        tokens: T5's hidden states, [1, T, joint width]; T is 512 for FLUX.
        pooled: CLIP's pooled vector, [1, pooled width].
        cut: the end of the prompt that did not fit into T tokens, in its own characters; empty
            where all of it did.
    """

    text: str
    tokens: torch.Tensor
    pooled: torch.Tensor
    cut: str


@dataclass(frozen=True)
class Conditioning:
    """What one request's denoising is conditioned on.

    Attributes:
        prompt: the prompt's embeddings.
        control: distribution of the control image's latents, [1, C, h, w]; a picture's own seed
            draws from it, so it is kept rather than one sample.
        guidance_scale: how closely the prompt is followed; a model without that input ignores it.
        sigmas: noise levels before the shift, float64 [steps], from 1 to 1/steps.
        shift: the schedule's shift mu for this many tokens.
        height: latent rows h.
        width: latent columns w.
    """

    prompt: PromptEmbedding
    control: Any
    guidance_scale: float
    sigmas: np.ndarray
    shift: float
    height: int
    width: int


def encode_prompt(model: Model, prompt: str) -> PromptEmbedding:
    """Encode a prompt with both text encoders, padded to the model's full length.

    What exceeds T5's length is cut and told in `cut`; CLIP sees its first 77 tokens only, by
    FLUX's design, and that is not told. A prompt that spells out a special token, such as `</s>`
    or `<|endoftext|>`, gets that token, as it does in diffusers.
    """
    device = model.placement.device
    clip_ids = _tokenize(model.tokenizer, prompt, model.tokenizer.model_max_length)
    pooled = model.text_encoder(clip_ids.to(device), output_hidden_states=False).pooler_output
    t5_ids = _tokenize(model.tokenizer_2, prompt, model.max_prompt_tokens)
    tokens = model.text_encoder_2(t5_ids.to(device), output_hidden_states=False)[0]
    return PromptEmbedding(prompt, tokens, pooled, _cut_text(model, prompt))


def encode_control(model: Model, control: np.ndarray) -> Any:
    """Encode the control image to the distribution of its latents.

    Args:
        model: whose VAE encodes.
        control: float32 [H, W], near = 1 and far = -1 (unbounded for `bfl_raw`).

    Returns:
        diffusers' DiagonalGaussianDistribution over [1, C, h, w], in the VAE's own latent scale.
    """
    # The three channels are copies laid out one after another: a broadcast view or channels-last
    # strides would take another convolution kernel and other last bits than diffusers' pipeline.
    pixels = torch.from_numpy(control)[None, None].repeat(1, 3, 1, 1).contiguous()
    pixels = pixels.to(device=model.placement.device, dtype=model.placement.dtype)
    return model.vae.encode(pixels).latent_dist


def condition(
    model: Model, prompt: PromptEmbedding, control: Any, *, steps: int, guidance_scale: float
) -> Conditioning:
    """Put together what a request's pictures are conditioned on."""
    height, width = control.mean.shape[-2:]
    tokens = (height // 2) * (width // 2)
    return Conditioning(
        prompt=prompt,
        control=control,
        guidance_scale=guidance_scale,
        sigmas=np.linspace(1.0, 1 / steps, steps),
        shift=schedule_shift(model.scheduler.config, tokens=tokens),
        height=height,
        width=width,
    )


def schedule_shift(config: Any, *, tokens: int) -> float:
    """The shift mu of the noise schedule: linear in the number of image tokens.

    Larger pictures keep more of their structure at the same noise level, so their schedule spends
    more steps at high noise. Source: Esser et al., arXiv:2403.03206, section 5.3.2; FLUX.1-dev's
    scheduler_config.json has 0.5 at 256 tokens and 1.15 at 4096.
    """
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    # In this order of operations, since the reference promises diffusers' last bit.
    return float(tokens * slope + (config["base_shift"] - slope * low))


def _tokenize(tokenizer: Any, prompt: str, length: int) -> torch.Tensor:
    """Token ids, int64 [1, length]: cut and padded."""
    ids = tokenizer(
        [prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return torch.as_tensor(ids)


def _cut_text(model: Model, prompt: str) -> str:
    """The end of a prompt that is beyond the model's T5 length; empty where all of it fits."""
    # verbose: transformers would warn about a long prompt; ours stands in the record.
    whole = model.tokenizer_2(prompt, verbose=False, return_offsets_mapping=True)
    if len(whole.input_ids) <= model.max_prompt_tokens:
        return ""
    # The last token that the model reads is the end of the sequence. Decoding the rest would turn
    # every character that T5 does not know into <unk>; its place in the prompt keeps it.
    start, _ = whole.offset_mapping[model.max_prompt_tokens - 1]
    return prompt[start:]
