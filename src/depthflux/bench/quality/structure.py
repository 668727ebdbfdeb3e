"""Structure: whether a picture has the depth that its control image asks for.

One estimator looks at every picture and at the control image; what is compared is the order of
their pixels from far to near (Spearman's rho), so neither the normalisation of the control image
nor an estimator's scale plays a part.

Knows nothing of sides, and of estimators only that they estimate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from depthflux.bench.quality.figures import Found, Measured
from depthflux.depth.estimator import DepthEstimator, EstimatorCard
from depthflux.errors import WeightsMissingError
from depthflux.images import SourceImage
from depthflux.settings import EngineSettings

#: Rows and columns that are ranked at most, evenly spaced. Ranking all of 1536*1536 pixels takes
#: 0.3 to 0.7 s on a CPU, this grid 0.03 s; between the example scenes at up to 1536*1536 rho then
#: differed by 1e-4 at most from that of all pixels.
GRID = 512

#: A map that varies by less than this part of its largest value is flat: a few units in the last
#: place of float32, as depth/normalization.py has it.
FLAT_RELATIVE_RANGE = 1e-6

#: To be said where the estimator that judges also made one side's control images.
ESTIMATOR_BIAS = (
    "The estimator that judges also made the local side's control images, which favours that side; "
    "--estimator names another."
)
#: To be said where a side is another stack, which is not told what the control image is.
HOSTED_DEPTH_UNKNOWN = (
    "The hosted side was given the control image as it is, and whether it estimates the depth of "
    "it or takes it for a depth map is not documented, so a low figure of that side may mean "
    "another reading of the control image and no worse painting."
)
#: To be said of what a figure means: the demo's three example scenes, which share a floor and a
#: wall and nothing else, agree by 0.89 to 0.92 with each other.
LAYOUT_COUNTS = (
    "Scenes that share no more than a floor and a wall agree by about 0.9 already, so small "
    "differences between sides matter more than the figure's height."
)


class Structure:
    """Judges with one estimator, the same for all sides.

    Attributes:
        card: what is declared about the estimator.
    """

    def __init__(self, estimator: DepthEstimator) -> None:
        """Judge with a loaded estimator."""
        self._estimator = estimator
        self.card: EstimatorCard = estimator.card

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Load a Depth Anything from a folder, in float32.

        Args:
            folder: as `find_judge` gives it.
            device: where it computes.

        Raises:
            WeightsMissingError: files are missing; all of them are named.
            WeightsCorruptError: a file is truncated, unreadable, or its tensors do not fit.
        """
        from depthflux.depth.depth_anything import DepthAnything

        return cls(DepthAnything.load(folder, device=device))

    @property
    def how(self) -> str:
        """How structure is measured, one sentence."""
        card = self.card
        return (
            f"Spearman's rank correlation between the depth that {card.name} ({card.licence}) "
            "estimates from the picture and the depth of its control image, stretched to the "
            f"picture's size, over at most {GRID}*{GRID} evenly spaced pixels: 1 is the same order "
            "from far to near, 0 none, -1 the reverse."
        )

    def control_depth(
        self,
        control: SourceImage,
        size: tuple[int, int],
        *,
        is_supplied: bool = False,
        is_inverted: bool = False,
    ) -> NDArray[np.float32]:
        """The depth that a control image asks for, as a request with `fit=stretch` lays it out.

        Args:
            control: the control image as it was sent.
            size: width and height to stretch it to, in pixels: the picture's.
            is_supplied: it is a depth map itself (`preprocess_depth=false`), not to be estimated.
            is_inverted: that map is dark where near (`invert_depth`).

        Returns:
            float32 [H, W], larger = nearer, unbounded; of a supplied map in [0, 1].

        Raises:
            NonFiniteError: the estimator produced NaN or infinity.
        """
        from depthflux.canvas import Canvas, place
        from depthflux.depth import read_supplied

        if is_supplied:
            depth = read_supplied(
                control.rgb,
                control.grey16,
                is_coloured=control.is_coloured,
                invert=is_inverted,
            ).depth
        else:
            depth = self.depth(control.rgb)
        # A grid of one pixel: nothing is painted beyond the asked size.
        return place(depth, Canvas(*size, grid=1), "stretch")

    def depth(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The estimated depth of a picture.

        Args:
            rgb: uint8 [H, W, 3], 0..255, sRGB.

        Returns:
            float32 [H, W], relative inverse depth, larger = nearer, unbounded.

        Raises:
            NonFiniteError: the estimator produced NaN or infinity.
        """
        from depthflux.depth.normalization import refuse_non_finite

        depth = self._estimator.estimate(rgb)
        refuse_non_finite(depth)
        return depth


def find_judge(named: Path | None, settings: EngineSettings) -> Found:
    """The folder of the estimator that judges.

    Args:
        named: by the caller; taken as it is, and what is wrong with it is said when it is loaded.
        settings: whose estimator is used where none is named.
    """
    from depthflux.model.weights import find_estimator

    if named is not None:
        return Found(named.expanduser())
    try:
        return Found(find_estimator(settings))
    except WeightsMissingError:
        # Not where it was looked for: a report may be shown to strangers.
        return Found(
            None,
            "there is no depth estimator, which depthflux weights pull fetches and --estimator "
            "names",
        )


def is_same_estimator(one: Path, other: Path) -> bool:
    """Whether two folders hold the same estimator, as far as their descriptions say.

    Raises:
        WeightsMissingError: a folder lacks files; all of them are named.
        WeightsCorruptError: a description is unreadable, or of another model.
    """
    from depthflux.depth.depth_anything import describe

    return one.resolve() == other.resolve() or describe(one) == describe(other)


def agreement(depth: NDArray[np.float32], control_depth: NDArray[np.float32]) -> Measured:
    """Spearman's rho of two depth maps of one size; equal values share their mean rank.

    A flat map has no order, so there is nothing to agree with.

    Args:
        depth: float32 [H, W], larger = nearer, finite.
        control_depth: likewise.

    Returns:
        From -1 to 1.
    """
    from scipy import stats

    if depth.shape != control_depth.shape:
        return Measured(
            None,
            f"the picture's depth is {_size(depth)} and the control image's {_size(control_depth)}",
        )
    for name, one in (("picture", depth), ("control image", control_depth)):
        if _is_flat(one):
            return Measured(None, f"the depth of the {name} is the same everywhere")
    sampled = (_sampled(one).ravel() for one in (depth, control_depth))
    return Measured(float(stats.spearmanr(*sampled).statistic))


def depth_png(depth: NDArray[np.float32]) -> bytes:
    """A depth map to look at: a grey PNG, its own farthest black and its nearest white.

    Args:
        depth: float32 [H, W], larger = nearer, finite; a flat one becomes mid-grey.

    Raises:
        NonFiniteError: it holds NaN or infinity.
    """
    from PIL import Image

    from depthflux.canvas import to_grey
    from depthflux.depth import normalize
    from depthflux.images import encode_image

    return encode_image(Image.fromarray(to_grey(normalize(depth, "minmax"))), "png")


def _sampled(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most `GRID` rows and columns of a map, in the middle of equal parts of it."""
    rows, columns = (_middles(side) for side in depth.shape)
    return depth[np.ix_(rows, columns)]


def _middles(side: int) -> NDArray[np.int64]:
    count = min(side, GRID)
    # In whole numbers, so that every machine takes the same pixels.
    return (2 * np.arange(count, dtype=np.int64) + 1) * side // (2 * count)


def _is_flat(depth: NDArray[np.float32]) -> bool:
    sampled = _sampled(depth)
    low, high = float(sampled.min()), float(sampled.max())
    return high - low <= FLAT_RELATIVE_RANGE * max(abs(low), abs(high))


def _size(depth: NDArray[np.float32]) -> str:
    return f"{depth.shape[1]}*{depth.shape[0]}"
