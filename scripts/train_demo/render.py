"""Draws a scene by ray casting, with exact depth and regions. It knows no prompts or models.

Floor and sky are evaluated once a pixel, objects in their own rectangle of the screen with several
rays a pixel; soft shadows on a coarse grid of the floor. Everything is torch, so it runs on any
device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from train_demo.scenes import Scene, Solid

SKY_REGION, FLOOR_REGION, FIRST_OBJECT_REGION = 0, 1, 2

_AMBIENT, _DIFFUSE = 0.52, 0.50
_WRAP = 0.35
"""Light reaches this far beyond the terminator: a colour stays itself on the shaded side."""
_SHADOW_DEPTH = 0.55
_SHADOW_GRID = 4
"""Pixels of the picture along one cell of the shadow grid: soft shadows have no finer detail."""

# Proportions of each shape in units of its radius (half its height).
_CUBE_HALF, _CYLINDER_WIDTH, _CYLINDER_HEIGHT, _CONE_WIDTH, _CONE_HEIGHT = (
    0.80,
    0.78,
    1.8,
    0.95,
    2.0,
)


@dataclass(frozen=True)
class Picture:
    """A drawn scene.

    Attributes:
        colour: float32 [3, H, W], sRGB 0..1.
        disparity: float32 [H, W], one over the distance along the camera's axis; 0 in the sky.
        region: uint8 [H, W], 0 sky, 1 floor, 2 and more the objects from left to right.
    """

    colour: Tensor
    disparity: Tensor
    region: Tensor


def render(scene: Scene, height: int, width: int, *, rays: int = 2, device: str = "cpu") -> Picture:
    """Draws the scene with `rays` times `rays` samples a pixel on the objects."""
    view = _View(scene, height, width, device)
    colour, disparity, region = _background(scene, view)
    order = sorted(range(len(scene.solids)), key=lambda index: -scene.solids[index].centre[1])
    for index in order:
        rows, columns = view.rectangle(scene.solids[index])
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        cover, paint, near = _solid_patch(scene, scene.solids[index], view, rows, columns, rays)
        colour[:, rows, columns] = colour[:, rows, columns] * (1 - cover) + paint
        disparity[rows, columns] = disparity[rows, columns] * (1 - cover) + near
        region[rows, columns][cover > 0.5] = FIRST_OBJECT_REGION + index
    return Picture(colour.clamp(0, 1), disparity, region)


def control_image(disparity: Tensor) -> Tensor:
    """Disparity [H, W] as a control image has it: uint8 [H, W], near white, farthest black."""
    low, high = disparity.min(), disparity.max()
    return ((disparity - low) / (high - low).clamp_min(1e-8) * 255).round().to(torch.uint8)


class _View:
    """The camera: which ray belongs to which point of the screen, and back."""

    def __init__(self, scene: Scene, height: int, width: int, device: str) -> None:
        self.height, self.width, self.device = height, width, device
        self.focal = scene.focal * min(height, width)
        self.sine, self.cosine = math.sin(scene.pitch), math.cos(scene.pitch)
        self.eye = (0.0, scene.height, 0.0)

    def rays(self, rows: slice, columns: slice, per_pixel: int) -> tuple[Tensor, Tensor, Tensor]:
        """Directions x, y, z, each [h * per_pixel, w * per_pixel], one long in depth."""
        right = (self._samples(columns, per_pixel) - self.width / 2) / self.focal
        up = (self.height / 2 - self._samples(rows, per_pixel)) / self.focal
        up, right = torch.meshgrid(up, right, indexing="ij")
        return right, up * self.cosine - self.sine, up * self.sine + self.cosine

    def _samples(self, pixels: slice, per_pixel: int) -> Tensor:
        count = (pixels.stop - pixels.start) * per_pixel
        return pixels.start + (torch.arange(count, device=self.device) + 0.5) / per_pixel

    def rectangle(self, solid: Solid) -> tuple[slice, slice]:
        """Rows and columns that surely hold the object."""
        x, z = solid.centre
        reach = 1.25 * solid.radius
        corners = [
            self._project(x + dx * reach, y, z + dz * reach)
            for dx in (-1, 1)
            for dz in (-1, 1)
            for y in (0.0, 2.05 * solid.radius)
        ]
        across, down = zip(*corners, strict=True)
        rows = slice(max(int(min(down)) - 1, 0), min(int(max(down)) + 2, self.height))
        columns = slice(max(int(min(across)) - 1, 0), min(int(max(across)) + 2, self.width))
        return rows, columns

    def _project(self, x: float, y: float, z: float) -> tuple[float, float]:
        y -= self.eye[1]
        depth = max(z * self.cosine - y * self.sine, 0.05)
        up = (z * self.sine + y * self.cosine) / depth
        return self.width / 2 + self.focal * x / depth, self.height / 2 - self.focal * up


def _background(scene: Scene, view: _View) -> tuple[Tensor, Tensor, Tensor]:
    """Floor and sky: colour [3, H, W], disparity [H, W], region [H, W]."""
    whole = slice(0, view.height), slice(0, view.width)
    x, y, z = view.rays(*whole, 1)
    slope = -y / scene.height  # of the floor, this is the disparity
    # The horizon is a straight line, so its share of a pixel needs no further rays.
    floor_share = (slope * scene.height * view.focal + 0.5).clamp(0, 1)
    disparity = slope.clamp_min(0)
    distance = 1 / disparity.clamp_min(0.02)
    lit = _shadow(scene, view)
    falloff = 1.04 - 0.16 * (1 - torch.exp(-distance * z.clamp_min(0.1) / 14))
    brightness = (_AMBIENT + _DIFFUSE * scene.light[1] * lit) * falloff + 0.04
    floor = _colour(scene.floor_albedo, scene.tint, view.device) * brightness
    height_above = (y / (x * x + z * z).sqrt()).clamp(0, 1)
    sky = _colour(scene.sky_albedo, scene.tint, view.device)
    sky = sky * (1.0 - 0.14 * (height_above / 0.5).clamp(0, 1)) + 0.03
    colour = floor * floor_share + sky * (1 - floor_share)
    return colour, disparity, (floor_share > 0.5).to(torch.uint8)


def _colour(
    albedo: tuple[float, float, float], tint: tuple[float, float, float], device: str
) -> Tensor:
    return torch.tensor([a * t for a, t in zip(albedo, tint, strict=True)], device=device)[
        :, None, None
    ]


def _shadow(scene: Scene, view: _View) -> Tensor:
    """How much light, _SHADOW_DEPTH..1, reaches the floor behind each pixel [H, W]."""
    rows, columns = math.ceil(view.height / _SHADOW_GRID), math.ceil(view.width / _SHADOW_GRID)
    coarse = _View(scene, rows, columns, view.device)
    x, y, z = coarse.rays(slice(0, rows), slice(0, columns), 1)
    distance = scene.height / (-y).clamp_min(0.02)
    floor = (x * distance, torch.full_like(x, 1e-3), z * distance)
    dark = torch.zeros_like(x)
    lights = _light_samples(scene.light)
    for light in lights:
        hit = torch.zeros_like(x, dtype=torch.bool)
        for solid in scene.solids:
            direction = tuple(torch.full_like(x, component) for component in light)
            hit |= torch.isfinite(_intersect(solid, floor, direction)[0])
        dark += hit
    lit = 1 - (1 - _SHADOW_DEPTH) * dark / len(lights)
    size = (rows * _SHADOW_GRID, columns * _SHADOW_GRID)
    fine = functional.interpolate(lit[None, None], size=size, mode="bilinear", align_corners=False)
    return fine[0, 0, : view.height, : view.width]


def _light_samples(light: tuple[float, float, float]) -> list[tuple[float, float, float]]:
    """Seven directions across a broad lamp; their spread makes the shadow's soft edge."""
    samples = [light]
    for step in range(6):
        angle = step * math.pi / 3
        x, y, z = light[0] + 0.09 * math.cos(angle), light[1], light[2] + 0.09 * math.sin(angle)
        norm = math.sqrt(x * x + y * y + z * z)
        samples.append((x / norm, y / norm, z / norm))
    return samples


