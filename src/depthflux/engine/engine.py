"""Load an engine, generate a prediction. `Engine._run` is the recipe, numbered as in the docs.

This file orders the steps and times them; how each is done is the business of the room it calls.
Knows nothing of servers, command lines or files other than the model's.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from depthflux.canvas import Canvas, control_image, depth_picture, place
from depthflux.contract import GenerationRequest, OutputFile, Prediction
from depthflux.depth import (
    DepthEstimator,
    far_value,
    is_quantized,
    normalize,
    normalize_supplied,
    read_supplied,
)
from depthflux.depth.depth_anything import DEMO, DepthAnything
from depthflux.engine import provenance
from depthflux.engine.compilation import Compilation, compile_model
from depthflux.engine.conditioning import encode_control, encode_prompt, prepare_constants
from depthflux.engine.denoiser import OnStep, denoise
from depthflux.engine.failures import translated_failures
from depthflux.engine.latents import decode
from depthflux.engine.selection import select_settings
from depthflux.engine.timing import PhaseClock
from depthflux.errors import InvalidParameterError
from depthflux.images import (
    EXTENSIONS,
    MEDIA_TYPES,
    ReadLimits,
    SourceImage,
    encode_image,
    read_image,
)
from depthflux.model.loading import Model, load_model
from depthflux.model.placement import place as place_model
from depthflux.model.weights import find_model
from depthflux.safety import SafetyChecker, placeholder
from depthflux.settings import ResolvedSettings

logger = logging.getLogger("depthflux")


class Engine:
    """A loaded model that generates predictions; made by `load`.

    Calls may come from several threads; they run one after another, since the weights change in
    place with the control scale.

    Attributes:
        settings: the effective settings and their sources.
        model: the modules.
        estimator: the depth estimator; None where only supplied depth maps can be used.
        safety: the safety checker.
        compilation: whether the transformer's blocks are compiled, and why.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
        model: Model,
        estimator: DepthEstimator | None,
        safety: SafetyChecker,
        compilation: Compilation,
    ) -> None:
        self.settings = settings
        self.model = model
        self.estimator = estimator
        self.safety = safety
        self.compilation = compilation
        self._lock = threading.Lock()

    def generate(
        self,
        request: GenerationRequest | None = None,
        *,
        on_step: OnStep | None = None,
        **fields: Any,
    ) -> Prediction:
        """Make the pictures of a request.

        Args:
            request: the request; or its fields as keyword arguments instead.
            on_step: called after each denoising step with the steps done and their total over all
                pictures; whatever it raises stops the run and reaches the caller.
            fields: the request's fields, see `GenerationRequest`.

        Returns:
            The prediction. Nothing is written to disk.

        Raises:
            InvalidParameterError: a field is unknown or out of range, before anything is computed.
            UnreadableImageError: the control image is no usable picture.
            ImageFetchError: the control image could not be fetched.
            NonFiniteError: the model produced NaN or infinity.
            OutOfMemoryError: the device's memory ran out.
        """
        if request is None:
            request = GenerationRequest(**fields)
        elif fields:
            raise InvalidParameterError(
                f"{', '.join(fields)}: given beside a request; put them into the request instead.",
                field=next(iter(fields)),
            )
        with self._lock, torch.no_grad(), translated_failures(request):
            return self._run(request.with_seed_drawn(), on_step)

    def _run(self, request: GenerationRequest, on_step: OnStep | None) -> Prediction:
        """The recipe. Step 1, validating the request, has happened when it was made."""
        clock = PhaseClock(self.model.placement.device)
        canvas = self._canvas(request)
        quantized = is_quantized(request.depth_normalization)

        # 2-4  read the source image, estimate its depth, place it on the canvas
        with clock.phase("depth"):
            placed, source, warnings = self._place_depth(request, canvas)
            control = control_image(placed, quantized=quantized)
            depth_map = depth_picture(placed, canvas, quantized=quantized)

        # 5  bring the model to the asked control scale
        with clock.phase("control_scale"):
            self.model.control_lora.set_scale(request.control_scale)

        # 6  encode the prompt
        with clock.phase("prompt"):
            prompt = encode_prompt(self.model, request.prompt)
            if prompt.cut:
                warnings.append(
                    f"the prompt is longer than {self.model.max_prompt_tokens} tokens; "
                    f"what follows was cut: {prompt.cut!r}"
                )

        # 7-8  encode the control image, and everything else that is constant for the run
        with clock.phase("control"):
            conditioning = prepare_constants(
                self.model,
                prompt,
                encode_control(self.model, control),
                steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
            )

        # 9-10  for each picture: denoise, decode, crop to the asked size
        report = _progress(on_step, request.num_inference_steps * request.num_images)
        pictures: list[Image.Image] = []
        for seed in request.picture_seeds():
            with clock.phase("denoise"):
                latents = denoise(self.model, conditioning, seed, report)
            with clock.phase("decode"):
                painted = decode(self.model, latents, conditioning.height, conditioning.width)
                pictures.append(Image.fromarray(np.ascontiguousarray(canvas.crop(painted))))

        # 11  safety flags, withhold what is flagged
        with clock.phase("safety"):
            flags = [False] * len(pictures)
            if request.enable_safety_checker:
                flags = self.safety.flags(pictures)
            shown = [
                placeholder(picture.size) if flag else picture
                for picture, flag in zip(pictures, flags, strict=True)
            ]

        # 12  the prediction
        for warning in warnings:
            logger.warning("%s", warning)
        return self._prediction(request, canvas, source, shown, depth_map, flags, warnings, clock)

    def _canvas(self, request: GenerationRequest) -> Canvas:
        return Canvas(*request.dimensions, grid=self.model.grid)

    def _place_depth(
        self, request: GenerationRequest, canvas: Canvas
    ) -> tuple[np.ndarray, SourceImage, list[str]]:
        """Steps 2 to 4: the normalised depth on the canvas, the source image, warnings."""
        if request.preprocess_depth and self.estimator is None:
            self.model.files.require_estimator()
        limits = ReadLimits.from_settings(self.settings.values)
        source = read_image(request.control_image, limits=limits)
        mode = request.depth_normalization
        warnings: list[str] = []
        if request.preprocess_depth and self.estimator is not None:
            depth = normalize(self.estimator.estimate(source.rgb), mode)
        else:
            supplied = read_supplied(
                source.rgb,
                source.grey16,
                is_coloured=source.is_coloured,
                invert=request.invert_depth,
            )
            depth, warnings = normalize_supplied(supplied.depth, mode), list(supplied.warnings)
        return place(depth, canvas, request.fit, far=far_value(mode)), source, warnings

    def _prediction(
        self,
        request: GenerationRequest,
        canvas: Canvas,
        source: SourceImage,
        pictures: list[Image.Image],
        depth_map: Image.Image,
        flags: list[bool],
        warnings: list[str],
        clock: PhaseClock,
    ) -> Prediction:
        """Step 12: encode the pictures with their records and put the prediction together."""
        prediction = Prediction(
            request=request,
            model=self.model.id,
            images=pictures,
            depth_map=depth_map,
            files=[],
            has_nsfw_contents=flags,
            timings={},
            record={},
        )
        shared = {
            **provenance.record_header(prediction.id, prediction.created_at),
            **self._shared_record(request, canvas, source),
            "warnings": warnings,
        }
        records = [
            provenance.record_of_picture(shared, index=index, seed=seed, withheld=flag)
            for index, (seed, flag) in enumerate(zip(request.picture_seeds(), flags, strict=True))
        ]
        output_format = request.output_format
        with clock.phase("encode"):
            prediction.files = [
                OutputFile(
                    data=encode_image(picture, output_format, record=record),
                    media_type=MEDIA_TYPES[output_format],
                    extension=EXTENSIONS[output_format],
                )
                for picture, record in zip(pictures, records, strict=True)
            ]
        prediction.record = records[0]
        prediction.timings = clock.milliseconds()
        return prediction

    def _shared_record(
        self, request: GenerationRequest, canvas: Canvas, source: SourceImage
    ) -> dict[str, Any]:
        """What all records of a prediction share; depthflux.engine.provenance says what for."""
        model = self.model
        hashes = dict(model.files.sha256)
        lora, estimator = hashes.pop("control_lora"), hashes.pop("depth_estimator", "")
        card = self.estimator.card if self.estimator and request.preprocess_depth else None
        return {
            "request": provenance.describe_request(request),
            "control_image": provenance.describe_source(
                source, embed=self.settings.values.embed_control_image
            ),
            "depth": {
                "estimator": card.name if card else "supplied",
                "licence": card.licence if card else "",
                "gives": card.gives if card else "",
                "sha256": estimator if card else "",
                "normalization": request.depth_normalization,
            },
            "canvas": provenance.describe_canvas(canvas),
            "model": {"id": model.id, "sha256": hashes},
            "control_lora": {"sha256": lora, "scale": request.control_scale},
            "safety": self.safety.identity() if request.enable_safety_checker else {},
            "profile": self.settings.profile,
            "ran": {
                "dtype": str(model.placement.dtype).removeprefix("torch."),
                "compiled": self.compilation.applied,
                "reason": self.compilation.reason,
            },
            "versions": provenance.describe_versions(),
            "hardware": provenance.describe_machine(model.placement.device),
        }


