"""How well a picture follows control and prompt: functions of pixels. It knows no models."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from train_demo.grammar import COLOURS, PALETTE
from train_demo.render import FIRST_OBJECT_REGION, FLOOR_REGION, SKY_REGION
from train_demo.scenes import Scene

_BLUR = 9
"""Side in pixels of the box that blurs edges; an edge off by less than half of it still counts."""

_CELL = 8

# A surface shows its colour times its brightness: from full shade to full light.
_SHADES = torch.linspace(0.45, 1.1, 14)
_RESAMPLES = 2000


def explained_by_regions(picture: Tensor, region: Tensor) -> float:
    """eta2: share of the colour variance of [3, H, W] that lies between the regions [H, W]."""
    total = (picture - picture.mean(dim=(1, 2), keepdim=True)).square().sum()
    between = torch.zeros(())
    overall = picture.mean(dim=(1, 2))
    for value in region.unique():
        inside = picture[:, region == value]
        between += inside.shape[1] * (inside.mean(dim=1) - overall).square().sum()
    return (between / total.clamp_min(1e-9)).item()


def edge_correlation(picture: Tensor, region: Tensor) -> float:
    """Correlation of the picture's gradient with the regions' borders, both blurred."""
    return _correlation(_blurred(_gradient(picture)), _blurred(_borders(region)))


def depth_edge_correlation(depth: Tensor, truth: Tensor) -> float:
    """Correlation of the gradients of two depth maps [H, W], both blurred."""
    return _correlation(_blurred(_gradient(depth[None])), _blurred(_gradient(truth[None])))


def _gradient(picture: Tensor) -> Tensor:
    down = functional.pad(picture.diff(dim=1), (0, 0, 0, 1))
    across = functional.pad(picture.diff(dim=2), (0, 1))
    return (down.square() + across.square()).sum(dim=0).sqrt()


def _borders(region: Tensor) -> Tensor:
    borders = torch.zeros(region.shape)
    borders[:-1] += (region.diff(dim=0) != 0).float()
    borders[:, :-1] += (region.diff(dim=1) != 0).float()
    return borders.clamp_max(1)


def _blurred(plane: Tensor) -> Tensor:
    for _ in range(2):
        plane = functional.avg_pool2d(plane[None], _BLUR, stride=1, padding=_BLUR // 2)[0]
    return plane


def _correlation(first: Tensor, second: Tensor) -> float:
    pair = torch.stack([first.flatten(), second.flatten()])
    result = torch.corrcoef(pair)[0, 1].item()
    return result if result == result else 0.0  # a flat picture has no correlation


def correlation_within(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Correlation of two maps [H, W] where the mask [H, W] is true."""
    return _correlation(first[mask], second[mask])


def named_colours(colours: Tensor) -> list[str]:
    """The palette's name for each colour [N, 3], seen in any light between shade and sun."""
    palette = torch.tensor([PALETTE[name] for name in COLOURS])
    shaded = palette[:, None] * _SHADES[None, :, None]
    distance = torch.cdist(colours, shaded.flatten(0, 1)).view(-1, *shaded.shape[:2])
    return [COLOURS[index] for index in distance.amin(dim=2).argmin(dim=1).tolist()]


def named_colour(colour: Tensor) -> str:
    """The palette's name for one colour [3]."""
    return named_colours(colour[None])[0]


def colours_right(picture: Tensor, region: Tensor, scene: Scene) -> dict[str, list[bool]]:
    """Whether the median colour of each region bears the name asked for.

    Returns:
        "sky" and "floor" with one entry each, "object" with one for each object.
    """
    wanted = {SKY_REGION: scene.sky, FLOOR_REGION: scene.floor}
    wanted |= {
        FIRST_OBJECT_REGION + index: solid.colour for index, solid in enumerate(scene.solids)
    }
    right: dict[str, list[bool]] = {"sky": [], "floor": [], "object": []}
    for value, name in wanted.items():
        mask = region == value
        if mask.any():
            kind = {SKY_REGION: "sky", FLOOR_REGION: "floor"}.get(value, "object")
            right[kind].append(named_colour(picture[:, mask].median(dim=1).values) == name)
    return right


def objects_filled(picture: Tensor, region: Tensor, scene: Scene) -> list[float]:
    """How whole each object is: the share of its inside that bears the colour asked for.

    Looked at in cells of 8 by 8 pixels that lie wholly within the object, averaged: a hole or a
    notch shows another colour there, a soft border does not count. An object without such a cell
    has no entry.

    Args:
        picture: float32 [3, H, W], 0..1.
        region: uint8 [H, W].
        scene: what was asked for.
    """
    cells = functional.avg_pool2d(picture[None], _CELL)[0]
    shares = []
    for index, solid in enumerate(scene.solids):
        covered = (region == FIRST_OBJECT_REGION + index).float()
        inside = functional.avg_pool2d(covered[None], _CELL)[0] == 1
        if inside.any():
            names = named_colours(cells[:, inside].T)
            shares.append(names.count(solid.colour) / len(names))
    return shares


def colours_present(picture: Tensor, scene: Scene) -> dict[str, float]:
    """Without control: are the colours asked for in the picture at all, wherever they are?

    Returns:
        "sky" and "floor": 1 if the median of the top tenth and of the bottom tenth has that name;
        "object": share of objects whose colour covers at least 1 % of the picture;
        "asked": share of all pixels that bear one of the names asked for.
    """
    small = functional.avg_pool2d(picture[None], _CELL)[0]
    names = named_colours(small.flatten(1).T)
    asked = {scene.sky, scene.floor, *(solid.colour for solid in scene.solids)}
    tenth = picture.shape[1] // 10
    top, bottom = picture[:, :tenth].flatten(1), picture[:, -tenth:].flatten(1)
    found = [names.count(solid.colour) >= 0.01 * len(names) for solid in scene.solids]
    return {
        "sky": float(named_colour(top.median(dim=1).values) == scene.sky),
        "floor": float(named_colour(bottom.median(dim=1).values) == scene.floor),
        "object": sum(found) / len(found),
        "asked": sum(name in asked for name in names) / len(names),
    }


def signal_to_noise(made: Tensor, wanted: Tensor) -> float:
    """PSNR in dB of pictures [3, H, W] in 0..1."""
    return -10 * torch.log10((made - wanted).square().mean()).item()


def staircase(made: Tensor, cell: int = 16) -> float:
    """Jumps of [3, H, W] across cell borders over jumps anywhere; 1 means no visible grid."""
    columns = made.diff(dim=2).abs().mean(dim=(0, 1))
    rows = made.diff(dim=1).abs().mean(dim=(0, 2))
    at_border = torch.cat([columns[cell - 1 :: cell], rows[cell - 1 :: cell]]).mean()
    return (at_border / torch.cat([columns, rows]).mean().clamp_min(1e-9)).item()


def summary(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Mean with a 95 % bootstrap interval over scenes."""
    rng = random.Random(seed)
    count = len(values)
    means = sorted(sum(rng.choices(values, k=count)) / count for _ in range(_RESAMPLES))
    low, high = means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES)]
    return {
        "mean": round(sum(values) / count, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "count": count,
    }
