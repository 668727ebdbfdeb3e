"""Generate a prediction. `Engine._run` is the recipe, numbered as in the docs.

This file orders the steps and times them; how each is done is the business of the room it calls.
Knows nothing of servers, command lines or how a model is loaded (depthflux.engine.loading).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from PIL import Image

from depthflux.canvas import Canvas
from depthflux.contract import GenerationRequest, Prediction, format_time
from depthflux.depth.depth_anything import DepthAnything
from depthflux.engine import provenance
from depthflux.engine.attention import attention_by
from depthflux.engine.attention_choice import choose_attention
from depthflux.engine.compilation import Compilation, compiling
from depthflux.engine.conditioning import Conditioning, condition
from depthflux.engine.constants import ConstantsMaker
from depthflux.engine.controls import ControlEncoder
from depthflux.engine.denoiser import HoistedTransformer, denoise
from depthflux.engine.failures import translated_failures
from depthflux.engine.ladder import Ladder
from depthflux.engine.latents import decode
from depthflux.engine.output import FinishedPicture, Finisher
from depthflux.engine.prompts import PromptEncoder
from depthflux.engine.reference import denoise_in_diffusers_order
from depthflux.engine.timing import PhaseClock
from depthflux.errors import GenerationError, InvalidParameterError, NonFiniteError, show
from depthflux.images import ReadLimits, SourceImage, read_image
from depthflux.model.footprint import Phase
from depthflux.model.further_loras import LoraShelf, ShelfLora
from depthflux.model.loading import Model
from depthflux.model.quantization import choose_quantization
from depthflux.safety import SafetyChecker
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
        attention: which kernel computes the blocks' attention, and why.
        transformer: the model's, with its constant work before the loop; None in diffusers' order.
        loras: where a request's further LoRAs come from.
        ladder: what is done when memory runs out, and what of it was done.
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
        config = model.transformer.config
        self.attention = choose_attention(
            settings.values,
            model.placement,
            config.num_attention_heads,
            config.attention_head_dim,
        )
        self.ladder = Ladder.of(model, settings.values)
        self.loras = LoraShelf(settings.values, model.transformer)
        keeps = settings.values.remember != "none"
        self._prompts = PromptEncoder(model, settings.values)
        self._controls = ControlEncoder(model, estimator, keeps=keeps)
        self._constants = ConstantsMaker(
            model,
            skip_steps=settings.values.skip_steps,
            keeps=keeps,
        )
        # Taken now, not after painting: the files may be exchanged while the engine lives, and
        # hashing them is no part of an inference.
        ran = provenance.describe_running(
            settings.values,
            compilation,
            choose_quantization(settings.values.quantize, model.placement).kind,
            self.attention.kernel,
        )
        self._facts = provenance.describe_engine(settings, model, estimator, ran)
        self._lock = threading.RLock()
        self._running = False

    def generate(
        self,
        request: GenerationRequest | None = None,
        *,
        on_step: OnStep | None = None,
        on_begin: Callable[[], None] | None = None,
        **fields: Any,
    ) -> Prediction:
        """Make the pictures of a request.

        Args:
            request: the request; or its fields as keyword arguments instead.
            on_step: called after each denoising step with the steps done and their total over all
                pictures; whatever it raises stops the run and reaches the caller. It counts anew
                where memory ran out and the run begins a second time. A depth map alone has none.
            on_begin: called once when the control image and LoRAs have been read and no other run
                goes on any more; whatever it raises stops the run, too.
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
        loras = [] if request.only_depth_map else self.loras.take(request.loras)
        read_ms = round(1000 * (time.perf_counter() - start))
        with self._alone(), torch.no_grad(), translated_failures(request):
            if on_begin is not None:
                on_begin()
            try:
                prediction = self.ladder.run(
                    lambda notes: self._run(request, source, loras, created_at, on_step, notes),
                    Canvas(*request.dimensions, grid=self.model.grid),
                    steps=request.num_inference_steps,
                    pictures=request.picture_count,
                    let_go=self._forget,
                )
            except NonFiniteError:
                # Its cause may lie in what is kept, and would meet the next request there.
                self._forget()
                raise
        prediction.timings["read"] = read_ms
        return prediction

    def _forget(self) -> None:
        """Let go of everything that is kept in memory for the next request."""
        self._prompts.forget()
        self._controls.forget()
        self._constants.forget()

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
        notes: list[str],
    ) -> Prediction:
        """The recipe from step 3 on; the notes are what the ladder has done, for the record."""
        clock = PhaseClock(self.model.placement.device)
        canvas = Canvas(*request.dimensions, grid=self.model.grid)

        # 3-4  estimate the depth or take the given map, place it on the canvas
        with self._phase(clock, "depth"):
            placed = self._controls.place(source, request, canvas)
            warnings = [*placed.warnings, *notes]
        # Where the map alone is asked for it is the one picture, and nothing is painted or judged.
        if request.only_depth_map:
            facts = self._facts_of(request, source, loras, canvas, warnings, created_at)
            with self._finisher(request, facts) as finisher, clock.phase("encode"):
                finisher.add(placed.picture)
                finished = finisher.finished()
            return _prediction(request, self.model.id, placed.picture, finished, clock, created_at)

        # 5  bring the model to the asked control scale and LoRAs
        with self._phase(clock, "control_scale"):
            further = [taken.lora for taken in loras]
            self.model.control_lora.set_scale(request.control_scale, further)

        # 6  encode the prompt
        with self._phase(clock, "prompt"):
            prompt = self._prompts.encode(request.prompt)
            if prompt.cut:
                warnings.append(
                    f"the prompt is longer than {self.model.max_prompt_tokens} tokens; "
                    f"what follows was cut: {show(prompt.cut)}"
                )

        # 7  encode the control image
        with self._phase(clock, "control"):
            conditioning = condition(
                self.model,
                prompt,
                self._controls.encode(placed),
                steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
            )

        # 8-9  everything else that is constant for the run, then for each picture the steps
        # 10  decode, crop to the asked size
        report = _progress(on_step, request.num_inference_steps * request.num_images)
        facts = self._facts_of(request, source, loras, canvas, warnings, created_at)
        with self._finisher(request, facts) as finisher:
            for seeds in self._batches(request.picture_seeds()):
                with self._phase(clock, "denoise"):
                    latents = self._denoise(conditioning, seeds, report)
                for tokens in latents.split(1):
                    with self._phase(clock, "decode"):
                        painted = decode(
                            self.model,
                            tokens,
                            conditioning.height,
                            conditioning.width,
                            tiled=self.ladder.plan.vae_tiling,
                        )
                        finisher.add(Image.fromarray(np.ascontiguousarray(canvas.crop(painted))))

            # 11  safety flags, withhold what is flagged; encode
            with clock.phase("safety"):
                finisher.wait_for_flags()
            with clock.phase("encode"):
                finished = finisher.finished()

        # 12  the prediction
        return _prediction(request, self.model.id, placed.picture, finished, clock, created_at)

    def _facts_of(
        self,
        request: GenerationRequest,
        source: SourceImage,
        loras: list[ShelfLora],
        canvas: Canvas,
        warnings: list[str],
        created_at: datetime,
    ) -> dict[str, Any]:
        """What the records of a request's pictures share."""
        safety = self._safety_for(request)
        return {
            "created_at": format_time(created_at),
            **self._facts,
            # A step down the ladder stays, and some change pixels.
            "ran": {
                **self._facts["ran"],
                "vae_tiling": self.ladder.plan.vae_tiling,
                "max_batch": self.ladder.plan.batch,
            },
            **provenance.describe_run(request, source, loras, canvas, self.settings.values),
            "safety": safety.identity() if safety else {},
            "hardware": provenance.describe_machine(self.model.placement.device),
            "warnings": warnings,
        }

    def _finisher(self, request: GenerationRequest, facts: dict[str, Any]) -> Finisher:
        """What judges, withholds and encodes a request's pictures."""
        prediction, seeds = uuid.uuid4().hex, request.picture_seeds()

        def describe(index: int, withheld: bool) -> dict[str, Any]:
            return provenance.record_of_picture(
                prediction, facts, index=index, seed=seeds[index], withheld=withheld
            )

        return Finisher(request.output_format, self._safety_for(request), describe)

    def _safety_for(self, request: GenerationRequest) -> SafetyChecker | None:
        """What judges a request's pictures; None where nothing does."""
        is_judged = request.enable_safety_checker and not request.only_depth_map
        return self.safety if is_judged else None

    @contextmanager
    def _phase(self, clock: PhaseClock, phase: Phase) -> Iterator[None]:
        """Time a phase that needs the device's memory, and begin it on the meter."""
        with clock.phase(phase):
            self.ladder.enter(phase)
            yield

    def _batches(self, seeds: Sequence[int]) -> Iterator[Sequence[int]]:
        """The seeds of pictures that are denoised together."""
        most = self.ladder.plan.batch
        return (seeds[first : first + most] for first in range(0, len(seeds), most))

    def _denoise(
        self, conditioning: Conditioning, seeds: Sequence[int], report: Callable[[int], None]
    ) -> torch.Tensor:
        """Steps 8 and 9, in the order that the settings ask for."""
        with compiling(), attention_by(self.attention.kernel):
            if self.transformer is None:
                (seed,) = seeds
                return denoise_in_diffusers_order(self.model, conditioning, seed, report)
            constants = self._constants.make(conditioning)
            return denoise(self.model, self.transformer, conditioning, constants, seeds, report)


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


def _prediction(
    request: GenerationRequest,
    model: str,
    depth_map: Image.Image,
    finished: Sequence[FinishedPicture],
    clock: PhaseClock,
    created_at: datetime,
) -> Prediction:
    """Step 12: put the prediction together, and say what there is to say."""
    record = finished[0].record
    for warning in record["warnings"]:
        logger.warning("%s", warning)
    return Prediction(
        request=request,
        model=model,
        images=[one.picture.convert("RGB") for one in finished],
        depth_map=depth_map,
        files=[one.file for one in finished],
        has_nsfw_contents=[one.withheld for one in finished],
        timings=clock.milliseconds(),
        record=record,
        id=record["prediction"],
        created_at=created_at,
    )


def _progress(on_step: OnStep | None, total: int) -> Callable[[int], None]:
    """Count steps over all pictures of a request."""
    done = 0

    def report(pictures: int) -> None:
        nonlocal done
        done += pictures
        if on_step is not None:
            on_step(done, total)

    return report
