"""Settings: four layers, each value knows where it came from, contradictions are said early."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthflux.errors import SettingsError
from depthflux.settings import EngineSettings, profile_names, resolve_settings


def test_layers_win_in_order_and_sources_are_remembered() -> None:
    resolved = resolve_settings(
        "demo",
        environment={"DEPTHFLUX_THREADS": "3", "DEPTHFLUX_DTYPE": "bfloat16", "HOME": "/x"},
        arguments={"threads": 2},
    )

    assert resolved.values.model == "demo"
    assert resolved.sources["model"] == "profile demo"
    assert (resolved.values.dtype, resolved.sources["dtype"]) == (
        "bfloat16",
        "environment DEPTHFLUX_DTYPE",
    )
    assert (resolved.values.threads, resolved.sources["threads"]) == (2, "argument")
    assert (resolved.values.device, resolved.sources["device"]) == ("cpu", "profile demo")
    assert resolved.sources["max_image_bytes"] == "default"


def test_the_nodes_variables_are_no_settings_though_one_setting_begins_like_them() -> None:
    resolved = resolve_settings(
        "demo",
        environment={
            "DEPTHFLUX_COMFYUI_ADDRESS": "http://127.0.0.1:9000",
            "DEPTHFLUX_COMFYUI_API_KEY": "key",
            "DEPTHFLUX_COMFYUI_DIR": "/comfyui",
        },
    )

    assert resolved.values.comfyui_dir == Path("/comfyui")
    assert resolved.sources["comfyui_dir"] == "environment DEPTHFLUX_COMFYUI_DIR"


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_resolves_and_says_why(name: str) -> None:
    resolved = resolve_settings(name)

    assert resolved.profile == name
    text = (Path(__file__).parents[2] / "configs" / f"{name}.toml").read_text()
    values = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    assert all("#" in line or line.startswith("model") for line in values)


def test_the_profiles_of_the_first_release_are_there() -> None:
    assert {"reference", "demo", "exact", "cpu"} <= set(profile_names())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"profile": "demmo"}, "profile demmo: .*did you mean demo"),
        ({"profile": "demo", "arguments": {"devise": "cpu"}}, "devise: .*did you mean device"),
        ({"profile": "demo", "environment": {"DEPTHFLUX_DTYP": "x"}}, "did you mean dtype"),
        ({"profile": "demo", "arguments": {"dtype": "fp16"}}, r"dtype='fp16' \(argument\)"),
        ({"profile": "demo", "arguments": {"device": "gpu"}}, "device='gpu'"),
        ({"profile": "demo", "arguments": {"threads": 0}}, "threads=0"),
        ({"profile": "demo", "arguments": {"control_lora": "x"}}, "has a control LoRA of its own"),
        ({"profile": "/none/x.toml"}, "cannot read the profile"),
        ({"profile": "demo", "arguments": {"compile": "maybe"}}, "allowed: true, false or auto"),
        ({"profile": "demo", "arguments": {"safety_threshold": 2}}, "a number from 0 to 1"),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_with_a_hint(call: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        resolve_settings(**call)

    assert "\n" not in str(caught.value)


def test_none_takes_back_what_weaker_layers_set() -> None:
    resolved = resolve_settings(
        "demo",
        environment={"DEPTHFLUX_CONTROL_LORA": "x", "DEPTHFLUX_THREADS": "3"},
        arguments={"control_lora": None, "threads": None},
    )

    assert (resolved.values.control_lora, resolved.values.threads) == (None, None)
    assert resolved.sources["threads"] == "default"


def test_variables_are_text_that_is_read_by_the_settings_type() -> None:
    resolved = resolve_settings(
        "exact",
        environment={
            "DEPTHFLUX_WEIGHTS_DIR": "2024",
            "DEPTHFLUX_MODEL": "1",
            "DEPTHFLUX_COMPILE": "false",
            "DEPTHFLUX_SAFETY_THRESHOLD": "0.5",
            "DEPTHFLUX_THREADS": "null",
        },
    ).values

    assert (resolved.weights_dir, resolved.model) == (Path("2024"), "1")
    assert (resolved.compile, resolved.safety_threshold, resolved.threads) == (False, 0.5, None)


def test_a_profile_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("x = " + "[" * 100_000)

    with pytest.raises(SettingsError, match="no valid TOML"):
        resolve_settings(path)


def test_a_profile_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = "demo"\nthreads = 1\n')

    resolved = resolve_settings(path)

    assert (resolved.profile, resolved.values.threads) == ("mine", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [("threads = ", "no valid TOML"), ("thread = 1\n", "did you mean threads")],
    ids=["syntax", "unknown"],
)
def test_a_bad_profile_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=message):
        resolve_settings(path)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in EngineSettings.model_fields.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory_limit_gb", float("inf")), ("memory_limit_gb", True), ("max_batch", True)],
)
def test_no_infinity_and_no_truth_value_is_taken_for_a_number(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"{name}=.* is not allowed; allowed: a"):
        resolve_settings("demo", arguments={name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"quantize": "int8"},
        {"skip_steps": 0.5},
        {"max_batch": 2},
        {"modulation": "host"},
        {"attention": "math"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_needs_the_hoisted_order_is_refused_in_diffusers(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(SettingsError, match=f"{name}=.*: order=diffusers computes as diffusers"):
        resolve_settings("reference", arguments=settings)


def test_eight_bits_without_compiling_are_refused() -> None:
    with pytest.raises(SettingsError, match="quantize=int8 with compile=false would be slower"):
        resolve_settings("exact", arguments={"quantize": "int8", "compile": False})
