"""The source image's depth on the canvas, and what the VAE encodes it to: once a picture.

The last pictures' are kept, so a second request with the same picture neither estimates nor
encodes. Kept is the distribution of the control latents and no sample of it: each seed draws its
own, and so keeps its picture.

Knows nothing of prompts, seeds or steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from depthflux.canvas import Canvas, control_image, depth_picture, place
from depthflux.contract import GenerationRequest
from depthflux.depth import (
    far_value,
    is_quantized,
    normalize,
    normalize_supplied,
    read_supplied,
)
from depthflux.depth.depth_anything import DepthAnything
from depthflux.engine.conditioning import encode_control
from depthflux.engine.kept import Kept
from depthflux.images import SourceImage
from depthflux.model.loading import Model

#: Pictures kept: of FLUX's default size, 7 MB of host memory and, in bfloat16, 4 MB of the
#: device's each.
MOST_KEPT = 8


@dataclass(frozen=True)
class PlacedDepth:
    """A depth map as the model takes it.

    Attributes:
        key: equal for equal maps of one engine.
        control: the control image, float32 [H, W] of the painted size, near = 1, far = -1.
        picture: the same to look at, mode "L", of the asked size.
        warnings: one line each, about a supplied map.
    """

    key: Hashable
    control: np.ndarray
    picture: Image.Image
    warnings: tuple[str, ...]


class ControlEncoder:
    """Places depth and encodes it with one model and one estimator, both as they were loaded."""

    def __init__(
        self, model: Model, estimator: DepthAnything | None, *, keeps: bool = True
    ) -> None:
        """Keep nothing yet.

        Args:
            model: whose VAE encodes.
            estimator: of depth; None where only supplied maps can be used.
            keeps: false where nothing is to be kept for the next request.
        """
        self._model = model
        self._estimator = estimator
        self._placed: Kept[PlacedDepth] = Kept(MOST_KEPT if keeps else 0)
        self._encoded: Kept[Any] = Kept(MOST_KEPT if keeps else 0)

    def place(self, source: SourceImage, request: GenerationRequest, canvas: Canvas) -> PlacedDepth:
        """Estimate the depth or take the supplied map, and lay it out on the canvas.

        Args:
            source: the picture or the supplied map.
            request: with how to take it.
            canvas: where to.

        Raises:
            NonFiniteError: the estimator produced NaN or infinity.
        """
        key = _key(source, request, canvas)
        kept = self._placed.get(key, lambda: self._make(key, source, request, canvas))
        # The caller gets the picture, and may draw on it.
        return replace(kept, picture=kept.picture.copy())

    def encode(self, placed: PlacedDepth) -> Any:
        """The distribution of a control image's latents; see `encode_control`."""
        return self._encoded.get(placed.key, lambda: encode_control(self._model, placed.control))

    def forget(self) -> None:
        """Let go of everything."""
        self._placed.clear()
        self._encoded.clear()

    def _make(
        self, key: Hashable, source: SourceImage, request: GenerationRequest, canvas: Canvas
    ) -> PlacedDepth:
        mode = request.depth_normalization
        quantized = is_quantized(mode)
        depth, warnings = self._depth_of(source, request)
        placed = place(depth, canvas, request.fit, far=far_value(mode))
        return PlacedDepth(
            key=key,
            control=control_image(placed, quantized=quantized),
            picture=depth_picture(placed, canvas, quantized=quantized),
            warnings=warnings,
        )

    def _depth_of(
        self, source: SourceImage, request: GenerationRequest
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Normalised depth, float32 [H, W] of the source's size, and warnings about it."""
        mode = request.depth_normalization
        if request.preprocess_depth and self._estimator is not None:
            return normalize(self._estimator.estimate(source.rgb), mode), ()
        supplied = read_supplied(
            source.rgb,
            source.grey16,
            is_coloured=source.is_coloured,
            invert=request.invert_depth,
        )
        return normalize_supplied(supplied.depth, mode), supplied.warnings


def _key(source: SourceImage, request: GenerationRequest, canvas: Canvas) -> Hashable:
    """Everything that decides a placed depth, but for what is fixed when an engine is loaded."""
    # The pixels, not the file: a caller's array may have changed since it was read.
    digest = hashlib.sha256(np.ascontiguousarray(source.rgb).data)
    if source.grey16 is not None:
        digest.update(np.ascontiguousarray(source.grey16).data)
    return (
        digest.digest(),
        source.size,
        source.grey16 is not None,
        canvas,
        request.fit,
        request.preprocess_depth,
        request.invert_depth,
        request.depth_normalization,
    )
