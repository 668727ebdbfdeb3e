"""The canvas: the picture's asked size and the slightly larger one that the model paints.

FLUX paints whole tokens, 16 by 16 pixels each; the request may ask for any size. So the model
paints the next multiple of its grid and the surplus is cropped evenly:

        ┌───────────────┐  painted_width × painted_height, what the model paints
        │   ┌───────┐   │
        │   │ asked │   │  width × height, what the caller gets
        │   └───────┘   │
        └───────────────┘

The control image is laid out with the same numbers, so a depth edge at column x of the asked
frame lies at column x of the picture that comes out.

Knows nothing of models (it is told the grid), of estimators, or of how depth was normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthflux.contract import Fit
from depthflux.errors import GenerationError, InvalidParameterError

#: A picture as PIL or as an array whose first two axes are rows and columns.
Picture = TypeVar("Picture", Image.Image, NDArray[np.uint8], NDArray[np.float32])


@dataclass(frozen=True)
class Canvas:
    """The asked size and its place in the size that the model paints.

    Attributes:
        width: asked, in pixels.
        height: asked, in pixels.
        grid: pixels a side that one token of the model spans, 16 for FLUX.1.
    """

    width: int
    height: int
    grid: int

    def __post_init__(self) -> None:
        for name in ("width", "height", "grid"):
            if getattr(self, name) < 1:
                raise InvalidParameterError(
                    f"{name}={getattr(self, name)}: must be 1 or more; ask for another size.",
                    field="size",
                    value=getattr(self, name),
                    allowed="1 or more",
                )

    @property
    def painted_width(self) -> int:
        """What the model paints: the next multiple of the grid, in pixels."""
        return -(-self.width // self.grid) * self.grid

    @property
    def painted_height(self) -> int:
        """What the model paints: the next multiple of the grid, in pixels."""
        return -(-self.height // self.grid) * self.grid

    @property
    def left(self) -> int:
        """Columns cropped from the left; of an odd surplus the smaller half."""
        return (self.painted_width - self.width) // 2

    @property
    def top(self) -> int:
        """Rows cropped from the top; of an odd surplus the smaller half."""
        return (self.painted_height - self.height) // 2

    @property
    def rows(self) -> slice:
        """The asked rows of anything painted, as in `pixels[..., canvas.rows, canvas.columns]`."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The asked columns of anything painted."""
        return slice(self.left, self.left + self.width)

    def crop(self, picture: Picture) -> Picture:
        """The asked part of a painted picture.

        Args:
            picture: [painted_height, painted_width] or [painted_height, painted_width, C], or PIL.

        Returns:
            The same kind of picture, width by height; an array is a view.

        Raises:
            GenerationError: the picture is not of the painted size.
        """
        if isinstance(picture, Image.Image):
            width, height = picture.size
        else:
            height, width = picture.shape[:2]
        if (width, height) != (self.painted_width, self.painted_height):
            raise GenerationError(
                f"the model painted {width}x{height} pixels where the canvas has "
                f"{self.painted_width}x{self.painted_height}; the loaded model does not fit its "
                f"grid of {self.grid}."
            )
        if isinstance(picture, Image.Image):
            box = (self.left, self.top, self.left + self.width, self.top + self.height)
            return picture.crop(box)
        return picture[self.rows, self.columns]


def place(
    depth: NDArray[np.float32], canvas: Canvas, fit: Fit, *, far: float = 0.0
) -> NDArray[np.float32]:
    """Lay a depth map out on the canvas: fitted to the asked size, continued over the surplus.

    The surplus border repeats the outermost values, so the model sees no edge where the crop
    will be.

    Args:
        depth: float32 [h, w], normalised and finite, larger = nearer, of any size.
        canvas: where to.
        fit: `stretch` fills the asked size and ignores the shape; `cover` fills it and loses what
            sticks out, evenly; `contain` keeps all and fills the rest with `far`.
        far: the value of the farthest depth, as `depthflux.depth.far_value` says.

    Returns:
        float32 [painted_height, painted_width], within the range of `depth` (and `far`); bit for
        bit `depth` inside the asked frame where the sizes agree.
    """
    height, width = depth.shape
    whole = (0.0, 0.0, float(width), float(height))
    if fit == "cover":
        fitted = _resize(depth, canvas.width, canvas.height, _covering_box(width, height, canvas))
    elif fit == "contain":
        fitted = _contain(depth, canvas, far)
    else:
        fitted = _resize(depth, canvas.width, canvas.height, whole)
    right = canvas.painted_width - canvas.width - canvas.left
    bottom = canvas.painted_height - canvas.height - canvas.top
    return np.pad(fitted, ((canvas.top, bottom), (canvas.left, right)), mode="edge")


