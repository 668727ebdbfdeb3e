"""The switches of speed and memory: on or off, with the reason, before any weight is read."""

from __future__ import annotations

import pytest
import torch

from depthflux.engine.switches import SWITCHES, Switch, check_switches, switches_of
from depthflux.errors import DeviceError, SettingsError
from depthflux.model.placement import Placement
from depthflux.settings import EngineSettings, profile_names, resolve_settings

CPU = Placement(torch.device("cpu"), torch.bfloat16, "as set")


def switch(name: str, placement: Placement = CPU, **values: object) -> Switch:
    return SWITCHES[name](EngineSettings(**values), placement)


def test_every_switch_answers_for_every_profile_with_a_reason() -> None:
    for profile in profile_names():
        switches = switches_of(resolve_settings(profile).values, CPU)

        assert [found.name for found in switches] == list(SWITCHES)
        assert all(found.reason for found in switches)


def test_quantizing_without_compiling_on_the_cpu_is_refused_with_the_way_out() -> None:
    settings = EngineSettings(quantize="int8", compile="auto")

    with pytest.raises(SettingsError, match=r"compile=true, or quantize=none") as caught:
        check_switches(settings, CPU)

    assert "quantize=int8 without compiling would be slower" in str(caught.value)
    refused = {s.name: s for s in switches_of(settings, CPU)}["compilation"]
    assert not refused.applied
    assert refused.reason.startswith("refused: quantize=int8")


def test_quantizing_compiled_on_the_cpu_is_possible() -> None:
    check_switches(EngineSettings(quantize="int8", compile=True), CPU)

    found = switch("quantization", quantize="auto", compile=True)
    assert found.applied
    assert found.reason.startswith("int8 in the blocks' large linears, an approximation")


def test_a_kernel_that_cannot_run_is_refused() -> None:
    with pytest.raises(DeviceError, match="attention=cudnn cannot run on CPU"):
        check_switches(EngineSettings(attention="cudnn"), CPU)


def test_diffusers_order_switches_off_what_changes_the_order() -> None:
    settings = EngineSettings(order="diffusers")
    off = {found.name for found in switches_of(settings, CPU) if not found.applied}

    assert {"hoisting", "attention", "channels_last", "quantization", "batching"} <= off


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("hoisting", {}, "before the loop"),
        ("attention", {"attention": "math"}, "math (as set)"),
        ("step_skipping", {"skip_steps": 0.5}, "50% of the steps, an approximation"),
        ("batching", {"max_batch": 4}, "up to 4 pictures"),
        ("vae_tiling", {"vae_tiling": True}, "seams"),
        ("remember", {"remember": "memory"}, "in memory"),
        ("compilation", {"compile": True}, "as set: each kind of block as one graph"),
        ("channels_last", {}, "convolutions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_switch_that_is_on_says_what_it_does(
    name: str, value: dict[str, object], words: str
) -> None:
    found = switch(name, **value)

    assert found.applied
    assert words in found.reason


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("attention", {}, "torch's own choice"),
        ("compilation", {}, "auto: not on the CPU"),
        ("compilation", {"compile": False}, "switched off"),
        ("quantization", {}, "not asked for"),
        ("step_skipping", {}, "every step"),
        ("batching", {}, "one after another"),
        ("modulation_home", {"modulation": "host"}, "the device is the host"),
        ("text_encoders_home", {"text_encoders": "cpu"}, "the device is the host"),
        ("remember", {"remember": "none"}, "encoded anew"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_switch_that_is_off_says_why(name: str, value: dict[str, object], words: str) -> None:
    found = switch(name, **value)

    assert not found.applied
    assert words in found.reason


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("modulation_home", {"modulation": "host"}, "streamed"),
        ("text_encoders_home", {"text_encoders": "host"}, "streamed for a new prompt"),
        ("text_encoders_home", {"text_encoders": "cpu"}, "on the CPU, and run there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_homes_away_from_a_gpu_are_told(name: str, value: dict[str, str], words: str) -> None:
    found = switch(name, Placement(torch.device("cuda:0"), torch.bfloat16, ""), **value)

    assert found.applied
    assert words in found.reason
