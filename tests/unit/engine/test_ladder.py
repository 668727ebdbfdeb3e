"""Memory that runs out: one retry, one step lower, lossless steps first, and all of it said."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import depthflux
from depthflux.canvas import Canvas
from depthflux.engine.conditioning import PromptEmbedding, encode_prompt
from depthflux.engine.ladder import DeviceMeter, Ladder, SimulatedMeter, meter_for
from depthflux.engine.preflight import measure
from depthflux.errors import OutOfMemoryError, SettingsError
from depthflux.model.footprint import ModelSize, Plan, estimate
from depthflux.model.loading import Model, open_model
from depthflux.model.placement import hold_to_limit
from depthflux.settings import EngineSettings

CPU = torch.device("cpu")
CANVAS = Canvas(512, 512, grid=16)
RUN = {"canvas": CANVAS, "steps": 4, "pictures": 1}
PHASES = ("depth", "control_scale", "prompt", "control", "denoise", "decode")
WHOLE = Plan.from_settings(EngineSettings())


@pytest.fixture
def model(miniature_8x: Path) -> Model:
    return depthflux.load("reference", model=str(miniature_8x)).model


@pytest.fixture
def size(model: Model) -> ModelSize:
    return measure(model.files, open_model(model.files))


def peak(size: ModelSize, *, steps: int = 4, **changes: Any) -> int:
    plan = Plan(**{**WHOLE.__dict__, **changes})
    return estimate(size, plan, CANVAS, steps=steps, reserve=0).peak_bytes


def attempt_on(model: Model, ladder: Ladder, calls: list[list[str]]) -> Callable[[list[str]], Any]:
    """A run's phases in their order, with the real encoder in the one for the prompt."""

    def attempt(notes: list[str]) -> PromptEmbedding:
        calls.append(notes)
        for phase in PHASES:
            ladder.enter(phase)
        with torch.no_grad():
            return encode_prompt(model, "a red sphere")

    return attempt


def test_a_run_that_fits_is_run_once_and_says_nothing(model: Model, size: ModelSize) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(peak(size)))
    calls: list[list[str]] = []

    ladder.run(attempt_on(model, ladder, calls), **RUN)

    assert calls == [[]]
    assert ladder.plan == WHOLE


def test_memory_that_runs_out_moves_the_text_encoders_and_the_run_succeeds(
    model: Model, size: ModelSize, caplog: pytest.LogCaptureFixture
) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(peak(size) - 1))
    calls: list[list[str]] = []
    with torch.no_grad():
        expected = encode_prompt(model, "a red sphere")

    with caplog.at_level(logging.WARNING, "depthflux"):
        embedding = ladder.run(attempt_on(model, ladder, calls), **RUN)

    assert calls == [[], ["memory ran out, so the text encoders were moved to host memory"]]
    assert "text encoders were moved to host memory; running the request again" in caplog.text
    assert torch.equal(embedding.tokens, expected.tokens), "nothing is lost"
    assert all(p.device.type == "meta" for p in model.text_encoder_2.parameters())


def test_a_step_stays_and_later_records_say_so(model: Model, size: ModelSize) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(peak(size) - 1))
    calls: list[list[str]] = []
    attempt = attempt_on(model, ladder, calls)

    ladder.run(attempt, **RUN)
    ladder.run(attempt, **RUN)

    assert len(calls) == 3, "the second request is not run twice"
    assert calls[2] == calls[1]


def test_a_request_takes_one_step_only_and_the_next_one_the_next(
    model: Model, size: ModelSize
) -> None:
    limit = peak(size, text_encoders="host", modulation="host")
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(limit))
    calls: list[list[str]] = []
    attempt = attempt_on(model, ladder, calls)

    with pytest.raises(OutOfMemoryError) as caught:
        ladder.run(attempt, **RUN)
    ladder.run(attempt, **RUN)

    assert len(calls) == 4
    assert (ladder.plan.text_encoders, ladder.plan.modulation) == ("host", "host")
    assert not ladder.plan.vae_tiling
    message = str(caught.value)
    assert "after the text encoders were moved to host memory" in message
    assert "size=512*512 is estimated at" in message
    assert "lower size" in message
    assert "\n" not in message


def test_steps_come_in_order_lossless_first_until_none_is_left(
    model: Model, size: ModelSize
) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(1))
    weight = model.transformer.norm_out.linear.weight.clone()
    ladder.enter("decode")

    done = [ladder.lower() for _ in range(4)]

    assert done == [
        "the text encoders were moved to host memory",
        "the modulation linears were moved to host memory",
        "pictures are decoded in tiles, which changes pixels a little",
        None,
    ]
    assert torch.equal(model.transformer.norm_out.linear.weight, weight)
    assert ladder.plan.vae_tiling


def test_tiles_are_no_help_but_for_decoding(model: Model, size: ModelSize) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(1))
    ladder.enter("control")

    done = [ladder.lower() for _ in range(3)]

    assert done[-1] is None
    assert not ladder.plan.vae_tiling


def test_pictures_denoised_together_are_first_denoised_alone(model: Model, size: ModelSize) -> None:
    ladder = Ladder(model, size, Plan(**{**vars(WHOLE), "batch": 3}), SimulatedMeter(1))
    ladder.enter("denoise")

    assert ladder.lower() == "pictures are denoised one at a time"
    assert ladder.plan.batch == 1