def control_image(placed: NDArray[np.float32], *, quantized: bool) -> NDArray[np.float32]:
    """The values that the VAE encodes, near = white.

    A quantised map becomes 8-bit grey and then floats again with the arithmetic that diffusers'
    VaeImageProcessor applies to a PIL picture, so that a run equals, bit for bit, that of a
    FluxControlPipeline which was given the saved control image.

    Args:
        placed: float32 [H, W]; in [0, 1] where `quantized`, else in the model's own [-1, 1].
        quantized: true for a normalisation that means a picture (`minmax`, `percentile`); false
            for one that keeps its floats up to the VAE (`bfl_raw`), which may leave [-1, 1].

    Returns:
        float32 [H, W], contiguous; in [-1, 1] where `quantized`. The VAE takes it three times, as
        R, G and B.

    Source: diffusers, image_processor.py, pil_to_numpy and normalize.
    """
    if not quantized:
        return np.ascontiguousarray(placed, dtype=np.float32)
    unit = to_grey(placed).astype(np.float32) / np.float32(255.0)
    return np.float32(2.0) * unit - np.float32(1.0)


def depth_picture(placed: NDArray[np.float32], canvas: Canvas, *, quantized: bool) -> Image.Image:
    """What the model was given, as a picture to look at.

    Args:
        placed: float32 [painted_height, painted_width], as `place` returned it.
        canvas: the canvas it lies on.
        quantized: as for `control_image`; without it values outside [-1, 1] show as black or white.

    Returns:
        Mode "L", of the asked size, near = white; where `quantized`, exactly the model's values.
    """
    asked = canvas.crop(placed)
    return Image.fromarray(to_grey(asked if quantized else (asked + 1.0) / 2.0))


def to_grey(unit: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit grey of values in [0, 1], uint8 [H, W].

    Rounds to the nearest, halves to even, as diffusers does when it saves a picture: truncating
    would darken every pixel by half a level, and a map read from an 8-bit file would not come
    back as it was.
    """
    rounded: NDArray[np.uint8] = np.rint(np.clip(unit, 0.0, 1.0) * 255.0).astype(np.uint8)
    return rounded


def _resize(
    depth: NDArray[np.float32], width: int, height: int, box: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Resample the part `box` (left, top, right, bottom, fractions allowed) to width by height."""
    if depth.shape == (height, width) and box == (0.0, 0.0, float(width), float(height)):
        return depth.astype(np.float32, copy=False)
    # Bilinear, widened by PIL when it shrinks (so it does not alias): all its weights are
    # positive. Bicubic and Lanczos overshoot at depth edges and would draw a bright and a dark
    # rim round every object, which the model reads as structure.
    resized = Image.fromarray(depth.astype(np.float32, copy=False)).resize(
        (width, height), Image.Resampling.BILINEAR, box=box
    )
    # The weights sum to 1 only up to rounding; the clip makes the range exact.
    return np.clip(np.asarray(resized, dtype=np.float32), depth.min(), depth.max())


def _covering_box(width: int, height: int, canvas: Canvas) -> tuple[float, float, float, float]:
    """The largest centred part of a width by height map that has the canvas's shape.

    In fractions of a pixel, so that nothing is rounded before the one resampling.
    """
    scale = max(canvas.width / width, canvas.height / height)
    kept_width = min(canvas.width / scale, float(width))
    kept_height = min(canvas.height / scale, float(height))
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    right, bottom = min(left + kept_width, float(width)), min(top + kept_height, float(height))
    return left, top, right, bottom


def _contain(depth: NDArray[np.float32], canvas: Canvas, far: float) -> NDArray[np.float32]:
    """The whole map, centred on the asked size, the rest filled with `far`."""
    height, width = depth.shape
    scale = min(canvas.width / width, canvas.height / height)
    fitted_width = min(max(round(width * scale), 1), canvas.width)
    fitted_height = min(max(round(height * scale), 1), canvas.height)
    whole = (0.0, 0.0, float(width), float(height))
    left, top = (canvas.width - fitted_width) // 2, (canvas.height - fitted_height) // 2
    filled = np.full((canvas.height, canvas.width), far, dtype=np.float32)
    filled[top : top + fitted_height, left : left + fitted_width] = _resize(
        depth, fitted_width, fitted_height, whole
    )
    return filled
