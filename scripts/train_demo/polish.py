"""Goes on with a trained decoder until greys stay grey and corners are right: the last touch."""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from train_demo.plain import (
    PlainPictures,
    border_loss,
    cast_loss,
    merge_corner_taps,
    with_corner_taps,
)
from train_demo.vae import FineCrops, decibels, decoder_trainer, picture_loss

# Whole pictures only: a crop's norms and corners are not those of use.
_CELLS = 32

# What the last convolution is fitted to: so many scenes, greys of every fourth level, and how much
# the greys count. Beyond that weight greys gain nothing and scenes lose.
_FITTED_SCENES, _FITTED_LEVELS = 32, (*range(0, 256, 4), 255)
_FITTED_GREY_WEIGHT = 3.0


def polish_decoder(
    vae: AutoencoderKL, crops: FineCrops, plain: PlainPictures, checkpoint: Path, budget_s: float
) -> AutoencoderKL:
    """Goes on with a trained decoder at low rates, for greys and corners.

    Scenes go along so that the decoder does not forget what else it knows.

    Args:
        vae: as shipped; its encoder stays as it is.
        crops: scenes with their latents.
        plain: pictures of one colour with their latents.
        checkpoint: written every 50 steps, and read if it exists.
        budget_s: seconds, over all resumptions.

    Returns:
        The averaged model.
    """
    with_corner_taps(vae)
    trainer = decoder_trainer(vae, budget_s, muon=1e-3, adamw=5e-4, decay=0.99)
    trainer.resume(checkpoint)
    while (share := trainer.share) < 1:
        latents, wanted = crops.batch(1, _CELLS)
        made = vae.decode(latents, return_dict=False)[0]
        loss = picture_loss(made, wanted, square=1.0) + border_loss(made, wanted)
        plain_latents, plain_wanted = plain.batch()
        made_plain = vae.decode(plain_latents, return_dict=False)[0]
        loss = loss + picture_loss(made_plain, plain_wanted, square=4.0)
        loss = loss + border_loss(made_plain, plain_wanted) + cast_loss(made_plain, plain_wanted)
        trainer.step(loss, warm_steps=40, flat=0.15, floor=0.01)
        if trainer.steps % 25 == 0:
            error = decibels(made, wanted), decibels(made_plain, plain_wanted)
            print(
                f"{trainer.steps} share {share:.3f} loss {loss.item():.4f}"
                f" psnr {error[0]:.2f} plain {error[1]:.2f}"
            )
        if trainer.steps % 50 == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    polished = merge_corner_taps(trainer.average)
    fit_last_convolution(polished, crops)
    return polished


@torch.no_grad()
def fit_last_convolution(vae: AutoencoderKL, crops: FineCrops) -> None:
    """Adds to the last convolution's middle taps and bias what least squares ask for.

    Training leaves each level of grey a small cast of its own. The last layer is linear, so its
    best change has a closed form; scenes are fitted along with greys.

    Args:
        vae: changed in place.
        crops: the source of scenes.
    """
    seen: list[Tensor] = []
    last = vae.decoder.conv_out
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    inputs = last.in_channels + 1
    squares = torch.zeros(inputs, inputs, dtype=torch.float64)
    products = torch.zeros(inputs, last.out_channels, dtype=torch.float64)
    for latents, wanted, weight in _fitted(vae, crops):
        error = (wanted - vae.decode(latents, return_dict=False)[0])[0].flatten(1)
        features = seen.pop()[0].flatten(1)
        features = torch.cat([features, torch.ones_like(features[:1])])
        squares += weight / error.shape[1] * (features @ features.T).double()
        products += weight / error.shape[1] * (features @ error.T).double()
    hook.remove()
    change = torch.linalg.solve(squares + 1e-9 * torch.eye(inputs), products).float()
    last.weight[:, :, 1, 1] += change[:-1].T
    last.bias += change[-1]


def _fitted(vae: AutoencoderKL, crops: FineCrops) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Latents [1, 16, 32, 32], pictures [1, 3, 512, 512] and how much each counts."""
    for _ in range(_FITTED_SCENES):
        yield *crops.batch(1, _CELLS), 1 / _FITTED_SCENES
    for level in _FITTED_LEVELS:
        grey = torch.full((1, 3, 16 * _CELLS, 16 * _CELLS), level / 127.5 - 1)
        latents = vae.encode(grey).latent_dist.mean
        yield latents, grey, _FITTED_GREY_WEIGHT / len(_FITTED_LEVELS)
