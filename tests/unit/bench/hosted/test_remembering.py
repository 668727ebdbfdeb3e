"""Measured local sides begin every request anew, unless the user wants otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthflux.bench.hosted.local_server import LocalServer
from depthflux.bench.hosted.planning import make_plan
from depthflux.bench.hosted.profiles import find_profile
from depthflux.bench.hosted.remembering import measured_settings


@pytest.mark.parametrize(
    ("environment", "settings", "remember"),
    [
        pytest.param({}, {}, "none", id="nothing said"),
        pytest.param({}, {"remember": "memory"}, "memory", id="an argument"),
        pytest.param({"DEPTHFLUX_REMEMBER": "disk"}, {}, None, id="a variable, which stays"),
        pytest.param({"DEPTHFLUX_REMEMBER": "disk"}, {"remember": None}, "none", id="taken back"),
    ],
)
def test_nothing_is_remembered_unless_it_is_said(
    environment: dict[str, str], settings: dict[str, str | None], remember: str | None
) -> None:
    given = {"threads": 2, **settings}

    measured = measured_settings("exact", environment=environment, settings=given)

    assert measured.get("remember") == remember
    assert measured["threads"] == 2


def test_a_profile_of_the_user_s_own_may_say_it_too(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('remember = "memory"\n')

    measured = measured_settings(str(profile), environment={}, settings={})

    assert measured == {}


def test_plan_profile_and_server_are_told_alike(tmp_path: Path) -> None:
    plan = make_plan(suite="quick", profile="demo")

    profile = find_profile("demo", plan)

    server = LocalServer("demo", profile.arguments, device="cpu", log=tmp_path / "log")
    assert plan.effective["demo"].remember == profile.values.remember == "none"
    assert profile.shown_settings["remember"] == "none"
    assert "remember=none" in server._command()
