"""Trains the autoencoder in two parts. It knows pictures and latents, nothing of prompts.

One latent cell spans 16 pixels, so 512 pixels cost the transformer 256 tokens. Five levels trained
at once learn slowly, therefore the finest level comes last:

1. `train_inner`: level 0 is bypassed. The encoder's first level is *set* to average 2 by 2 pixels,
   so four levels learn an 8x autoencoder of half-size pictures, at a quarter of the cost. After
   this the encoder is final and the other stages can start.
2. `train_outer`: the decoder alone learns to draw at full size from the now fixed latents.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from train_demo.architecture import LATENT_CHANNELS
from train_demo.optimisation import Trainer
from train_demo.pictures import Shelf, Stored
from train_demo.plain import PlainPictures

_DEPTH_SHARE = 0.25
"""Depth maps are a quarter of what the autoencoder learns on: the control passes through it too."""

# A plain picture goes with every scene of the second part; `plain` says why.
_PLAIN_WEIGHT = 0.5

# Weight of the divergence from a unit Gaussian, per latent value: keeps the latents Gaussian-like.
_DIVERGENCE = 1e-3
# Noise added to the latents, up to this share of their spread. Without it the encoder hides detail
# in amplitudes of half a percent, where no flow model can hit them.
_LATENT_NOISE = 0.15
_SPREAD_SAMPLE = 48


def pooled_moments(vae: AutoencoderKL, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the latents of pictures that were already averaged 2 by 2.

    Args:
        vae: an autoencoder of 16x compression whose first level averages.
        pooled: float32 [B, 3, H/2, W/2], -1..1.

    Returns:
        Two tensors float32 [B, 16, H/16, W/16].
    """
    encoder = vae.encoder
    hidden = functional.conv2d(pooled, _lift(vae), encoder.down_blocks[0].downsamplers[0].conv.bias)
    for block in encoder.down_blocks[1:]:
        hidden = block(hidden)
    hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(hidden))))
    mean, log_variance = hidden.chunk(2, dim=1)
    return mean, log_variance.clamp(-20, 5)


def _lift(vae: AutoencoderKL) -> Tensor:
    """The level-0 downsampler read as a 1x1 convolution [C, 3, 1, 1] of the averaged picture."""
    taps = vae.encoder.down_blocks[0].downsamplers[0].conv.weight[:, :3, :2, :2]
    return taps.sum(dim=(2, 3), keepdim=True)


