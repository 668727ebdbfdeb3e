"""Stores of drawn pictures on disk: rendered once, read by every stage. It knows nothing of models.

Pictures are kept at half of their nominal resolution (a 512 pixel picture as 256), which is what
the encoder's first level averages its input to; `vae` explains why. Only "fine" is kept in full.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from train_demo.render import control_image, render
from train_demo.scenes import Scene, sample_scene

RAYS = 3
"""Samples along each side of a stored pixel."""

HELD_OUT_SEED = 10_000_000
"""Scenes from this seed on are never trained on."""


@dataclass(frozen=True)
class Shelf:
    """One set of pictures of equal size.

    Attributes:
        name: also the name of its folder.
        height: stored pixels, half of the nominal ones, a multiple of 16.
        width: likewise.
        count: how many scenes.
        seed: scene i is drawn from seed + i.
    """

    name: str
    height: int
    width: int
    count: int
    seed: int

    def scene(self, index: int) -> Scene:
        """The scene of one picture; cheap, so scenes are never stored."""
        return sample_scene(random.Random(self.seed + index), aspect=self.width / self.height)


SHELVES = (
    Shelf("square-a", 256, 256, 4500, 0),
    Shelf("square-b", 256, 256, 4500, 100_000),
    Shelf("tall", 352, 176, 900, 200_000),
    Shelf("wide", 176, 352, 500, 300_000),
    Shelf("portrait", 608, 320, 400, 400_000),
    Shelf("poster", 832, 432, 400, 600_000),
    Shelf("large", 512, 512, 150, 700_000),
    Shelf("fine", 512, 512, 400, 500_000),
    Shelf("held-out", 256, 256, 128, HELD_OUT_SEED),
)


@dataclass(frozen=True)
class Stored:
    """The arrays of a shelf, mapped from disk.

    Attributes:
        colour: uint8 [N, 3, H, W], sRGB.
        control: uint8 [N, H, W], near = white.
        region: uint8 [N, H, W], see render.Picture.
    """

    colour: NDArray[np.uint8]
    control: NDArray[np.uint8]
    region: NDArray[np.uint8]


def draw_shelf(shelf: Shelf, folder: Path) -> None:
    """Draws what is still missing of a shelf; can be stopped and called again."""
    home = folder / shelf.name
    home.mkdir(parents=True, exist_ok=True)
    done_path = home / "done.txt"
    done = int(done_path.read_text()) if done_path.exists() else 0
    stored = _open(shelf, home, "r+" if done else "w+")
    for index in range(done, shelf.count):
        picture = render(shelf.scene(index), shelf.height, shelf.width, rays=RAYS)
        stored.colour[index] = (picture.colour * 255).round().byte().numpy()
        stored.control[index] = control_image(picture.disparity).numpy()
        stored.region[index] = picture.region.numpy()
        if index % 50 == 49 or index == shelf.count - 1:
            done_path.write_text(str(index + 1))


def drawn(shelf: Shelf, folder: Path) -> int:
    """How many pictures of a shelf are ready."""
    path = folder / shelf.name / "done.txt"
    return int(path.read_text()) if path.exists() else 0


def open_shelf(shelf: Shelf, folder: Path) -> Stored:
    """The arrays of a shelf, read only."""
    return _open(shelf, folder / shelf.name, "r")


def _open(shelf: Shelf, home: Path, mode: str) -> Stored:
    plane = (shelf.count, shelf.height, shelf.width)
    shapes = {
        "colour": (shelf.count, 3, shelf.height, shelf.width),
        "control": plane,
        "region": plane,
    }
    arrays = {
        name: open_memmap(
            home / f"{name}.npy", mode=mode, dtype=np.uint8, shape=None if mode == "r" else shape
        )
        for name, shape in shapes.items()
    }
    return Stored(**arrays)
