"""Which steps are computed, and what stands for the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import depthflux
from depthflux.engine.stepcache import computed_steps, plan_steps

REQUEST = {"prompt": "a red cube on a green floor, white sky", "size": "512*512", "seed": 3}


def drawn(mask: list[bool]) -> str:
    return "".join("x" if computed else "." for computed in mask)


@pytest.mark.parametrize(
    ("steps", "share", "mask"),
    [
        pytest.param(28, 0.0, "x" * 28, id="nothing-skipped"),
        pytest.param(28, 0.5, "xxxxxxxx..x...x....x...x..xx", id="turbo"),
        pytest.param(28, 0.3, "xxxxxxxxx.x.x.x.xx.x.x.x.xxx", id="a-third"),
        pytest.param(8, 0.5, "xx..x..x", id="few-steps-begin-sooner"),
        pytest.param(4, 0.5, "xx.x", id="two-make-the-first-line-and-the-last-is-computed"),
        pytest.param(3, 0.6, "xxx", id="too-few-to-skip-any"),
        pytest.param(1, 0.6, "x", id="one-step"),
    ],
)
def test_the_mask_depends_on_the_number_of_steps_alone(steps: int, share: float, mask: str) -> None:
    assert drawn(computed_steps(steps, share)) == mask


@pytest.mark.parametrize("percent", [10, 25, 50, 58, 60])
def test_no_more_is_skipped_than_asked_and_the_ends_are_computed(percent: int) -> None:
    for steps in range(1, 51):
        mask = computed_steps(steps, percent / 100)

        assert len(mask) == steps
        assert mask.count(False) <= steps * percent // 100
        assert all(mask[:2])
        assert mask[-1]
        if steps >= 10:
            assert mask.count(False) == steps * percent // 100


def test_a_skipped_step_lies_on_the_line_through_the_two_computed_last() -> None:
    """A velocity that is linear in the noise level is extrapolated exactly."""
    levels = [1.0, 0.9, 0.7, 0.6, 0.2, 0.0]
    steps = plan_steps(levels, np.diff(levels).tolist(), 0.5)
    computed: list[float] = []

    for level, step in zip(levels[:-1], steps, strict=True):
        if step.weight is None:
            computed.append(3 * level + 1)
        else:
            older, newest = computed[-2:]
            assert older + step.weight * (newest - older) == pytest.approx(3 * level + 1)

    assert [step.weight is None for step in steps] == [True, True, False, False, True]


def test_skipping_runs_the_blocks_in_the_computed_steps_only_and_reports_all(
    miniature_8x: Path, room: Image.Image
) -> None:
    engine = depthflux.load("reference", model=str(miniature_8x), order="hoisted", skip_steps=0.5)
    calls: list[int] = []
    hook = engine.transformer.double[0].register_forward_hook(lambda *_: calls.append(1))
    done: list[int] = []

    prediction = engine.generate(
        **REQUEST,
        control_image=room,
        num_inference_steps=8,
        on_step=lambda step, _total: done.append(step),
    )
    hook.remove()

    again = engine.generate(**REQUEST, control_image=room, num_inference_steps=8)
    assert len(calls) == 4
    assert done == list(range(1, 9))
    assert prediction.images[0].tobytes() == again.images[0].tobytes()


def test_half_the_steps_skipped_paint_nearly_the_same_picture_of_the_demo(
    demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    """Nearer to all 28 steps than as many honest steps are."""
    turbo = depthflux.load("demo", skip_steps=0.5)

    whole, skipped, fewer = (
        np.asarray(engine.generate(**REQUEST, control_image=room, **steps).images[0], dtype=float)
        for engine, steps in (
            (demo_engine, {}),
            (turbo, {}),
            (demo_engine, {"num_inference_steps": 14}),
        )
    )

    assert np.abs(skipped - whole).mean() < 2.0, "grey values of 255"
    assert np.abs(skipped - whole).mean() < np.abs(fewer - whole).mean()
    assert not np.array_equal(skipped, whole)