def pooled_decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The half-size picture [B, 3, H/2, W/2] that the inner levels make of latents."""
    decoder = vae.decoder
    hidden = decoder.mid_block(decoder.conv_in(latents))
    for block in decoder.up_blocks[:-2]:
        hidden = block(hidden)
    for resnet in decoder.up_blocks[-2].resnets:
        hidden = resnet(hidden, temb=None)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))


@torch.no_grad()
def initialise(vae: AutoencoderKL) -> None:
    """Weights that carry the picture through from the first step.

    diffusers' default shrinks the signal level by level and training stalls. Here every convolution
    keeps the variance, every residual branch starts small and every change of size starts as an
    average or a copy.
    """
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            gain = 0.2 if name.endswith("conv2") else 1.0
            nn.init.normal_(module.weight, std=gain / fan_in**0.5)
            nn.init.zeros_(module.bias)
            if name.endswith("conv_shortcut"):
                nn.init.orthogonal_(module.weight)
            if "samplers" in name:
                module.weight.mul_(0.3)
                stride = module.stride[0]
                kernel = _AVERAGE if stride == 2 else _SMOOTH
                index = range(module.weight.shape[0])
                module.weight[index, index] += kernel
    _fix_first_level(vae)


_AVERAGE = torch.tensor([[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0, 0.0, 0.0]])
_SMOOTH = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def _fix_first_level(vae: AutoencoderKL) -> None:
    """Makes level 0 exactly "average 2 by 2, then a linear map of the colours"."""
    encoder = vae.encoder
    encoder.conv_in.weight.zero_()
    encoder.conv_in.bias.zero_()
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1.0
    for resnet in encoder.down_blocks[0].resnets:
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
    convolution = encoder.down_blocks[0].downsamplers[0].conv
    lift = torch.randn(convolution.weight.shape[0], 3)
    _set_lift(convolution, lift)
    for resnet in vae.decoder.up_blocks[-1].resnets:
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
    upsample = vae.decoder.up_blocks[-2].upsamplers[0].conv
    upsample.weight.zero_()
    index = range(upsample.weight.shape[0])
    upsample.weight[index, index] += _SMOOTH


def _set_lift(convolution: nn.Conv2d, lift: Tensor) -> None:
    convolution.weight.zero_()
    convolution.weight[:, :3, :2, :2] = lift[:, :, None, None] / 4


@torch.no_grad()
def even_channels(vae: AutoencoderKL, spread: Tensor) -> None:
    """Divides each latent channel by its `spread` [16] and undoes that in the decoder."""
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    last.weight[:LATENT_CHANNELS] /= spread[:, None, None, None]
    last.bias[:LATENT_CHANNELS] /= spread
    last.bias[LATENT_CHANNELS:] -= 2 * spread.log()
    first.weight *= spread[None, :, None, None]


@torch.no_grad()
def tidy_first_level(vae: AutoencoderKL) -> None:
    """Puts the trained colour map back into the form of an exact average.

    Training sees only the sum of the level-0 taps, so the optimiser may have moved them apart.
    """
    convolution = vae.encoder.down_blocks[0].downsamplers[0].conv
    _set_lift(convolution, _lift(vae)[:, :, 0, 0].clone())


class Crops:
    """Random square crops of pictures and depth maps from several shelves."""

    def __init__(self, shelves: list[tuple[Shelf, Stored]], seed: int) -> None:
        self.shelves, self.random = shelves, random.Random(seed)
        self.weights = [shelf.count for shelf, _ in shelves]

    def batch(self, count: int, side: int) -> Tensor:
        """Crops float32 [count, 3, side, side], -1..1, mirrored at random, a quarter depth maps."""
        crops = [self._crop(side, depth=index < count * _DEPTH_SHARE) for index in range(count)]
        batch = torch.stack(crops).float() / 127.5 - 1
        return batch.contiguous(memory_format=torch.channels_last)

    def _crop(self, side: int, *, depth: bool) -> Tensor:
        shelf, stored = self.random.choices(self.shelves, weights=self.weights)[0]
        tall, wide = min(side, shelf.height), min(side, shelf.width)
        index = self.random.randrange(shelf.count)
        # Crops of nothing but floor or sky teach little; look for a livelier one a few times.
        for _ in range(4):
            top = self.random.randrange(0, shelf.height - tall + 1)
            left = self.random.randrange(0, shelf.width - wide + 1)
            window = slice(top, top + tall), slice(left, left + wide)
            region = stored.region[index][window]
            if region.min() != region.max():
                break
        pixels = (
            stored.control[index][window][None].repeat(3, 0)
            if depth
            else stored.colour[index][:, *window]
        )
        tensor = torch.from_numpy(pixels.copy())
        return tensor.flip(-1) if self.random.random() < 0.5 else tensor


def picture_loss(made: Tensor, wanted: Tensor, *, square: float) -> Tensor:
    """Absolute, squared, gradient and coarse differences of two batches [B, 3, H, W]."""
    error = made - wanted
    down, across = error.diff(dim=-2), error.diff(dim=-1)
    coarse = functional.avg_pool2d(error, 4)
    return (
        error.abs().mean()
        + square * error.square().mean()
        + 0.7 * (down.abs().mean() + across.abs().mean())
        + 0.5 * coarse.abs().mean()
    )


def decibels(made: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio of two batches in -1..1."""
    return -10 * torch.log10((made.detach().clamp(-1, 1) - wanted).square().mean() / 4).item()


@dataclass(frozen=True)
class Pace:
    """How large the crops are while the share of time used is below `until`."""

    until: float
    count: int
    side: int


INNER_PACE = (Pace(0.55, 16, 64), Pace(0.88, 6, 112), Pace(1.01, 2, 176))


def inner_trainer(vae: AutoencoderKL, budget_s: float) -> Trainer:
    """The optimisers of the first part: Muon for 3x3 convolutions, AdamW for the rest."""
    outer = (vae.encoder.conv_in, vae.encoder.down_blocks[0].resnets, vae.decoder.up_blocks[-1])
    for module in (*outer, vae.decoder.up_blocks[-2].upsamplers):
        module.requires_grad_(False)
    names = ("conv1.weight", "conv2.weight", "samplers.0.conv.weight", "decoder.conv_in.weight")
    matrices = [
        parameter
        for name, parameter in vae.named_parameters()
        if parameter.requires_grad
        and name.endswith(names)
        and not name.startswith("encoder.down_blocks.0")
    ]
    return Trainer(vae, matrices, muon=6e-3, adamw=3e-3, decay=0.99, budget_s=budget_s)


def train_inner(
    vae: AutoencoderKL, crops: Crops, checkpoint: Path, budget_s: float
) -> AutoencoderKL:
    """Trains the four inner levels until the time is used; returns the averaged model."""
    trainer = inner_trainer(vae, budget_s)
    trainer.resume(checkpoint)
    while (share := trainer.share) < 1:
        pace = next(pace for pace in INNER_PACE if share < pace.until)
        wanted = crops.batch(pace.count, pace.side)
        mean, log_variance = pooled_moments(vae, wanted)
        extra = torch.rand(pace.count, 1, 1, 1) * _LATENT_NOISE
        latents = mean + torch.randn_like(mean) * ((0.5 * log_variance).exp() + extra)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        made = pooled_decode(vae, latents)
        loss = picture_loss(made, wanted, square=1.0) + _DIVERGENCE * divergence
        trainer.step(loss, flat=0.5)
        if trainer.steps % 50 == 0:
            print(
                f"{trainer.steps} share {share:.3f} loss {loss.item():.4f}"
                f" psnr {decibels(made, wanted):.2f} kl {divergence.item():.2f}"
            )
        if trainer.steps % 200 == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    return trainer.average


