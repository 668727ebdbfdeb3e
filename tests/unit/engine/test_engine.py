"""What a caller of `Engine.generate` relies on."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image

import depthflux
from depthflux.engine.reference import denoise_in_diffusers_order
from depthflux.errors import InvalidParameterError, NonFiniteError

SMALL = {"prompt": "a blue cube", "size": "512*512", "num_inference_steps": 2, "seed": 5}


def pixels(prediction: depthflux.Prediction) -> list[np.ndarray]:
    return [np.asarray(image) for image in prediction.images]


def test_several_pictures_equal_single_requests_with_the_following_seeds(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    three = engine_8x.generate(**SMALL | {"num_images": 3}, control_image=room)

    singles = [
        engine_8x.generate(**SMALL | {"seed": seed}, control_image=room) for seed in (5, 6, 7)
    ]
    for picture, single in zip(pixels(three), singles, strict=True):
        assert np.array_equal(picture, pixels(single)[0])
    assert not np.array_equal(pixels(three)[0], pixels(three)[1])


def test_seeds_wrap_round_at_ten_to_the_ten(engine_8x: depthflux.Engine, room: Image.Image) -> None:
    last = engine_8x.generate(
        **SMALL | {"seed": 9_999_999_999, "num_images": 2}, control_image=room
    )

    first = engine_8x.generate(**SMALL | {"seed": 0}, control_image=room)
    assert np.array_equal(pixels(last)[1], pixels(first)[0])


def test_a_random_seed_is_drawn_recorded_and_repeats_the_picture(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    drawn = engine_8x.generate(**SMALL | {"seed": -1}, control_image=room)

    seed = drawn.record["picture"]["seed"]
    again = engine_8x.generate(**SMALL | {"seed": seed}, control_image=room)
    assert 0 <= seed <= 9_999_999_999
    assert np.array_equal(pixels(drawn)[0], pixels(again)[0])


@pytest.mark.parametrize(
    ("engine_name", "size"),
    [
        ("engine_8x", "512*512"),
        ("engine_8x", "520*701"),
        ("engine_8x", "864*1636"),
        ("demo_engine", "520*700"),
    ],
)
def test_pictures_and_depth_map_come_out_exactly_as_large_as_asked(
    size: str, engine_name: str, room: Image.Image, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(engine_name)

    prediction = engine.generate(
        prompt="a red sphere", size=size, num_inference_steps=1, control_image=room
    )

    width, height = map(int, size.split("*"))
    assert prediction.images[0].size == (width, height)
    assert prediction.depth_map.size == (width, height)
    assert prediction.depth_map.mode == "L"
    assert prediction.images[0].mode == "RGB"


def test_the_control_image_changes_the_picture_and_at_scale_zero_it_does_not(
    engine_8x: depthflux.Engine, room: Image.Image, depth_ramp: Image.Image
) -> None:
    guided = [
        pixels(engine_8x.generate(**SMALL, control_image=image))[0] for image in (room, depth_ramp)
    ]
    # From the same seed: the control's latents are drawn first, as many for either image.
    unguided = [
        pixels(engine_8x.generate(**SMALL, control_scale=0, control_image=image))[0]
        for image in (room, depth_ramp)
    ]

    assert not np.array_equal(*guided)
    assert np.array_equal(*unguided)


def test_steps_are_reported_over_all_pictures(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    seen: list[tuple[int, int]] = []

    engine_8x.generate(
        **SMALL | {"num_images": 2},
        control_image=room,
        on_step=lambda step, total: seen.append((step, total)),
    )

    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_run_inside_a_run_is_refused(engine_8x: depthflux.Engine, room: Image.Image) -> None:
    def again(step: int, total: int) -> None:
        engine_8x.generate(**SMALL, control_image=room)

    with pytest.raises(depthflux.GenerationError, match="from its own on_step"):
        engine_8x.generate(**SMALL, control_image=room, on_step=again)

    assert engine_8x.generate(**SMALL, control_image=room).images


def test_calls_from_several_threads_give_what_they_give_alone(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    requests = [SMALL | {"seed": seed, "control_scale": seed / 4} for seed in range(4)]
    alone = [pixels(engine_8x.generate(**request, control_image=room))[0] for request in requests]

    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda r: engine_8x.generate(**r, control_image=room), requests)

    assert all(np.array_equal(a, pixels(b)[0]) for a, b in zip(alone, together, strict=True))


def test_without_a_control_image_the_documented_address_is_fetched(
    engine_8x: depthflux.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no_network(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(depthflux.ImageFetchError, match="cannot be resolved") as caught:
        engine_8x.generate(**SMALL)

    assert asked == ["d2g64w682n9w0w.cloudfront.net"]
    assert caught.value.hosted_code == 1402


def test_created_at_is_when_the_request_was_taken(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    before = datetime.now(UTC)
    started: list[datetime] = []

    prediction = engine_8x.generate(
        **SMALL, control_image=room, on_step=lambda *_: started.append(datetime.now(UTC))
    )

    assert before <= prediction.created_at <= started[0]


@pytest.mark.parametrize("request_", [{"prompt": "x"}, "x"], ids=["dict", "text"])
def test_what_is_no_request_is_refused(engine_8x: depthflux.Engine, request_: object) -> None:
    with pytest.raises(InvalidParameterError, match="is no GenerationRequest"):
        engine_8x.generate(request_)


def test_whatever_on_step_raises_stops_the_run_and_the_engine_goes_on_working(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    steps: list[int] = []

    def stop_after_one(step: int, total: int) -> None:
        steps.append(step)
        raise depthflux.CancelledError("asked to stop")

    with pytest.raises(depthflux.CancelledError, match="asked to stop"):
        engine_8x.generate(**SMALL, control_image=room, on_step=stop_after_one)
    after = engine_8x.generate(**SMALL, control_image=room)

    assert steps == [1]
    assert after.images


def test_a_request_object_and_its_fields_give_the_same_picture(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    request = depthflux.GenerationRequest(**SMALL, control_image=room)

    assert np.array_equal(
        pixels(engine_8x.generate(request))[0],
        pixels(engine_8x.generate(**SMALL, control_image=room))[0],
    )


def test_fields_beside_a_request_object_are_refused(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    request = depthflux.GenerationRequest(**SMALL, control_image=room)

    with pytest.raises(InvalidParameterError, match="seed: given beside a request"):
        engine_8x.generate(request, seed=3)


def test_unknown_fields_are_refused_with_the_nearest_known_one(
    engine_8x: depthflux.Engine,
) -> None:
    with pytest.raises(InvalidParameterError, match="did you mean control_scale"):
        engine_8x.generate(prompt="x", control_scal=1.0)


def test_non_finite_latents_are_an_error_that_names_the_step(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    transformer = engine_8x.model.transformer
    calls = 0

    def poison(_module: object, _inputs: object, output: tuple[torch.Tensor]) -> tuple:
        nonlocal calls
        calls += 1
        return (output[0] * float("nan"),) if calls == 2 else output

    hook = transformer.register_forward_hook(poison)
    try:
        with pytest.raises(NonFiniteError, match="denoising step 2 of 3") as caught:
            engine_8x.generate(**SMALL | {"num_inference_steps": 3}, control_image=room)
    finally:
        hook.remove()

    assert caught.value.step == 2


def test_a_long_prompt_is_cut_with_a_warning_in_the_record(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    prompt = "a red sphere and a blue cube on a green floor, white sky " * 8

    prediction = engine_8x.generate(**SMALL | {"prompt": prompt}, control_image=room)

    (warning,) = prediction.record["warnings"]
    limit = engine_8x.model.max_prompt_tokens
    assert warning.startswith(f"the prompt is longer than {limit} tokens; what follows was cut:")
    assert "white sky" in warning


def test_timings_are_whole_milliseconds_by_phase_and_the_total_is_no_less(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    prediction = engine_8x.generate(**SMALL, control_image=room)

    timings = prediction.envelope()["data"]["timings"]
    phases = {name: value for name, value in timings.items() if name not in ("inference", "read")}
    assert set(phases) == {
        "depth", "control_scale", "prompt", "control", "denoise", "decode", "safety", "encode",
    }  # fmt: skip
    assert all(isinstance(value, int) for value in timings.values())
    assert timings["inference"] + len(phases) >= sum(phases.values())


@pytest.mark.parametrize("mode", ["minmax", "percentile", "bfl_raw"])
def test_every_normalisation_reaches_the_model(
    mode: str, engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    prediction = engine_8x.generate(**SMALL, depth_normalization=mode, control_image=room)

    mode_of = prediction.record["request"]["depth_normalization"]
    plain = engine_8x.generate(**SMALL, control_image=room)
    same = np.array_equal(pixels(prediction)[0], pixels(plain)[0])
    assert mode_of == mode
    assert same == (mode == "minmax"), "the others give the model other values"


def test_a_supplied_depth_map_reaches_the_model_as_it_is(
    engine_8x: depthflux.Engine, depth_ramp: Image.Image
) -> None:
    prediction = engine_8x.generate(**SMALL, preprocess_depth=False, control_image=depth_ramp)

    assert np.array_equal(np.asarray(prediction.depth_map), np.asarray(depth_ramp))
    assert prediction.record["request"]["preprocess_depth"] is False


def test_a_supplied_map_inverted_is_the_inverse(
    engine_8x: depthflux.Engine, depth_ramp: Image.Image
) -> None:
    prediction = engine_8x.generate(
        **SMALL, preprocess_depth=False, invert_depth=True, control_image=depth_ramp
    )

    assert np.array_equal(np.asarray(prediction.depth_map), 255 - np.asarray(depth_ramp))


def test_a_coloured_supplied_map_warns(engine_8x: depthflux.Engine, room: Image.Image) -> None:
    prediction = engine_8x.generate(**SMALL, preprocess_depth=False, control_image=room)

    assert any("coloured" in warning for warning in prediction.record["warnings"])


def test_the_control_image_is_encoded_once_per_request(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    encoder = engine_8x.model.vae.encoder
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    unseen = room.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    hook = encoder.register_forward_hook(count)
    try:
        engine_8x.generate(**SMALL | {"num_images": 3}, control_image=unseen)
    finally:
        hook.remove()

    assert calls == 1


def test_flagged_pictures_are_withheld_and_never_in_the_files(
    miniature_8x: object, room: Image.Image, tmp_path: object
) -> None:
    clear = depthflux.load("reference", model=str(miniature_8x)).generate(
        **SMALL, control_image=room, enable_safety_checker=False
    )

    strict = depthflux.load("reference", model=str(miniature_8x), safety_threshold=0.0)
    withheld = strict.generate(**SMALL, control_image=room)
    envelope = withheld.save(tmp_path)

    assert clear.has_nsfw_contents == [False]
    assert withheld.has_nsfw_contents == [True]
    assert envelope["data"]["has_nsfw_contents"] == [True]
    saved = Image.open(envelope["data"]["outputs"][0].removeprefix("file://"))
    assert not np.array_equal(np.asarray(saved), pixels(clear)[0])
    assert np.array_equal(np.asarray(saved), pixels(withheld)[0])


def test_denoise_draws_control_latents_before_noise(engine_8x: depthflux.Engine) -> None:
    """Order of draws: with the control's spread at zero the noise still comes second."""
    model = engine_8x.model
    drawn: list[tuple[int, ...]] = []
    generator = torch.Generator().manual_seed(3)

    class Control:
        mean = torch.zeros(1, 16, 4, 4)

        def sample(self, generator: torch.Generator) -> torch.Tensor:
            drawn.append(("control", generator.initial_seed()))
            return torch.randn(self.mean.shape, generator=generator)

    from depthflux.engine.conditioning import condition, encode_prompt

    with torch.no_grad():
        prompt = encode_prompt(model, "x")
        conditioning = condition(model, prompt, Control(), steps=1, guidance_scale=3.5)
        recorded: list[torch.Tensor] = []
        hook = model.transformer.register_forward_pre_hook(
            lambda _m, _a, kwargs: recorded.append(kwargs["hidden_states"]), with_kwargs=True
        )
        denoise_in_diffusers_order(model, conditioning, 3, lambda _pictures: None)
        hook.remove()

    from depthflux.engine.latents import pack

    torch.randn(1, 16, 4, 4, generator=generator)
    noise = pack(torch.randn(1, 16, 4, 4, generator=generator))
    assert drawn == [("control", 3)]
    assert torch.equal(recorded[0][..., :64], noise)
