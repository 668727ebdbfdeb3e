"""The autoencoder's parts by the names of its makers' code, beside diffusers'.

`ae.safetensors`, the single file of FLUX's autoencoder, has the key layout of latent diffusion's
first autoencoders: blocks are numbered from the finest resolution on in the decoder, too, and
attention's linears are kept as 1x1 convolutions.

Source: the key names and shapes of ae.safetensors, and the modules of diffusers' AutoencoderKL.
Knows nothing of files or of torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: diffusers' name of a part, as a pattern, and what makes it the makers' name; the second argument
#: is the number of resolutions.
_RENAMED: tuple[tuple[str, Callable[[re.Match[str], int], str]], ...] = (
    (r"\.down_blocks\.(\d+)\.resnets\.", lambda m, _: f".down.{m[1]}.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", lambda m, _: f".down.{m[1]}.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", lambda m, n: f".up.{n - 1 - int(m[1])}.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m, n: f".up.{n - 1 - int(m[1])}.upsample."),
    (r"\.mid_block\.resnets\.(\d+)\.", lambda m, _: f".mid.block_{int(m[1]) + 1}."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", lambda _, __: ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", lambda m, _: f".mid.attn_1.{m[1]}."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", lambda _, __: ".mid.attn_1.proj_out."),
    (r"\.conv_shortcut\.", lambda _, __: ".nin_shortcut."),
    (r"\.conv_norm_out\.", lambda _, __: ".norm_out."),
)


def ldm_name(name: str, resolutions: int) -> str:
    """The makers' name of one of the autoencoder's tensors.

    Args:
        name: diffusers', such as `decoder.up_blocks.0.resnets.1.conv1.weight`.
        resolutions: how many there are; 4 for FLUX.
    """
    for pattern, rename in _RENAMED:
        found = re.search(pattern, name)
        if found:
            name = name[: found.start()] + rename(found, resolutions) + name[found.end() :]
    return name