def load(target: str | Path = "auto", **settings: Any) -> Engine:
    """Load an engine.

    Args:
        target: `auto` (FLUX where its weights are, else the packaged miniature where there is no
            CUDA either), a profile's name, the path of a profile's `.toml` file, or a folder laid
            out like FLUX.1-dev's.
        settings: single settings that win over the profile's, see `EngineSettings`.

    Raises:
        SettingsError: an unknown profile or setting, or a combination that cannot work.
        WeightsMissingError: the model's files are not there.
        WeightsCorruptError: they are damaged or do not fit together.
        DeviceError: the asked device cannot be had.
    """
    resolved = select_settings(target, environment=os.environ, arguments=settings)
    values = resolved.values
    placement = place_model(values)
    files = find_model(values)
    if values.threads is not None:
        torch.set_num_threads(values.threads)
    model = load_model(files, placement)
    # float32: the estimator is small, and its depth then does not depend on the profile.
    estimator = None
    if files.estimator is None:
        logger.warning("No depth estimator beside %s: supply depth maps.", files.folder)
    else:
        card = DEMO if files.is_demo else None
        estimator = DepthAnything.load(files.estimator, device=placement.device, card=card)
    threshold = values.safety_threshold
    safety = SafetyChecker() if threshold is None else SafetyChecker(threshold=threshold)
    compilation = compile_model(model, values)
    logger.info(
        "%s on %s in %s, compiled: %s (%s)",
        model.id,
        placement.device,
        values.dtype,
        compilation.applied,
        compilation.reason,
    )
    return Engine(resolved, model, estimator, safety, compilation)


def _progress(on_step: OnStep | None, total: int) -> Callable[[], None]:
    """Count steps over all pictures of a request."""
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total)

    return report