@torch.no_grad()
def picture_spread(vae: AutoencoderKL, shelf: Shelf, stored: Stored) -> Tensor:
    """Standard deviation [16] of each latent channel over some pictures of a shelf."""
    count = min(_SPREAD_SAMPLE, shelf.count)
    pooled = torch.from_numpy(stored.colour[:count].copy()).float() / 127.5 - 1
    return pooled_moments(vae, pooled)[0].std(dim=(0, 2, 3))


class FineCrops:
    """Crops at full size with the latents of the whole half-size picture around them."""

    def __init__(self, vae: AutoencoderKL, shelf: Shelf, stored: Stored, seed: int) -> None:
        self.vae, self.shelf, self.stored, self.random = vae, shelf, stored, random.Random(seed)
        self.known: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def batch(self, count: int, cells: int) -> tuple[Tensor, Tensor]:
        """Latents [count, 16, cells, cells] and the pictures of 16 times that side."""
        latents, wanted = zip(*(self._crop(cells) for _ in range(count)), strict=True)
        pictures = torch.stack(wanted).contiguous(memory_format=torch.channels_last)
        return torch.stack(latents), pictures

    def _crop(self, cells: int) -> tuple[Tensor, Tensor]:
        picture, (mean, log_variance) = self._picture()
        extra = self.random.random() * _LATENT_NOISE
        noisy = mean + torch.randn_like(mean) * ((0.5 * log_variance).exp() + extra)
        top = self.random.randrange(self.shelf.height // 16 - cells + 1)
        left = self.random.randrange(self.shelf.width // 16 - cells + 1)
        window = slice(16 * top, 16 * (top + cells)), slice(16 * left, 16 * (left + cells))
        return noisy[0, :, top : top + cells, left : left + cells], picture[:, *window]

    def _picture(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A whole picture or depth map [3, H, W] and its moments, which are kept."""
        index = self.random.randrange(self.shelf.count)
        depth = self.random.random() < _DEPTH_SHARE
        source = (
            self.stored.control[index][None].repeat(3, 0) if depth else self.stored.colour[index]
        )
        picture = torch.from_numpy(source.copy()).float() / 127.5 - 1
        if (index, depth) not in self.known:
            pooled = functional.avg_pool2d(picture[None], 2)
            self.known[index, depth] = pooled_moments(self.vae, pooled)
        return picture, self.known[index, depth]


# Group norms see whole pictures in use but crops in training; the last crops are therefore whole.
OUTER_PACE = (Pace(0.5, 4, 12), Pace(1.01, 1, 32))


def decoder_trainer(
    vae: AutoencoderKL, budget_s: float, *, muon: float, adamw: float, decay: float
) -> Trainer:
    """The optimisers of the decoder alone: Muon for 3x3 convolutions, AdamW for the rest."""
    vae.encoder.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    matrices = [
        parameter
        for name, parameter in vae.decoder.named_parameters()
        if name.endswith(("conv1.weight", "conv2.weight", "samplers.0.conv.weight"))
    ]
    return Trainer(vae, matrices, muon=muon, adamw=adamw, decay=decay, budget_s=budget_s)


def train_outer(
    vae: AutoencoderKL, crops: FineCrops, plain: PlainPictures, checkpoint: Path, budget_s: float
) -> AutoencoderKL:
    """Trains the decoder at full size, `side` in latent cells; returns the averaged model."""
    trainer = decoder_trainer(vae, budget_s, muon=2.5e-3, adamw=1.2e-3, decay=0.99)
    trainer.resume(checkpoint)
    while (share := trainer.share) < 1:
        pace = next(pace for pace in OUTER_PACE if share < pace.until)
        latents, wanted = crops.batch(pace.count, pace.side)
        made = vae.decode(latents, return_dict=False)[0]
        loss = picture_loss(made, wanted, square=1.0)
        plain_latents, plain_wanted = plain.batch()
        made_plain = vae.decode(plain_latents, return_dict=False)[0]
        loss = loss + _PLAIN_WEIGHT * picture_loss(made_plain, plain_wanted, square=4.0)
        trainer.step(loss, flat=0.4)
        if trainer.steps % 25 == 0:
            error = decibels(made, wanted), decibels(made_plain, plain_wanted)
            print(
                f"{trainer.steps} share {share:.3f} loss {loss.item():.4f}"
                f" psnr {error[0]:.2f} plain {error[1]:.2f}"
            )
        if trainer.steps % 100 == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    return trainer.average
