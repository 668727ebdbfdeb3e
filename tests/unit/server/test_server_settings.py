"""What `depthflux serve` is told: declared once, layered, refused with everything that is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError, SettingsError
from depthflux.server.keys import Keys
from depthflux.server.serving import require_keys
from depthflux.server.settings import (
    ServerSettings,
    default_data_dir,
    describe_setting,
    resolve_server_settings,
)

FIELDS = ServerSettings.model_fields


def resolve(environment: dict[str, str] | None = None, **arguments: Any) -> ServerSettings:
    return resolve_server_settings(environment=environment or {}, arguments=arguments)


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt="a room", **fields)


def test_without_anything_the_defaults_hold_and_each_is_one_that_may_be_given() -> None:
    settings = resolve()

    assert (settings.host, settings.port, settings.devices) == ("127.0.0.1", 8000, "auto")
    given = {name: value for name, value in settings.model_dump().items() if value is not None}
    assert ServerSettings.model_validate(given) == settings


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_says_what_it_is_and_what_it_takes(name: str) -> None:
    assert str(FIELDS[name].description).endswith(".")
    assert describe_setting(name)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_be_set_in_the_environment(name: str) -> None:
    value = getattr(resolve(), name)
    text = "https://here.example" if name == "public_url" else str(value or 1)

    settings = resolve({f"DEPTHFLUX_SERVER_{name.upper()}": text})

    assert str(getattr(settings, name)) in (text, str(Path(text)))


def test_arguments_are_stronger_than_the_environment_and_that_than_the_defaults() -> None:
    environment = {
        "DEPTHFLUX_SERVER_PORT": "1234",
        "DEPTHFLUX_SERVER_MAX_QUEUED": "5",
        "DEPTHFLUX_STEPS": "not a setting of the server",
        "SERVER_PORT": "1",
    }

    settings = resolve(environment, port=4321)

    assert (settings.port, settings.max_queued, settings.max_attempts) == (4321, 5, 3)


def test_the_data_lies_in_the_users_folder_for_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    named = default_data_dir()
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert named == tmp_path / "depthflux" / "server"
    assert resolve().data_dir == tmp_path / ".local" / "share" / "depthflux" / "server"


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match=r"prot: there is no such setting; did you mean port\?"):
        resolve({"DEPTHFLUX_SERVER_PROT": "1"})


def test_all_unknown_names_are_said_at_once() -> None:
    with pytest.raises(SettingsError, match="no such setting") as caught:
        resolve({"DEPTHFLUX_SERVER_MAX_QUED": "1"}, devises="cpu", zzz=1)

    for name in ("max_qued", "devises", "zzz"):
        assert f"{name}: there is no such setting" in str(caught.value)
    assert caught.value.fix == "See: depthflux serve --help."


def test_all_values_that_are_not_allowed_are_said_at_once_with_what_is() -> None:
    with pytest.raises(SettingsError, match="not allowed") as caught:
        resolve({"DEPTHFLUX_SERVER_PORT": "eight"}, max_queued=0, moderation="delete")

    text = str(caught.value)
    assert "port='eight' is not allowed; allowed: a whole number from 0 to 65535." in text
    assert "max_queued=0 is not allowed; allowed: a whole number from 1." in text
    assert "moderation='delete' is not allowed; allowed: flag or fail." in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("host", ["example.org", "", "127.0.0.1:80", "127.1", "http://127.0.0.1", "LOCALHOST"]),
        ("port", [-1, 65536, "http", 80.5, ""]),
        (
            "public_url",
            [
                "here.example",
                "ftp://a",
                "https://",
                "https://a/b",
                "https://a?b",
                "x\n",
                "https://a:b",
                "https://:::",
                "https://[a]",
                "https://a:99999",
            ],
        ),
        (
            "allowed_hosts",
            ["", ",", "a,", "a b", "a:8000", "https://a", "*.a", "**", "a/b", "[::1", "a..b", "ä"],
        ),
        ("devices", ["", "gpu", "cuda:", "cuda:0,", ",cpu", "cuda:0, cuda:1", "auto,cpu", "cpu\n"]),
        ("max_queued", [0, -1, "many"]),
        ("key_requests_per_minute", [-1]),
        ("key_max_active", [-1]),
        ("max_images", [0, 5]),
        ("max_steps", [0, 51]),
        ("max_megapixels", [0, -1, "nan"]),
        ("max_attempts", [0, 11]),
        ("moderation", ["none", ""]),
        ("sync_timeout_s", [0, -1, 3601, "inf", "nan"]),
        ("drain_timeout_s", [-1, 3601]),
        ("worker_silence_s", [0, 0.5, 3601]),
        ("retention_days", [0, -1, 3651, "inf", "nan"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_outside_of_what_is_allowed_are_refused(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(SettingsError, match=f"^{name}=.* is not allowed; allowed: ") as caught:
            resolve(**{name: value})

        assert describe_setting(name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("host", ["0.0.0.0", "::1", "::", "localhost", "192.168.1.2"]),  # noqa: S104
        ("port", [0, 65535]),
        ("public_url", ["http://a", "https://a.example:8443", "http://[::1]:80"]),
        ("allowed_hosts", ["*", "a", "a.example", "my_gpu, b.example.", "a,*", "10.0.0.1,[::1]"]),
        ("devices", ["auto", "cpu", "cuda", "cuda:0", "cuda:0,cuda:1", "cuda:0,cuda:0,cpu"]),
        ("max_images", [1, 4]),
        ("max_steps", [1, 50]),
        ("drain_timeout_s", [0, 3600]),
        ("sync_timeout_s", [0.1, 3600]),
        ("retention_days", [0.001, 3650]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_at_the_ends_of_what_is_allowed_are_taken(name: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(resolve(**{name: value}), name) == value


def test_settings_do_not_change_once_they_are_made() -> None:
    settings = resolve()

    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1

    assert settings.port == 8000


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:0.0.0.0", False),
        ("::ffff:192.168.1.2", False),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("192.168.1.2", False),
        ("10.0.0.1", False),
        ("8.8.8.8", False),
        ("fe80::1", False),
        ("2001:db8::1", False),
    ],
)
def test_only_loopback_addresses_let_nobody_but_this_machine_in(
    host: str, is_loopback: bool
) -> None:
    settings = resolve(host=host)

    assert settings.is_loopback is is_loopback
    require_keys(settings, Keys(["a-key-of-these-tests"]))
    if is_loopback:
        require_keys(settings, Keys([]))
    else:
        with pytest.raises(SettingsError, match=f"host={re.escape(settings.host)} lets other"):
            require_keys(settings, Keys([]))


def test_allowed_names_are_those_that_hosts_are_compared_by() -> None:
    assert resolve().allowed_host_names == set()
    assert resolve(allowed_hosts="GPU.example., b,*").allowed_host_names == {
        "gpu.example",
        "b",
        "*",
    }


@pytest.mark.parametrize(
    ("devices", "names"),
    [("auto", []), ("cpu", ["cpu"]), ("cuda:1,cuda:0", ["cuda:1", "cuda:0"])],
)
def test_devices_are_named_in_their_order(devices: str, names: list[str]) -> None:
    assert resolve(devices=devices).device_names == names


# A server's own caps ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"size": "1536*1536", "num_images": 4, "num_inference_steps": 50}],
    ids=["the default, 864*1636", "the largest there is"],
)
def test_without_caps_all_that_the_contract_allows_is_allowed(fields: dict[str, Any]) -> None:
    resolve().require_allowed(request(**fields))


@pytest.mark.parametrize(
    ("caps", "fields", "message"),
    [
        ({"max_images": 2}, {"num_images": 3}, "num_images=3 .* allowed: at most 2"),
        (
            {"max_steps": 8},
            {"num_inference_steps": 9},
            "num_inference_steps=9 .* allowed: at most 8",
        ),
        (
            {"max_megapixels": 0.5},
            {"size": "1024*512"},
            r"size='1024\*512' .* at most 0\.5 million pixels",
        ),
        (
            {"max_images": 1, "max_steps": 1},
            {"num_images": 2, "num_inference_steps": 2},
            "^num_images=2",
        ),
    ],
    ids=["pictures", "steps", "pixels", "the first of two"],
)
def test_a_request_that_asks_for_more_than_a_cap_is_refused_and_one_at_it_is_not(
    caps: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    settings = resolve(**caps)

    with pytest.raises(InvalidParameterError, match=message) as caught:
        settings.require_allowed(request(**{"size": "512*512"} | fields))

    assert caught.value.field == next(iter(fields))
    assert caught.value.value == next(iter(fields.values()))
    at_the_cap = request(
        num_images=settings.max_images, num_inference_steps=settings.max_steps, size="512*512"
    )
    settings.require_allowed(at_the_cap)


def test_of_a_depth_map_alone_only_the_size_is_capped() -> None:
    settings = resolve(max_images=1, max_steps=1, max_megapixels=0.5)

    settings.require_allowed(
        request(size="512*512", num_images=4, num_inference_steps=50, only_depth_map=True)
    )
    with pytest.raises(InvalidParameterError, match=r"size='1024\*512'"):
        settings.require_allowed(request(size="1024*512", only_depth_map=True))
