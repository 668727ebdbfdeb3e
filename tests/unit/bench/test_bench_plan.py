"""What may be timed, and what is refused before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from depthflux.bench.plan import SpeedPlan, make_plan
from depthflux.errors import InvalidParameterError, SettingsError

ASKED = {
    "model": "small",
    "sizes": (),
    "systems": "E,exact",
    "steps": None,
    "repeat": 7,
    "warmup": 2,
    "num_images": 1,
    "seed": 1,
}


def plan_of(**changed: Any) -> SpeedPlan:
    return make_plan(**{**ASKED, **changed})


def test_a_plan_takes_the_model_s_own_size_and_steps() -> None:
    plan = plan_of(model="full")

    assert plan.sizes == ("1024*1024",)
    assert plan.steps == 28


def test_systems_run_in_the_order_they_are_named_and_once() -> None:
    plan = plan_of(systems="exact, E,C,exact")

    assert plan.systems == ("exact", "E", "C")
    assert plan.tiers == ("exact",)


@pytest.mark.parametrize("model", ["small", "demo"])
@pytest.mark.parametrize("asked", ["864*1636", "864*1632"])
def test_the_hosted_default_is_timed_as_diffusers_rounds_it(asked: str, model: str) -> None:
    """On both grids, of 16 and of 32 pixels."""
    plan = plan_of(model=model, sizes=(asked,))

    assert plan.sizes == ("864*1632",)
    assert plan.asked == ({"864*1632": "864*1636"} if asked == "864*1636" else {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"systems": "E,exactt"}, r"exactt: there is no such system", id="system"),
        pytest.param({"systems": " , "}, r"systems=' , ' names none; allowed: E, C, F", id="none"),
        pytest.param({"model": "huge"}, r"huge: there is no such model", id="model"),
        pytest.param(
            {"repeat": 0}, r"repeat=0 is out of range; allowed: .* 1 to 1000", id="repeat"
        ),
        pytest.param({"warmup": 0}, r"warmup=0 is out of range", id="warmup"),
        pytest.param({"seed": -1}, r"seed=-1 is out of range; allowed: .* from 0", id="seed"),
        pytest.param({"steps": 51}, r"num_inference_steps=51", id="steps"),
        pytest.param({"num_images": 5}, r"num_images=5", id="images"),
        pytest.param({"sizes": ["520*512"]}, r"size='520\*512'.*next below is 512\*512", id="grid"),
        pytest.param(
            {"model": "demo", "sizes": ["528*512"]}, r"multiples of 32 .* 512\*512", id="demo-grid"
        ),
        pytest.param({"sizes": ["256*512"]}, r"size='256\*512' has width 256", id="range"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        plan_of(**changed)


def test_a_setting_that_no_profile_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match="atention"):
        plan_of(settings={"atention": "auto"})


def test_a_plan_is_made_without_importing_torch() -> None:
    script = "import sys, depthflux.bench.plan; print('torch' in sys.modules)"

    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout

    assert told == "False\n"
