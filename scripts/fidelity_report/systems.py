"""What is compared: diffusers' pipeline and depthflux's engine, each run whole and watched.

Hooks on the text encoders and the picture decoder see what comes out of and goes into them, alike
on both sides; the transformer is watched where its order takes its inputs. A single step is given
the same inputs in every order. Nothing of a run itself is rebuilt here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxControlPipeline
from safetensors.torch import load_file

import depthflux
from depthflux.engine.constants import Constants, Schedule, embed_text, make_rope
from depthflux.engine.denoiser import HoistedTransformer
from depthflux.engine.latents import decode, pack
from depthflux.engine.modulation import compute_modulations
from fidelity_report.models import CONTROL_LORA, SIDE, Case

GUIDANCE_SCALE = 3.5
#: diffusers gives its transformer the noise level, depthflux the timestep, a thousandfold.
TIMESTEPS = 1000
Inputs = dict[str, Any]


def nothing() -> torch.Tensor:
    """What was not seen yet."""
    return torch.empty(0)


@dataclass
class Trace:
    """What was seen of one run.

    Attributes:
        pooled: CLIP's vector, [1, pooled width].
        tokens: T5's hidden states, [1, T, joint width].
        control: the control latents, [1, S, 4·C].
        calls: the transformer's inputs in each step; in diffusers' order only.
        latents: what the picture decoder was given, as tokens [1, S, 4·C].
        picture: uint8 [H, W, 3].
    """

    pooled: torch.Tensor = field(default_factory=nothing)
    tokens: torch.Tensor = field(default_factory=nothing)
    control: torch.Tensor = field(default_factory=nothing)
    calls: list[Inputs] = field(default_factory=list)
    latents: torch.Tensor = field(default_factory=nothing)
    picture: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def noise(self) -> torch.Tensor:
        """The first step's latents, [1, S, 4·C]."""
        return self.calls[0]["hidden_states"].chunk(2, dim=-1)[0]


