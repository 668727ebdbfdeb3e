"""Trains the depth estimator on drawn scenes. It knows nothing of latents or prompts.

The floor's gradient alone correlates at .93 with the truth, so the loss looks at the objects: they
weigh more, and so do the jumps at their borders.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DepthAnythingForDepthEstimation

from train_demo.optimisation import Trainer
from train_demo.pictures import Shelf, Stored
from train_demo.render import FIRST_OBJECT_REGION

# The head ends in a ReLU: an offset keeps its gradient alive where the truth is 0 (the sky).
_OFFSET = 0.1
_FIRST_BIAS = 0.4
_OBJECT_WEIGHT = 3.0
_PATCH = 14


@dataclass(frozen=True)
class Views:
    """One batch for the estimator.

    Attributes:
        pixels: float32 [B, 3, H, W], -1..1, H and W multiples of 14.
        depth: float32 [B, H, W], 0..1, near = 1.
        objects: float32 [B, H, W], 1 inside objects.
    """

    pixels: Tensor
    depth: Tensor
    objects: Tensor


class Snapshots:
    """Batches of whole pictures, colours often shuffled so that shape and shade must do."""

    def __init__(self, shelves: list[tuple[Shelf, Stored]], seed: int) -> None:
        self.shelves, self.random = shelves, random.Random(seed)

    def batch(self, count: int, side: int) -> Views:
        """Pictures of one shelf whose shorter side becomes `side` pixels."""
        shelf, stored = self.random.choices(
            self.shelves, weights=[shelf.count for shelf, _ in self.shelves]
        )[0]
        indices = [self.random.randrange(shelf.count) for _ in range(count)]
        factor = side / min(shelf.height, shelf.width)
        size = tuple(
            round(pixels * factor / _PATCH) * _PATCH for pixels in (shelf.height, shelf.width)
        )
        layers = [self._layers(stored, index) for index in indices]
        scaled = functional.interpolate(
            torch.stack(layers), size=size, mode="bilinear", antialias=True
        )
        return Views(scaled[:, :3] / 127.5 - 1, scaled[:, 3] / 255, scaled[:, 4])

    def _layers(self, stored: Stored, index: int) -> Tensor:
        colour = torch.from_numpy(stored.colour[index].copy()).float()
        control = torch.from_numpy(stored.control[index].copy()).float()
        objects = torch.from_numpy(stored.region[index] >= FIRST_OBJECT_REGION).float()
        if self.random.random() < 0.4:
            colour = self._recoloured(colour)
        layers = torch.cat([colour, control[None], objects[None]])
        return layers.flip(-1) if self.random.random() < 0.5 else layers

    def _recoloured(self, colour: Tensor) -> Tensor:
        order = self.random.sample(range(3), 3)
        gains = torch.tensor([self.random.uniform(0.7, 1.15) for _ in range(3)])
        colour = colour[order] * gains[:, None, None]
        if self.random.random() < 0.25:
            colour = colour.mean(dim=0, keepdim=True).expand(3, -1, -1)
        return colour.clamp(0, 255)


def depth_loss(made: Tensor, views: Views) -> Tensor:
    """Weighted absolute error plus the error of the slopes at three scales, maps [B, H, W]."""
    error = made - views.depth - _OFFSET
    weight = 1 + _OBJECT_WEIGHT * views.objects
    loss = (weight * error.abs()).mean() / weight.mean()
    coarse = error[:, None]
    for _ in range(3):
        loss = loss + coarse.diff(dim=-1).abs().mean() + coarse.diff(dim=-2).abs().mean()
        coarse = functional.avg_pool2d(coarse, 2)
    return loss


def train_depth(
    estimator: DepthAnythingForDepthEstimation,
    snapshots: Snapshots,
    checkpoint: Path,
    budget_s: float,
) -> DepthAnythingForDepthEstimation:
    """Trains until the time is used, the last 40 % at full size; returns the averaged model."""
    if not checkpoint.exists():
        torch.nn.init.constant_(estimator.head.conv3.bias, _FIRST_BIAS)
    matrices = [
        parameter
        for name, parameter in estimator.named_parameters()
        if parameter.ndim > 1 and ("encoder" in name or "convs" in name or "convolution" in name)
    ]
    trainer = Trainer(estimator, matrices, muon=3e-3, adamw=1.5e-3, decay=0.99, budget_s=budget_s)
    trainer.resume(checkpoint)
    estimator.train()
    while (share := trainer.share) < 1:
        views = (
            snapshots.batch(8, 140 if share < 0.4 else 196)
            if share < 0.7
            else snapshots.batch(6, 252)
        )
        made = estimator(pixel_values=views.pixels).predicted_depth
        loss = depth_loss(made, views)
        trainer.step(loss)
        if trainer.steps % 50 == 0:
            inside = within_objects(made, views).mean().item()
            print(
                f"{trainer.steps} share {share:.3f} loss {loss.item():.4f}"
                f" inside objects {inside:.3f}"
            )
        if trainer.steps % 200 == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    return trainer.average


def within_objects(made: Tensor, views: Views) -> Tensor:
    """Correlation with the truth [B], inside objects and a margin around them."""
    scores = []
    for guess, truth, objects in zip(made.detach(), views.depth, views.objects, strict=True):
        mask = near_objects(objects > 0.5)
        scores.append(torch.corrcoef(torch.stack([guess[mask], truth[mask]]))[0, 1])
    return torch.stack(scores)


def near_objects(objects: Tensor) -> Tensor:
    """Mask [H, W] of objects grown by a quarter of the root of their area on each side."""
    size = int(objects.float().sum().sqrt().item() / 2) | 1
    grown = objects[None, None].float()
    for kernel in ((size, 1), (1, size)):  # one axis after the other: the window is large
        padding = (kernel[0] // 2, kernel[1] // 2)
        grown = functional.max_pool2d(grown, kernel, stride=1, padding=padding)
    return grown[0, 0] > 0
