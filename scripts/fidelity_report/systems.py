"""What is compared: diffusers' pipeline and depthflux's engine, each run whole and watched.

Hooks on the transformer and on the picture decoder see what goes in and out, alike on both sides;
nothing of the run itself is rebuilt here.
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
from depthflux.engine.latents import decode, pack
from fidelity_report.models import CONTROL_LORA, SIDE, Case

GUIDANCE_SCALE = 3.5
Inputs = dict[str, Any]


@dataclass
class Trace:
    """What was seen of one run.

    Attributes:
        calls: the transformer's inputs in each step.
        latents: what the picture decoder was given, as tokens [1, S, 4·C].
        picture: uint8 [H, W, 3].
    """

    calls: list[Inputs] = field(default_factory=list)
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    picture: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def noise(self) -> torch.Tensor:
        """The first step's latents, [1, S, 4·C]."""
        return self.calls[0]["hidden_states"].chunk(2, dim=-1)[0]

    @property
    def control(self) -> torch.Tensor:
        """The control latents, [1, S, 4·C]."""
        return self.calls[0]["hidden_states"].chunk(2, dim=-1)[1]


@dataclass(frozen=True)
class System:
    """One side of the comparison.

    Attributes:
        transformer: diffusers' module.
        vae: diffusers' module.
        paint: a case to a picture, uint8 [H, W, 3].
        decode: packed latents [1, S, 4·C] to a picture.
    """

    transformer: Any
    vae: Any
    paint: Callable[[Case], np.ndarray]
    decode: Callable[[torch.Tensor], np.ndarray]

    def run(self, case: Case) -> Trace:
        """Paint a case and keep what was seen."""
        with self._watched() as trace:
            trace.picture = self.paint(case)
        return trace

    def velocity(self, inputs: Inputs) -> torch.Tensor:
        """One denoising step's velocity from given inputs, in the transformer's dtype."""
        with torch.no_grad():
            return self.transformer(**cast(inputs, self.transformer.dtype))[0]

    @contextmanager
    def _watched(self) -> Iterator[Trace]:
        trace = Trace()

        def before_step(_: Any, __: Any, inputs: Inputs) -> None:
            trace.calls.append(
                {n: v.clone() if torch.is_tensor(v) else v for n, v in inputs.items()}
            )

        def after_decoding(_: Any, inputs: tuple[torch.Tensor], __: Any) -> None:
            config = self.vae.config
            trace.latents = pack((inputs[0] - config.shift_factor) * config.scaling_factor)

        hooks = [
            self.transformer.register_forward_pre_hook(before_step, with_kwargs=True),
            self.vae.decoder.register_forward_hook(after_decoding),
        ]
        try:
            yield trace
        finally:
            for hook in hooks:
                hook.remove()


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

    return System(pipeline.transformer, pipeline.vae, paint, decode_latents)


def engine_system(folder: Path, profile: str, *, steps: int, **settings: Any) -> System:
    """An engine in a profile, with single settings of its own, at control scale 1."""
    engine = depthflux.load(profile, model=str(folder), device="cpu", **settings)
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

    @torch.no_grad()
    def decode_latents(tokens: torch.Tensor) -> np.ndarray:
        side = SIDE // engine.model.vae_scale_factor
        return decode(engine.model, tokens.to(engine.model.placement.dtype), side, side)

    return System(engine.model.transformer, engine.model.vae, paint, decode_latents)
