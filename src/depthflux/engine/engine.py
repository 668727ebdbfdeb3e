"""Load an engine, generate a prediction. `Engine._run` is the recipe, numbered as in the docs.

This file orders the steps and times them; how each is done is the business of the room it calls.
Knows nothing of servers, command lines or files other than the model's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from depthflux.canvas import Canvas, control_image, depth_picture, place
from depthflux.contract import GenerationRequest, OutputFile, Prediction, format_time
from depthflux.depth import (
    far_value,
    is_quantized,
    normalize,
    normalize_supplied,
    read_supplied,
)
from depthflux.depth.depth_anything import DepthAnything
from depthflux.engine import provenance
from depthflux.engine.compilation import Compilation, compile_model
from depthflux.engine.conditioning import Conditioning, condition, encode_control, encode_prompt
from depthflux.engine.constants import ConstantsMaker
from depthflux.engine.denoiser import HoistedTransformer, denoise
from depthflux.engine.failures import translated_failures, translated_load_failures
from depthflux.engine.latents import decode
from depthflux.engine.reference import denoise_in_diffusers_order
from depthflux.engine.selection import select_settings
from depthflux.engine.timing import PhaseClock
from depthflux.errors import GenerationError, InvalidParameterError, show
from depthflux.images import (
    EXTENSIONS,
    MEDIA_TYPES,
    ReadLimits,
    SourceImage,
    encode_image,
    read_image,
)
from depthflux.model.further_loras import LoraShelf, ShelfLora
from depthflux.model.loading import Model, load_model
from depthflux.model.placement import place as place_model
from depthflux.model.prepared import find_prepared, ingredients_of
from depthflux.model.quantization import choose_quantization
from depthflux.model.weights import ModelFiles, find_model
from depthflux.safety import SafetyChecker, placeholder
from depthflux.settings import ResolvedSettings

logger = logging.getLogger("depthflux")

#: Called after each step with the steps done and their total; may raise to stop the run.
OnStep = Callable[[int, int], None]


class Engine:
    """A loaded model that generates predictions; made by `load`.

    Calls may come from several threads; they run one after another, since the weights change in
    place with the control scale and the LoRAs.

    Attributes:
        settings: the effective settings and their sources.
        model: the modules.
        estimator: the depth estimator; None where only supplied depth maps can be used.
        safety: the safety checker.
        compilation: whether the transformer's blocks are compiled, and why.
        transformer: the model's, with its constant work before the loop; None in diffusers' order.
        loras: where a request's further LoRAs come from.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
        model: Model,
        estimator: DepthAnything | None,
        safety: SafetyChecker,
        compilation: Compilation,
        transformer: HoistedTransformer | None,
    ) -> None:
        self.settings = settings
        self.model = model
        self.transformer = transformer
        self.estimator = estimator
        self.safety = safety
        self.compilation = compilation
        self.loras = LoraShelf(settings.values, model.transformer)
        self._constants = ConstantsMaker(
            model,
            skip_steps=settings.values.skip_steps,
            keeps=settings.values.remember != "none",
        )
        # Taken now, not after painting: the files may be exchanged while the engine lives, and
        # hashing them is no part of an inference.
        self._facts = provenance.describe_engine(settings, model, estimator, compilation)
        self._lock = threading.RLock()
        self._running = False

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
            The prediction. No result is on disk before its `save`.

        Raises:
            InvalidParameterError: a field is unknown or out of range, or a LoRA is not there or
                does not fit, before anything is computed.
            UnreadableImageError: the control image is no usable picture.
            ImageFetchError: the control image could not be fetched.
            WeightsMissingError: depth is to be estimated, and there is no estimator.
            NonFiniteError: the model produced NaN or infinity.
            OutOfMemoryError: the device's memory ran out.
        """
        created_at = datetime.now(UTC)
        # 1  validate the request
        request = _as_request(request, fields).with_seed_drawn()
        if request.preprocess_depth and self.estimator is None:
            self.model.files.require_estimator()
        # 2  read the source image and LoRAs: before the lock, so that a slow host holds up nobody
        limits = ReadLimits.from_settings(self.settings.values)
        start = time.perf_counter()
        source = read_image(request.control_image, limits=limits)
        loras = self.loras.take(request.loras)
        read_ms = round(1000 * (time.perf_counter() - start))
        with self._alone(), torch.no_grad(), translated_failures(request):
            prediction = self._run(request, source, loras, created_at, on_step)
        prediction.timings["read"] = read_ms
        return prediction

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One run at a time: others wait, and a run inside a run is refused."""
        with self._lock:
            if self._running:
                raise GenerationError(
                    "generate was called from its own on_step; call it after the run is over."
                )
            self._running = True
            try:
                yield
            finally:
                self._running = False

    def _run(
        self,
        request: GenerationRequest,
        source: SourceImage,
        loras: list[ShelfLora],
        created_at: datetime,
        on_step: OnStep | None,
    ) -> Prediction:
        """The recipe from step 3 on."""
        clock = PhaseClock(self.model.placement.device)
        canvas = Canvas(*request.dimensions, grid=self.model.grid)
        quantized = is_quantized(request.depth_normalization)

        # 3-4  estimate the depth or take the given map, place it on the canvas
        with clock.phase("depth"):
            depth, warnings = self._depth_of(source, request)
            placed = place(depth, canvas, request.fit, far=far_value(request.depth_normalization))
            control = control_image(placed, quantized=quantized)
            depth_map = depth_picture(placed, canvas, quantized=quantized)

        # 5  bring the model to the asked control scale and LoRAs
        with clock.phase("control_scale"):
            further = [taken.lora for taken in loras]
            self.model.control_lora.set_scale(request.control_scale, further)

        # 6  encode the prompt
        with clock.phase("prompt"):
            prompt = encode_prompt(self.model, request.prompt)
            if prompt.cut:
                warnings.append(
                    f"the prompt is longer than {self.model.max_prompt_tokens} tokens; "
                    f"what follows was cut: {show(prompt.cut)}"
                )

        # 7  encode the control image
        with clock.phase("control"):
            conditioning = condition(
                self.model,
                prompt,
                encode_control(self.model, control),
                steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
            )

        # 8-9  everything else that is constant for the run, then for each picture the steps
        # 10  decode, crop to the asked size
        report = _progress(on_step, request.num_inference_steps * request.num_images)
        pictures: list[Image.Image] = []
        for seeds in self._batches(request.picture_seeds()):
            with clock.phase("denoise"):
                latents = self._denoise(conditioning, seeds, report)
            for tokens in latents.split(1):
                with clock.phase("decode"):
                    painted = decode(self.model, tokens, conditioning.height, conditioning.width)
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
        facts = {
            "created_at": format_time(created_at),
            **self._facts,
            **provenance.describe_run(request, source, loras, canvas, self.settings.values),
            "safety": self.safety.identity() if request.enable_safety_checker else {},
            "hardware": provenance.describe_machine(self.model.placement.device),
            "warnings": warnings,
        }
        return self._prediction(request, created_at, shown, depth_map, flags, facts, clock)

    def _batches(self, seeds: Sequence[int]) -> Iterator[Sequence[int]]:
        """The seeds of pictures that are denoised together."""
        most = self.settings.values.max_batch
        return (seeds[first : first + most] for first in range(0, len(seeds), most))

    def _denoise(
        self, conditioning: Conditioning, seeds: Sequence[int], report: Callable[[int], None]
    ) -> torch.Tensor:
        """Steps 8 and 9, in the order that the settings ask for."""
        if self.transformer is None:
            (seed,) = seeds
            return denoise_in_diffusers_order(self.model, conditioning, seed, report)
        constants = self._constants.make(conditioning)
        return denoise(self.model, self.transformer, conditioning, constants, seeds, report)

    def _depth_of(
        self, source: SourceImage, request: GenerationRequest
    ) -> tuple[np.ndarray, list[str]]:
        """Normalised depth, float32 [H, W] of the source's size, and warnings about it."""
        mode = request.depth_normalization
        if request.preprocess_depth and self.estimator is not None:
            return normalize(self.estimator.estimate(source.rgb), mode), []
        supplied = read_supplied(
            source.rgb,
            source.grey16,
            is_coloured=source.is_coloured,
            invert=request.invert_depth,
        )
        return normalize_supplied(supplied.depth, mode), list(supplied.warnings)

    def _prediction(
        self,
        request: GenerationRequest,
        created_at: datetime,
        pictures: list[Image.Image],
        depth_map: Image.Image,
        flags: list[bool],
        facts: dict[str, Any],
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
            created_at=created_at,
        )
        records = [
            provenance.record_of_picture(prediction.id, facts, index=i, seed=seed, withheld=flag)
            for i, (seed, flag) in enumerate(zip(request.picture_seeds(), flags, strict=True))
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
    quantization = choose_quantization(values.quantize, placement)
    files = find_model(values)
    if values.threads is not None:
        torch.set_num_threads(values.threads)
    with translated_load_failures(placement.device):
        ingredients = ingredients_of(files, placement, values.compat, quantization.kind)
        model = load_model(
            files,
            placement,
            compat=values.compat,
            master=values.master,
            quantized=quantization.kind,
            prepared=find_prepared(values.weights_dir.expanduser(), ingredients),
        )
        estimator = _load_estimator(files, placement.device)
    return engine_of(resolved, model, estimator)


def engine_of(resolved: ResolvedSettings, model: Model, estimator: DepthAnything | None) -> Engine:
    """An engine around a model that is loaded already; its blocks are packed and compiled.

    Args:
        resolved: the settings that the model was loaded with.
        model: whose control scale is still to be set.
        estimator: None where depth maps are supplied.

    Raises:
        DeviceError: something that the settings ask for cannot be had here.
    """
    values = resolved.values
    threshold = values.safety_threshold
    safety = SafetyChecker() if threshold is None else SafetyChecker(threshold=threshold)
    transformer = hoist(model) if values.order == "hoisted" else None
    compilation = compile_model(model, transformer, values)
    logger.info(
        "%s on %s in %s, compiled: %s (%s)",
        model.id,
        model.placement.device,
        values.dtype,
        compilation.applied,
        compilation.reason,
    )
    return Engine(resolved, model, estimator, safety, compilation, transformer)


def hoist(model: Model) -> HoistedTransformer:
    """Bring a model into the order in which what is constant is computed once."""
    # Convolutions are faster so, on GPUs and CPUs; the results differ in their last bits.
    model.vae.to(memory_format=torch.channels_last)
    return HoistedTransformer(model.transformer)


def _load_estimator(files: ModelFiles, device: torch.device) -> DepthAnything | None:
    """The depth estimator of a model; None where it has none, which is said."""
    if files.estimator is None:
        logger.warning("No depth estimator beside %s: supply depth maps.", files.folder)
        return None
    # float32: the estimator is small, and its depth then does not depend on the profile.
    return DepthAnything.load(files.estimator, device=device)


def _as_request(request: GenerationRequest | None, fields: dict[str, Any]) -> GenerationRequest:
    if request is None:
        return GenerationRequest(**fields)
    if not isinstance(request, GenerationRequest):
        raise InvalidParameterError(
            f"request={show(request)} is no GenerationRequest; give one, or its fields as keyword "
            "arguments.",
            field="request",
        )
    if fields:
        raise InvalidParameterError(
            f"{', '.join(fields)}: given beside a request; put them into the request instead.",
            field=next(iter(fields)),
        )
    return request


def _progress(on_step: OnStep | None, total: int) -> Callable[[int], None]:
    """Count steps over all pictures of a request."""
    done = 0

    def report(pictures: int) -> None:
        nonlocal done
        done += pictures
        if on_step is not None:
            on_step(done, total)

    return report
