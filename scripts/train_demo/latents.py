"""Stores of encoded pictures and depth maps, made once from drawn ones. It knows no prompts."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from train_demo.architecture import LATENT_CHANNELS
from train_demo.pictures import Shelf, Stored, open_shelf
from train_demo.render import FIRST_OBJECT_REGION
from train_demo.scenes import Scene, mirrored
from train_demo.vae import pooled_moments

# Estimated depth is softer than exact depth: this share of controls is blurred and slightly noisy.
_SOFT_SHARE = 0.3
_CHUNK = 10


@dataclass(frozen=True)
class LatentShelf:
    """Latents of one shelf.

    Attributes:
        shelf: where the scenes come from.
        sides: 2 where mirrored pictures were encoded too, else 1.
        colour: float16 [N, sides, 16, h, w], means.
        control: the same for depth maps, or None if not encoded.
        done: how many scenes are encoded.
        region: uint8 [N, H, W] of the drawn pictures, or None where nobody asked for it.
    """

    shelf: Shelf
    sides: int
    colour: NDArray[np.float16]
    control: NDArray[np.float16] | None
    done: int
    region: NDArray[np.uint8] | None = None

    def scene(self, index: int, *, mirror: bool) -> Scene:
        """The scene of one picture."""
        scene = self.shelf.scene(index)
        return mirrored(scene) if mirror else scene

    def pick(self, count: int, rng: random.Random) -> list[tuple[int, bool]]:
        """Random (scene, mirrored) pairs."""
        return [(rng.randrange(self.done), rng.randrange(self.sides) == 1) for _ in range(count)]

    def pictures(self, picks: list[tuple[int, bool]]) -> Tensor:
        """Latents float32 [B, 16, h, w] of pictures."""
        return _gather(self.colour, picks)

    def controls(self, picks: list[tuple[int, bool]]) -> Tensor:
        """Latents float32 [B, 16, h, w] of depth maps."""
        assert self.control is not None
        return _gather(self.control, picks)

    def objects(self, picks: list[tuple[int, bool]]) -> Tensor:
        """Which tokens bool [B, h/2 * w/2] hold a piece of an object or touch one that does."""
        assert self.region is not None
        token = 2 * self.shelf.height // self.colour.shape[-2]
        planes = [torch.from_numpy(self.region[index].copy()) for index, _ in picks]
        flipped = [
            plane.flip(-1) if mirror else plane
            for plane, (_, mirror) in zip(planes, picks, strict=True)
        ]
        covered = (torch.stack(flipped)[:, None] >= FIRST_OBJECT_REGION).float()
        tokens = functional.max_pool2d(covered, token)
        return functional.max_pool2d(tokens, 3, stride=1, padding=1).flatten(1) > 0


def _gather(array: NDArray[np.float16], picks: list[tuple[int, bool]]) -> Tensor:
    return torch.stack(
        [torch.from_numpy(array[index, int(mirror)].astype(np.float32)) for index, mirror in picks]
    )


def encode_shelf(
    vae: AutoencoderKL,
    shelf: Shelf,
    pictures: Path,
    home: Path,
    *,
    shrink: int = 1,
    sides: int = 2,
    control: bool,
) -> None:
    """Encodes what is still missing of a shelf; can be stopped and called again.

    Args:
        vae: with its final encoder.
        shelf: the drawn pictures.
        pictures: folder of drawn shelves.
        home: folder of this latent shelf.
        shrink: 2 encodes the pictures at half size, a quarter of the tokens.
        sides: 2 encodes mirrored pictures too.
        control: whether to encode depth maps instead of pictures.
    """
    name = "control" if control else "colour"
    home.mkdir(parents=True, exist_ok=True)
    done_path = home / f"{name}.txt"
    done = int(done_path.read_text()) if done_path.exists() else 0
    cells = (shelf.height // 8 // shrink, shelf.width // 8 // shrink)
    shape = (shelf.count, sides, LATENT_CHANNELS, *cells)
    mode = "r+" if done else "w+"
    array = open_memmap(home / f"{name}.npy", mode=mode, dtype=np.float16, shape=shape)
    stored, rng = open_shelf(shelf, pictures), random.Random(shelf.seed)
    for start in range(done, shelf.count, _CHUNK):
        stop = min(start + _CHUNK, shelf.count)
        pixels = (
            _softened_controls(stored, start, stop, rng)
            if control
            else _colours(stored, start, stop)
        )
        for side in range(sides):
            array[start:stop, side] = _encode(vae, pixels.flip(-1) if side else pixels, shrink)
        done_path.write_text(str(stop))


def _colours(stored: Stored, start: int, stop: int) -> Tensor:
    return torch.from_numpy(stored.colour[start:stop].copy()).float() / 127.5 - 1


def _softened_controls(stored: Stored, start: int, stop: int, rng: random.Random) -> Tensor:
    controls = torch.from_numpy(stored.control[start:stop, None].repeat(3, 1)).float() / 127.5 - 1
    return torch.stack([_softened(picture, rng) for picture in controls])


@torch.no_grad()
def _encode(vae: AutoencoderKL, pixels: Tensor, shrink: int) -> NDArray[np.float16]:
    pooled = functional.avg_pool2d(pixels, shrink) if shrink > 1 else pixels
    mean, _ = pooled_moments(vae, pooled.contiguous(memory_format=torch.channels_last))
    scaled = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled.to(torch.float16).numpy()


def _softened(picture: Tensor, rng: random.Random) -> Tensor:
    """A depth map [3, H, W] as an estimator would give it, for a share of the maps."""
    if rng.random() >= _SOFT_SHARE:
        return picture
    height, width = picture.shape[-2:]
    factor = rng.uniform(1.5, 4.0)
    small = functional.interpolate(
        picture[None], size=(round(height / factor), round(width / factor)), mode="area"
    )
    soft = functional.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)[
        0
    ]
    waves = functional.interpolate(torch.randn(1, 1, 4, 4), size=(height, width), mode="bicubic")[
        0
    ] * rng.uniform(0, 0.03)
    return (soft + waves).clamp(-1, 1)


def open_latents(
    shelf: Shelf, home: Path, *, control: bool, pictures: Path | None = None
) -> LatentShelf:
    """The latents of a shelf, read only; it may still be growing, `done` says how far it goes.

    Args:
        shelf: where the scenes come from.
        home: folder of this latent shelf.
        control: whether depth maps are wanted too.
        pictures: folder of drawn shelves, if it is to be known where the objects are.
    """
    colour = np.load(home / "colour.npy", mmap_mode="r")
    done = int((home / "colour.txt").read_text())
    depth = np.load(home / "control.npy", mmap_mode="r") if control else None
    if control:
        done = min(done, int((home / "control.txt").read_text()))
    region = open_shelf(shelf, pictures).region if pictures else None
    return LatentShelf(shelf, colour.shape[1], colour, depth, done, region)