def _solid_patch(
    scene: Scene, solid: Solid, view: _View, rows: slice, columns: slice, per_pixel: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One object: coverage [h, w], and times it colour [3, h, w] and disparity [h, w]."""
    direction = view.rays(rows, columns, per_pixel)
    eye = tuple(torch.full_like(direction[0], value) for value in view.eye)
    depth, normal = _intersect(solid, eye, direction)
    hit = torch.isfinite(depth)
    towards = sum(n * component for n, component in zip(normal, scene.light, strict=True))
    towards = ((towards + _WRAP) / (1 + _WRAP)).clamp_min(0)
    # Light from above reaches upward faces more: keeps the faces of a cube apart even in its own
    # shade.
    brightness = _AMBIENT * (0.8 + 0.2 * normal[1]) + _DIFFUSE * towards
    albedo = _colour(solid.albedo, scene.tint, view.device)
    paint = albedo * brightness + _highlight(scene, solid, direction, normal)
    near = 1 / depth
    layers = torch.stack([hit.float(), torch.where(hit, near, 0.0), *(paint.clamp(0, 1) * hit)])
    pooled = functional.avg_pool2d(layers[None], per_pixel)[0]
    return pooled[0], pooled[2:], pooled[1]


def _highlight(
    scene: Scene, solid: Solid, direction: tuple[Tensor, ...], normal: tuple[Tensor, ...]
) -> Tensor:
    """The lamp's soft reflection, [h, w]."""
    length = sum(d * d for d in direction).sqrt()
    half = [light - d / length for light, d in zip(scene.light, direction, strict=True)]
    half_length = sum(h * h for h in half).sqrt().clamp_min(1e-4)
    cosine = sum(h * n for h, n in zip(half, normal, strict=True)) / half_length
    return solid.gloss * cosine.clamp(0, 1) ** 24


def _intersect(
    solid: Solid, origin: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Distance along each ray to the object, infinite where it misses, and the normal there."""
    radius = solid.radius
    sine, cosine = math.sin(solid.yaw), math.cos(solid.yaw)
    ox, oy, oz = (
        (o - shift) / radius
        for o, shift in zip(origin, (solid.centre[0], 0.0, solid.centre[1]), strict=True)
    )
    dx, dy, dz = (d / radius for d in direction)
    if solid.shape != "cube":
        return _ROUND[solid.shape]((ox, oy, oz), (dx, dy, dz))
    turned_origin = (cosine * ox - sine * oz, oy, sine * ox + cosine * oz)
    turned_direction = (cosine * dx - sine * dz, dy, sine * dx + cosine * dz)
    depth, (nx, ny, nz) = _cube(turned_origin, turned_direction)
    return depth, (cosine * nx + sine * nz, ny, -sine * nx + cosine * nz)


Rays = tuple[Tensor, Tensor, Tensor]


def _first_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The nearer solution of a t^2 + 2 b t + c = 0 for a > 0, infinite where there is none."""
    discriminant = b * b - a * c
    root = (-b - discriminant.clamp_min(0).sqrt()) / a
    return torch.where((discriminant > 0) & (root > 0), root, torch.inf)


def _sphere(origin: Rays, direction: Rays) -> tuple[Tensor, Rays]:
    ox, oy, oz = origin[0], origin[1] - 1, origin[2]
    dx, dy, dz = direction
    depth = _first_root(
        dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, ox * ox + oy * oy + oz * oz - 1
    )
    reach = torch.where(torch.isfinite(depth), depth, 0.0)
    return depth, (ox + reach * dx, oy + reach * dy, oz + reach * dz)


def _cube(origin: Rays, direction: Rays) -> tuple[Tensor, Rays]:
    entry = torch.full_like(origin[0], -torch.inf)
    leave = torch.full_like(origin[0], torch.inf)
    faces = [torch.zeros_like(origin[0]) for _ in range(3)]
    for axis in range(3):
        o = origin[axis] - (_CUBE_HALF if axis == 1 else 0.0)
        d = torch.where(direction[axis].abs() < 1e-6, 1e-6, direction[axis])
        first, second = (-_CUBE_HALF - o) / d, (_CUBE_HALF - o) / d
        near = torch.minimum(first, second)
        later = near > entry
        faces = [
            torch.where(later, -torch.sign(d) if axis == face else 0.0, faces[face])
            for face in range(3)
        ]
        entry, leave = (
            torch.maximum(entry, near),
            torch.minimum(leave, torch.maximum(first, second)),
        )
    return torch.where((entry < leave) & (entry > 0), entry, torch.inf), (
        faces[0],
        faces[1],
        faces[2],
    )


def _cylinder(origin: Rays, direction: Rays) -> tuple[Tensor, Rays]:
    ox, oy, oz = origin
    dx, dy, dz = direction
    side = _first_root(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - _CYLINDER_WIDTH**2)
    rise = oy + torch.where(torch.isfinite(side), side, 0.0) * dy
    side = torch.where((rise >= 0) & (rise <= _CYLINDER_HEIGHT), side, torch.inf)
    lid = (_CYLINDER_HEIGHT - oy) / torch.where(dy.abs() < 1e-6, 1e-6, dy)
    inside = (ox + lid * dx) ** 2 + (oz + lid * dz) ** 2 <= _CYLINDER_WIDTH**2
    lid = torch.where(inside & (lid > 0), lid, torch.inf)
    on_lid = lid < side
    reach = torch.where(torch.isfinite(side), side, 0.0)
    nx, nz = (
        torch.where(on_lid, 0.0, (o + reach * d) / _CYLINDER_WIDTH) for o, d in ((ox, dx), (oz, dz))
    )
    return torch.minimum(side, lid), (nx, on_lid.float(), nz)


def _cone(origin: Rays, direction: Rays) -> tuple[Tensor, Rays]:
    """The ratio k of width to height makes the surface x^2 + z^2 = k^2 (height - y)^2."""
    ox, oy, oz = origin
    dx, dy, dz = direction
    k2 = (_CONE_WIDTH / _CONE_HEIGHT) ** 2
    below = _CONE_HEIGHT - oy
    a = dx * dx + dz * dz - k2 * dy * dy
    b = ox * dx + oz * dz + k2 * below * dy
    c = ox * ox + oz * oz - k2 * below * below
    discriminant = (b * b - a * c).clamp_min(0).sqrt()
    safe = torch.where(a.abs() < 1e-9, 1e-9, a)
    best = torch.full_like(ox, torch.inf)
    for root in ((-b - discriminant) / safe, (-b + discriminant) / safe):
        rise = oy + root * dy
        valid = (b * b - a * c > 0) & (root > 0) & (rise >= 0) & (rise <= _CONE_HEIGHT)
        best = torch.where(valid & (root < best), root, best)
    reach = torch.where(torch.isfinite(best), best, 0.0)
    nx, ny, nz = ox + reach * dx, k2 * (_CONE_HEIGHT - oy - reach * dy), oz + reach * dz
    length = (nx * nx + ny * ny + nz * nz).sqrt().clamp_min(1e-6)
    return best, (nx / length, ny / length, nz / length)


_ROUND = {"sphere": _sphere, "cylinder": _cylinder, "cone": _cone}