@dataclass(frozen=True)
class System:
    """One side of the comparison.

    Attributes:
        modules: holds diffusers' and transformers' modules, under diffusers' names.
        order: how its transformer takes a step, and what can be seen of it.
        paint: a case to a picture, uint8 [H, W, 3].
        decode: packed latents [1, S, 4·C] to a picture.
    """

    modules: Any
    order: DiffusersOrder | HoistedOrder
    paint: Callable[[Case], np.ndarray]
    decode: Callable[[torch.Tensor], np.ndarray]

    def run(self, case: Case) -> Trace:
        """Paint a case and keep what was seen."""
        with self._watched() as trace, self.order.watched(trace):
            trace.picture = self.paint(case)
        return trace

    def velocity(self, inputs: Inputs) -> torch.Tensor:
        """One denoising step's velocity [1, S, 4·C] from diffusers' transformer's inputs."""
        with torch.no_grad():
            return self.order.velocity(inputs)

    @contextmanager
    def _watched(self) -> Iterator[Trace]:
        trace = Trace()
        vae = self.modules.vae

        def after_clip(_: Any, __: Any, output: Any) -> None:
            trace.pooled = output.pooler_output

        def after_t5(_: Any, __: Any, output: Any) -> None:
            trace.tokens = output[0]

        def after_decoding(_: Any, inputs: tuple[torch.Tensor], __: Any) -> None:
            config = vae.config
            # float32: reading the latents off adds no rounding of its own.
            latents = (inputs[0].float() - config.shift_factor) * config.scaling_factor
            trace.latents = pack(latents)

        hooks = [
            self.modules.text_encoder.register_forward_hook(after_clip),
            self.modules.text_encoder_2.register_forward_hook(after_t5),
            vae.decoder.register_forward_hook(after_decoding),
        ]
        try:
            yield trace
        finally:
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True)
class DiffusersOrder:
    """Every step is a call of diffusers' transformer.

    Attributes:
        transformer: diffusers' module.
    """

    transformer: Any

    def velocity(self, inputs: Inputs) -> torch.Tensor:
        """One step's velocity, in the transformer's dtype."""
        velocity: torch.Tensor = self.transformer(**cast(inputs, self.transformer.dtype))[0]
        return velocity

    @contextmanager
    def watched(self, trace: Trace) -> Iterator[None]:
        """See the transformer's inputs."""

        def before_step(_: Any, __: Any, inputs: Inputs) -> None:
            trace.calls.append(
                {n: v.clone() if torch.is_tensor(v) else v for n, v in inputs.items()}
            )
            trace.control = trace.calls[-1]["hidden_states"].chunk(2, dim=-1)[1]

        hook = self.transformer.register_forward_pre_hook(before_step, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


@dataclass(frozen=True)
class HoistedOrder:
    """What is constant over the steps is computed before them.

    Attributes:
        engine: that runs so.
    """

    engine: depthflux.Engine

    def velocity(self, inputs: Inputs) -> torch.Tensor:
        """One step's velocity, float32, from constants made of its inputs in the model's dtype."""
        transformer = self.engine.transformer
        given = cast(inputs, transformer.dtype)
        latents, control = given["hidden_states"].chunk(2, dim=-1)
        constants = constants_of(self.engine.model.transformer, inputs, given)
        (step,) = constants.modulations
        return transformer.velocity(latents.float(), transformer.ends(control), constants, step)

    @contextmanager
    def watched(self, trace: Trace) -> Iterator[None]:
        """See the control latents."""
        transformer = self.engine.transformer
        self.engine.transformer = WatchedTransformer(transformer, trace)
        try:
            yield
        finally:
            self.engine.transformer = transformer


@dataclass(frozen=True)
class WatchedTransformer:
    """A hoisted transformer that tells the control latents it is given.

    Attributes:
        transformer: does the work.
        trace: is told.
    """

    transformer: HoistedTransformer
    trace: Trace

    def ends(self, control: torch.Tensor) -> Any:
        """The transformer's own."""
        self.trace.control = control.clone()
        return self.transformer.ends(control)

    def velocity(self, *arguments: Any) -> torch.Tensor:
        """The transformer's own."""
        return self.transformer.velocity(*arguments)


def constants_of(transformer: Any, inputs: Inputs, given: Inputs) -> Constants:
    """What the hoisted order computes before a run of one step.

    Args:
        transformer: diffusers' module.
        inputs: diffusers' transformer's, float32.
        given: the same in the model's dtype.
    """
    rows, columns = (2 * (1 + int(inputs["img_ids"][:, axis].max())) for axis in (1, 2))
    tokens = given["encoder_hidden_states"]
    timesteps = TIMESTEPS * inputs["timestep"]
    return Constants(
        text=embed_text(transformer, tokens),
        rope=make_rope(transformer, tokens.shape[1], rows, columns),
        modulations=compute_modulations(
            transformer, given["pooled_projections"], float(inputs["guidance"]), timesteps
        ),
        schedule=Schedule(timesteps, steps=[]),
    )


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The transformer's inputs in a dtype; the guidance is float32 in every run."""
    return {
        name: value.to(dtype) if torch.is_tensor(value) and name != "guidance" else value
        for name, value in inputs.items()
    }


def load_pipeline(folder: Path, dtype: torch.dtype) -> FluxControlPipeline:
    """FluxControlPipeline with the control LoRA loaded and not yet fused."""
    pipeline = FluxControlPipeline.from_pretrained(folder, dtype=dtype)
    pipeline.load_lora_weights(load_file(folder / CONTROL_LORA))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.requires_grad_(False)
    return pipeline


def pipeline_system(folder: Path, dtype: torch.dtype, *, steps: int) -> System:
    """FluxControlPipeline as its documentation uses it, the LoRA fused at scale 1."""
    pipeline = load_pipeline(folder, dtype)
    pipeline.fuse_lora()

    def paint(case: Case) -> np.ndarray:
        picture = pipeline(
            prompt=case.prompt,
            control_image=case.control.convert("RGB"),
            width=SIDE,
            height=SIDE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
            generator=torch.Generator().manual_seed(case.seed),
            max_sequence_length=pipeline.tokenizer_2.model_max_length,
        ).images[0]
        return np.asarray(picture)

    @torch.no_grad()
    def decode_latents(tokens: torch.Tensor) -> np.ndarray:
        config = pipeline.vae.config
        latents = pipeline._unpack_latents(tokens.to(dtype), SIDE, SIDE, pipeline.vae_scale_factor)
        latents = latents / config.scaling_factor + config.shift_factor
        pixels = pipeline.vae.decode(latents, return_dict=False)[0]
        return np.asarray(pipeline.image_processor.postprocess(pixels, output_type="pil")[0])

    return System(pipeline, DiffusersOrder(pipeline.transformer), paint, decode_latents)


def engine_system(folder: Path, profile: str, *, steps: int, **settings: Any) -> System:
    """An engine in a profile, with single settings of its own, at control scale 1."""
    # What another system encoded before would be no measurement of this one.
    settings |= {"model": str(folder), "device": "cpu", "remember": "none"}
    engine = depthflux.load(profile, **settings)
    engine.model.control_lora.set_scale(1.0)

    def paint(case: Case) -> np.ndarray:
        prediction = engine.generate(
            prompt=case.prompt,
            control_image=case.control,
            preprocess_depth=False,
            size=f"{SIDE}*{SIDE}",
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
            seed=case.seed,
            enable_safety_checker=False,
        )
        return np.asarray(prediction.images[0])

    hoisted = engine.transformer is not None
    # In the hoisted order the decoder is given float32, as after a run.
    dtype = torch.float32 if hoisted else engine.model.placement.dtype

    @torch.no_grad()
    def decode_latents(tokens: torch.Tensor) -> np.ndarray:
        side = SIDE // engine.model.vae_scale_factor
        return decode(engine.model, tokens.to(dtype), side, side)

    order = HoistedOrder(engine) if hoisted else DiffusersOrder(engine.model.transformer)
    return System(engine.model, order, paint, decode_latents)
