"""Pictures of one colour, and what a decoder gets wrong in them. It knows nothing of scenes.

In a picture of one colour the group norms see no variance but that of the zero padding, and turn it
into casts and wrong corners unless the decoder learns not to. The encoder's norms do the same:
from grey 126 to 127, where its input passes zero, the latents move sixty times as far as from one
level to the next elsewhere. Levels near there are therefore drawn far more often than others.
"""

import random

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.utils import parametrize

# How large a plain picture is decides what the norms see, so all sizes come up: (height, width),
# share. The largest are those of practice, and dear.
_PIXELS = 2 * 512 * 512
_SIZES = (
    ((512, 512), 12),
    ((256, 256), 5),
    ((128, 128), 3),
    ((176, 352), 2),
    ((832, 432), 2),
    ((1024, 1024), 1),
    ((1632, 864), 1),
)
_GREY, _COLOUR, _GREY_RAMP, _COLOUR_RAMP = 0.8, 0.1, 0.06, 0.04
"""Shares of the kinds of plain pictures."""

# Of the greys: black and white, levels about the one where the latents jump, and any level.
_EXTREME, _NEAR_THE_JUMP = 0.15, 0.45
_JUMP, _REACH = 127, 12.0

# Adam moves every parameter by about its rate; the taps of corners are to go ten times as fast.
_CORNER_GAIN = 10.0

_CORNER, _FRAME = 4, 8
_CORNER_WEIGHT, _FRAME_WEIGHT, _CAST_WEIGHT = 0.1, 0.2, 1.0


class PlainPictures:
    """An endless supply of plain pictures with their latents."""

    def __init__(self, vae: AutoencoderKL, seed: int) -> None:
        self.vae, self.random = vae, random.Random(seed)

    @torch.no_grad()
    def batch(self) -> tuple[Tensor, Tensor]:
        """Latents [B, 16, H/16, W/16], half of them noisy, and pictures [B, 3, H, W] of one size.

        B is such that all batches cost about the same.
        """
        sizes, shares = zip(*_SIZES, strict=True)
        height, width = self.random.choices(sizes, weights=shares)[0]
        count = min(max(_PIXELS // (height * width), 1), 4)
        pictures = torch.stack([self._picture(height, width) for _ in range(count)])
        latents = self.vae.encode(pictures).latent_dist
        noise = self.random.random() < 0.5
        return latents.sample() if noise else latents.mean, pictures

    def _picture(self, height: int, width: int) -> Tensor:
        """One picture [3, H, W], -1..1: of one colour, or an even ramp between two."""
        kinds = (_GREY, _COLOUR, _GREY_RAMP, _COLOUR_RAMP)
        kind = self.random.choices(range(len(kinds)), weights=kinds)[0]
        colour = self._grey if kind % 2 == 0 else self._colour
        first = colour()
        last = colour() if kind >= 2 else first
        along = torch.linspace(0, 1, height)[:, None].expand(height, width)
        if self.random.random() < 0.5:
            along = torch.linspace(0, 1, width)[None].expand(height, width)
        return torch.lerp(first.expand(3, height, width), last.expand(3, height, width), along)

    def _grey(self) -> Tensor:
        """A grey [3, 1, 1] of one of the 256 levels that a picture file can have."""
        kind = self.random.random()
        level = float(self.random.randrange(256))
        if kind < _EXTREME:
            level = self.random.choice((0.0, 255.0))
        elif kind < _EXTREME + _NEAR_THE_JUMP:
            level = float(round(self.random.gauss(_JUMP, _REACH)))
        return torch.full((3, 1, 1), level / 127.5 - 1)

    def _colour(self) -> Tensor:
        return torch.tensor([self.random.uniform(-1, 1) for _ in range(3)])[:, None, None]


class CornerTaps(nn.Module):
    """A 3x3 convolution's weight plus a part that acts in the picture's four corners alone.

    Zero padding takes away two taps of three at an edge and five of nine in a corner; a decoder
    learns the first, but a corner is one pixel. The part added here is a difference of differences,
    along rows and along columns: zero wherever its input is even, zero at an edge, and a single tap
    in a corner. So corners can be learned fast while the rest of a plain picture does not move.

    Attributes:
        taps: float32 [out, in, 4], for the upper left, upper right, lower left, lower right corner.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(*weight.shape[:2], 4))
        upper_left = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        upper = torch.stack([upper_left, upper_left.flip(1)])
        self.register_buffer("stencils", torch.cat([upper, upper.flip(1)]), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The whole weight [out, in, 3, 3]."""
        return weight + _CORNER_GAIN * torch.einsum("oik,kyx->oiyx", self.taps, self.stencils)


def with_corner_taps(vae: AutoencoderKL) -> AutoencoderKL:
    """Gives CornerTaps to the convolutions at full size, where wrong corners come from."""
    for convolution in _full_size_convolutions(vae):
        taps = CornerTaps(convolution.weight)
        parametrize.register_parametrization(convolution, "weight", taps)
    return vae


def merge_corner_taps(vae: AutoencoderKL) -> AutoencoderKL:
    """Makes plain convolutions again of what `with_corner_taps` made, with the same answers."""
    for convolution in _full_size_convolutions(vae):
        parametrize.remove_parametrizations(convolution, "weight")
    return vae


def _full_size_convolutions(vae: AutoencoderKL) -> list[nn.Conv2d]:
    decoder = vae.decoder
    parts = (decoder.up_blocks[-2].upsamplers, decoder.up_blocks[-1], decoder.conv_out)
    return [
        module
        for part in parts
        for module in part.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]


def border_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Error of two batches [B, 3, H, W] in the outermost pixels, most of all in the corners.

    Corners are a few pixels in hundreds of thousands: in a mean over the picture they do not count.
    """
    error = made - wanted
    ends = torch.cat([error[..., :_CORNER, :], error[..., -_CORNER:, :]], dim=-2)
    corners = torch.cat([ends[..., :_CORNER], ends[..., -_CORNER:]], dim=-1)
    sides = (
        error[..., :_FRAME, :],
        error[..., -_FRAME:, :],
        error[..., :_FRAME],
        error[..., -_FRAME:],
    )
    frame = torch.stack([side.abs().mean() for side in sides]).mean()
    return (
        _FRAME_WEIGHT * frame
        + _CORNER_WEIGHT * corners.abs().mean()
        + _CORNER_WEIGHT * 4 * corners.square().mean()
    )


def cast_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """How far the mean of each channel of [B, 3, H, W] is off: a cast, or a wrong brightness."""
    return _CAST_WEIGHT * (made - wanted).mean(dim=(2, 3)).abs().mean()
