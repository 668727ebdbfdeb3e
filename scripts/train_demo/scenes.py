"""What stands where: one to three objects on a floor under a sky. It draws nothing.

World axes are x right, y up, z forward; the camera stands at (0, height, 0) and looks down by
`pitch`. Objects are placed on the screen first and in the world second, so that they are large and
hardly hide one
another: colours can be learned only where they can be seen.
"""

import math
import random
from dataclasses import dataclass, replace

from train_demo.grammar import COLOURS, MAX_OBJECTS, PALETTE, SHAPES, Words

Colour = tuple[float, float, float]

# Share of the shorter picture side that one object spans, by the number of objects beside it.
_APPARENT_SIZE = {1: (0.30, 0.56), 2: (0.25, 0.42), 3: (0.19, 0.30)}
_COUNT_WEIGHTS = (3, 5, 4)
_PLACEMENT_TRIES = 60


@dataclass(frozen=True)
class Solid:
    """One object standing on the floor.

    Attributes:
        shape: one of SHAPES.
        colour: its name in the palette.
        albedo: that colour, slightly varied, sRGB 0..1.
        centre: (x, z) of its base on the floor.
        radius: half of its height, about half of its width.
        yaw: turn about the vertical, radians.
        gloss: strength of its highlight, 0 for a matt surface.
    """

    shape: str
    colour: str
    albedo: Colour
    centre: tuple[float, float]
    radius: float
    yaw: float
    gloss: float


@dataclass(frozen=True)
class Scene:
    """Everything needed to draw one picture of any resolution with this aspect ratio.

    Attributes:
        solids: left to right on the screen.
        floor: name of the floor's colour.
        sky: name of the sky's colour.
        floor_albedo: the floor's colour, slightly varied.
        sky_albedo: the sky's colour, slightly varied.
        pitch: how far the camera looks down, radians.
        height: of the camera above the floor.
        focal: focal length over the shorter picture side.
        light: unit vector towards the light.
        tint: colour of the light; warm in the evening, cool at noon.
    """

    solids: tuple[Solid, ...]
    floor: str
    sky: str
    floor_albedo: Colour
    sky_albedo: Colour
    pitch: float
    height: float
    focal: float
    light: tuple[float, float, float]
    tint: Colour

    def words(self) -> Words:
        """What a complete prompt for this scene says."""
        return Words(
            tuple((solid.colour, solid.shape) for solid in self.solids), self.floor, self.sky
        )


def sample_scene(rng: random.Random, *, aspect: float = 1.0, count: int | None = None) -> Scene:
    """A random scene.

    Args:
        rng: the only source of randomness.
        aspect: width over height of the picture it is meant for.
        count: number of objects; None draws it, two being the most frequent.
    """
    count = count or rng.choices(range(1, MAX_OBJECTS + 1), weights=_COUNT_WEIGHTS)[0]
    colours = rng.sample(COLOURS, count + 2)
    empty = _empty_scene(rng, colours[0], colours[1], aspect)
    solids = _place(rng, empty, colours[2:], aspect)
    return replace(empty, solids=solids)


def mirrored(scene: Scene) -> Scene:
    """The scene seen in a mirror, its objects again named from left to right."""
    solids = tuple(
        replace(solid, centre=(-solid.centre[0], solid.centre[1]), yaw=-solid.yaw)
        for solid in reversed(scene.solids)
    )
    return replace(scene, solids=solids, light=(-scene.light[0], *scene.light[1:]))


def _empty_scene(rng: random.Random, floor: str, sky: str, aspect: float) -> Scene:
    focal = rng.uniform(1.15, 1.6)
    half_height = 0.5 / min(aspect, 1.0)  # in units of the shorter side
    horizon = rng.uniform(0.16, 0.42)  # from the top, as a share of the picture's height
    pitch = math.atan((1 - 2 * horizon) * half_height / focal)
    azimuth = rng.choice((-1, 1)) * rng.uniform(0.25, 1.1) * math.pi / 2
    elevation = rng.uniform(0.6, 1.15)
    # The light stands behind the camera's shoulder: the visible sides are lit, the shadow falls
    # away.
    light = (
        math.sin(azimuth) * math.cos(elevation),
        math.sin(elevation),
        -abs(math.cos(azimuth)) * math.cos(elevation),
    )
    warmth = rng.uniform(-0.04, 0.07)
    return Scene(
        solids=(),
        floor=floor,
        sky=sky,
        floor_albedo=_varied(rng, floor),
        sky_albedo=_varied(rng, sky),
        pitch=pitch,
        height=rng.uniform(1.2, 2.2),
        focal=focal,
        light=light,
        tint=(1.0, 1.0 - 0.4 * abs(warmth), 1.0 - warmth),
    )


def _varied(rng: random.Random, colour: str) -> Colour:
    red, green, blue = (
        min(max(value + rng.uniform(-0.025, 0.025), 0.02), 0.98) for value in PALETTE[colour]
    )
    return red, green, blue


def _place(
    rng: random.Random, scene: Scene, colours: list[str], aspect: float
) -> tuple[Solid, ...]:
    """Gives each object a slot of the picture's width, then a size and distance that fit."""
    count = len(colours)
    shapes = rng.sample(SHAPES, count) if rng.random() < 0.9 else rng.choices(SHAPES, k=count)
    width, height = max(aspect, 1.0), 1.0 / min(aspect, 1.0)  # in units of the shorter side
    solids: list[Solid] = []
    for index, (shape, colour) in enumerate(zip(shapes, colours, strict=True)):
        size, across, down = _fit_in_slot(rng, index, count, width, height)
        solids.append(_stand(rng, scene, shape, colour, size, across, down))
    return tuple(solids)


def _fit_in_slot(
    rng: random.Random, index: int, count: int, width: float, height: float
) -> tuple[float, float, float]:
    """Size of an object and its foot, right and down of the centre, all in shorter sides."""
    slot = width / count
    size, across, down = 0.0, 0.0, 0.0
    for _ in range(_PLACEMENT_TRIES):
        size = rng.uniform(*_APPARENT_SIZE[count])
        slack = max(slot - 1.05 * size, 0.0)
        across = -width / 2 + (index + 0.5) * slot + rng.uniform(-0.5, 0.5) * slack
        down = rng.uniform(-0.02, 0.34) * height
        fits_above = down - 1.05 * size > -0.48 * height
        fits_below = down + 0.22 * size < 0.48 * height
        if fits_above and fits_below:
            break
    return size, across, down


def _stand(
    rng: random.Random,
    scene: Scene,
    shape: str,
    colour: str,
    size: float,
    across: float,
    down: float,
) -> Solid:
    """Puts an object of apparent `size` where the ray through its foot meets the floor."""
    sideways, up = across / scene.focal, -down / scene.focal
    fall = math.sin(scene.pitch) - up * math.cos(scene.pitch)
    depth = scene.height / max(fall, 0.08)
    forward = depth * (math.cos(scene.pitch) + up * math.sin(scene.pitch))
    return Solid(
        shape=shape,
        colour=colour,
        albedo=_varied(rng, colour),
        centre=(sideways * depth, forward),
        radius=0.5 * size * depth / scene.focal,
        yaw=rng.uniform(-math.pi / 4, math.pi / 4),
        gloss=rng.choice((0.0, 0.0, 0.15, 0.35)),
    )