def test_tiles_that_did_not_help_are_taken_back(model: Model, size: ModelSize) -> None:
    """One request too large must not change the pictures of those that come after it."""
    plan = Plan(**{**vars(WHOLE), "text_encoders": "host", "modulation": "host"})
    ladder = Ladder(model, size, plan, SimulatedMeter(10**12))

    def attempt(_notes: list[str]) -> None:
        ladder.enter("decode")
        raise torch.OutOfMemoryError("the decoder's activation")

    with pytest.raises(OutOfMemoryError, match="after pictures are decoded in tiles"):
        ladder.run(attempt, **RUN)

    notes: list[list[str]] = []
    ladder.run(notes.append, **RUN)
    assert ladder.plan == plan
    assert notes == [[]]


def test_in_diffusers_order_the_modulations_stay_where_each_step_needs_them(
    model: Model, size: ModelSize
) -> None:
    plan = Plan.from_settings(EngineSettings(order="diffusers"))
    ladder = Ladder(model, size, plan, SimulatedMeter(1))
    ladder.enter("decode")

    done = [ladder.lower() for _ in range(3)]

    assert done[1] == "pictures are decoded in tiles, which changes pixels a little"
    assert done[2] is None


def test_what_a_failed_run_computed_is_gone_before_the_second_one(
    model: Model, size: ModelSize
) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(peak(size)))
    left: list[weakref.ref[torch.Tensor]] = []

    def attempt(notes: list[str]) -> bool:
        if notes:
            return left[0]() is None
        activation = torch.zeros(8)
        left.append(weakref.ref(activation))
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert ladder.run(attempt, **RUN)


def test_a_request_that_cannot_fit_is_refused_before_it_is_run(
    model: Model, size: ModelSize
) -> None:
    least = peak(size, text_encoders="host", modulation="host", vae_tiling=True)
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(least // 2))
    calls: list[list[str]] = []
    large = Canvas(1536, 1536, grid=16)

    with pytest.raises(OutOfMemoryError, match=r"size=1536\*1536 needs at least .* lower size"):
        ladder.run(attempt_on(model, ladder, calls), **RUN | {"canvas": large})

    assert calls == []


def test_another_failure_is_not_tried_again(model: Model, size: ModelSize) -> None:
    ladder = Ladder(model, size, WHOLE, SimulatedMeter(peak(size)))
    calls: list[list[str]] = []

    def attempt(notes: list[str]) -> None:
        calls.append(notes)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        ladder.run(attempt, **RUN)

    assert calls == [[]]


def test_the_cpu_is_metered_only_where_a_limit_is_simulated() -> None:
    assert meter_for(CPU, 2.5) == SimulatedMeter(2_500_000_000)
    assert meter_for(CPU, None) == DeviceMeter(CPU)
    assert DeviceMeter(CPU).available() is None


# Through the engine -------------------------------------------------------------------------------

REQUEST = {"prompt": "a red sphere", "size": "512*512", "num_inference_steps": 2, "seed": 1}
REQUEST |= {"preprocess_depth": False}


def engine_with(folder: Path, **settings: Any) -> Any:
    return depthflux.load(
        "exact", model=str(folder), device="cpu", dtype="float32", remember="none", **settings
    )


def test_an_engine_without_memory_to_spare_paints_the_same_picture_and_says_what_it_did(
    miniature_8x: Path, depth_ramp: Any
) -> None:
    free = engine_with(miniature_8x)
    expected = free.generate(**REQUEST, control_image=depth_ramp)
    tight = engine_with(miniature_8x)
    size = measure(free.model.files, open_model(free.model.files))
    tight.ladder.meter = SimulatedMeter(peak(size, steps=2) - 1)

    prediction = tight.generate(**REQUEST, control_image=depth_ramp)

    assert prediction.images[0].tobytes() == expected.images[0].tobytes()
    assert "text encoders were moved to host memory" in prediction.record["warnings"][-1]
    assert expected.record["warnings"] == []


def test_parts_on_the_host_from_the_start_paint_the_same_picture(
    miniature_8x: Path, depth_ramp: Any
) -> None:
    pictures = [
        engine_with(miniature_8x, modulation=home, text_encoders=home)
        .generate(**REQUEST, control_image=depth_ramp)
        .images[0]
        for home in ("device", "host")
    ]

    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    miniature_8x: Path,
) -> None:
    with pytest.raises(SettingsError, match=r"profile exact needs .* of cpu's memory"):
        engine_with(miniature_8x, memory_limit_gb=0.001)


def test_a_refusal_names_a_gpus_profiles_on_a_gpu_only(miniature_8x: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        engine_with(miniature_8x, memory_limit_gb=0.001)

    assert "gpu" not in str(caught.value.fix)
    assert "memory_limit_gb" in str(caught.value.fix)


@pytest.mark.gpu
def test_a_gpu_held_to_a_limit_runs_out_there_and_the_request_is_run_again(
    depth_ramp: Any,
) -> None:
    """The miniature with so little room that a real allocation fails at 1024 x 1024."""
    engine = depthflux.load("demo", device="cuda", remember="none", memory_limit_gb=40)
    engine.generate(**REQUEST, control_image=depth_ramp)
    room = torch.cuda.memory_allocated() + 100_000_000
    hold_to_limit(engine.model.placement.device, room / 1e9)
    torch.cuda.empty_cache()
    try:
        prediction = engine.generate(**REQUEST | {"size": "1024*1024"}, control_image=depth_ramp)
        said = prediction.record["warnings"]
    except OutOfMemoryError as error:
        said = [str(error)]
    finally:
        hold_to_limit(engine.model.placement.device, 40)

    assert "text encoders were moved to host memory" in said[-1]
