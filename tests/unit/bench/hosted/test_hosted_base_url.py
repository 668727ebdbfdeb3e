"""Where the key may go, and what is a key."""

from __future__ import annotations

import pytest

from depthflux.bench.hosted.accounts import KEY_VARIABLE, check_key, read_key
from depthflux.bench.hosted.base_url import (
    check_private,
    parse_base_url,
    result_path,
    submission_path,
    upload_path,
)
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.errors import UnreadableAnswerError
from depthflux.bench.hosted.surroundings import Surroundings
from depthflux.errors import SettingsError

KEY = "a-key-of-these-tests-0123456789"


def named(*addresses: str):
    return lambda host, port: list(addresses)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("https://api.wavespeed.ai", "https://api.wavespeed.ai"),
        ("https://api.wavespeed.ai/", "https://api.wavespeed.ai"),
        ("HTTPS://API.wavespeed.ai:443", "https://api.wavespeed.ai"),
        ("https://gateway.example:8443/flux/v1/", "https://gateway.example:8443/flux/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_a_base_address_may_have_a_port_a_prefix_and_a_slash(given, text):
    assert parse_base_url(given).text == text


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("https://me:hunter2@api.wavespeed.ai", "user name or password"),
        ("https://api.wavespeed.ai?key=1", "no query"),
        ("https://api.wavespeed.ai/#top", "no query and no fragment"),
        ("https://api.wavespeed.ai/#", "no query and no fragment"),
        ("ftp://api.wavespeed.ai", "only http and https"),
        ("api.wavespeed.ai", "only http and https"),
        ("", "only http and https"),
        ("https://api.wavespeed.ai/api/v2", "end it before /api"),
        ("https://api.wavespeed.ai/api/v2/", "end it before /api"),
        ("https://api.wavespeed.ai/gateway/api/v3", "end it before /api"),
        ("https://api.wavespeed.ai/api", "end it before /api"),
        ("https://api.wavespeed.ai//", "its path has other characters"),
        ("https://api.wavespeed.ai/a/../b", "its path has other characters"),
        ("https://api.wavespeed.ai/a%2e", "its path has other characters"),
        ("https://api.wavespeed.ai\\@evil.example", "a backslash"),
        ("https://api.wavespeed.ai\r\nX: 1", "a control character"),
        ("https://127.0.0.1:22", "another protocol's"),
        ("http://8.8.8.8", "cross the internet unencrypted"),
        ("http://[2606:4700::1]:80", "cross the internet unencrypted"),
    ],
)
def test_other_base_addresses_are_refused_before_anybody_is_asked(given, why):
    with pytest.raises(SettingsError, match=why) as caught:
        parse_base_url(given)

    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "https://" in caught.value.fix


@pytest.mark.parametrize(
    "addresses", [["93.184.216.34"], ["10.0.0.7", "93.184.216.34"], ["2606:4700::1"]]
)
def test_a_name_that_leads_to_a_public_address_is_refused_over_http(addresses):
    around = Surroundings(resolver=named(*addresses))

    with pytest.raises(SettingsError, match="unencrypted") as caught:
        HostedClient("http://box.example", KEY, surroundings=around)

    assert "Use https://box.example" in caught.value.fix


def test_a_name_without_an_address_is_refused_over_http():
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(SettingsError, match=r"box\.example cannot be resolved"):
        HostedClient("http://box.example", KEY, surroundings=Surroundings(resolver=unknown))


def test_private_names_may_be_asked_over_http_and_all_over_https():
    private = parse_base_url("http://box.example")
    public = parse_base_url("https://api.wavespeed.ai")

    check_private(private, named("192.168.1.7", "fd00::7", "100.64.0.1"))
    check_private(public, named())


def test_addresses_are_made_of_the_version_and_an_id():
    assert submission_path("v2") == "/api/v2/wavespeed-ai/flux-control-lora-depth"
    assert result_path("v3", "e683") == "/api/v3/predictions/e683/result"
    assert [upload_path("v2"), upload_path("v3")] == [
        "/api/v2/media/upload/binary",
        "/api/v3/media/uploads",
    ]


@pytest.mark.parametrize("id", ["", "..", "a/b", "a?b", "a#b", "a b", "ä", "a" * 129, "a\n"])
def test_what_could_lead_elsewhere_is_no_id(id):
    with pytest.raises(UnreadableAnswerError, match="an id has 1 to 128") as caught:
        result_path("v2", id)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "is not set"),
        ({KEY_VARIABLE: ""}, "is not set"),
        ({KEY_VARIABLE: "short"}, "5 characters"),
        ({KEY_VARIABLE: KEY + "x" * 1024}, "characters; 16 to 1024"),
        ({KEY_VARIABLE: f"{KEY}\n"}, "its 32. character"),
        ({KEY_VARIABLE: f" {KEY}"}, "its 1. character"),
        ({KEY_VARIABLE: f"{KEY}\r\nX-Other: 1"}, "its 32. character"),
        ({KEY_VARIABLE: f"{KEY}ä"}, "its 32. character"),
        ({KEY_VARIABLE: f"{KEY}\x7f"}, "its 32. character"),
    ],
)
def test_a_key_that_is_none_is_refused_without_being_shown(environment, why):
    with pytest.raises(SettingsError, match=why) as caught:
        read_key(environment)

    assert KEY_VARIABLE in str(caught.value)
    assert "key-of-these" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_key_is_taken_as_it_is():
    assert read_key({KEY_VARIABLE: KEY}) == KEY
    with pytest.raises(SettingsError, match="the key of the local server is no API key"):
        check_key("", "the key of the local server")
