"""Which engine the nodes ask, what they ask it, and how long they bear with it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from installed_nodes import PICTURE, InstalledNodes, StandInComfy, image_of
from PIL import Image
from scripted_predictions import ScriptedPredictions
from scripted_server import Reply, ScriptedServer

import depthflux
from depthflux.server.settings import ServerSettings

ADDRESS = "DEPTHFLUX_COMFYUI_ADDRESS"
#: A mistake must end a test, not keep it waiting.
LONGEST_S = 20.0


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)


@pytest.fixture
def loaded(nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The profiles that are loaded in this process, in order; each paints nothing."""
    profiles: list[str] = []

    def load(profile: str) -> Any:
        profiles.append(profile)
        grey = Image.new("L", (512, 512))
        return SimpleNamespace(generate=lambda **_: SimpleNamespace(depth_map=grey))

    nodes.module("in_process").unload()
    monkeypatch.setattr(depthflux, "load", load, raising=False)
    yield profiles
    nodes.module("in_process").unload()


@contextmanager
def interrupted_after(comfy: StandInComfy, seconds: float) -> Iterator[None]:
    """Somebody presses the button, should a node run so long."""
    timer = threading.Timer(seconds, setattr, (comfy, "interrupted", True))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def estimate(nodes: InstalledNodes, **given: Any) -> torch.Tensor:
    (depth_map,) = nodes.run(
        "DepthfluxDepthMap", control_image=image_of(PICTURE), size="512*512", **given
    )
    found: torch.Tensor = depth_map
    return found


# Which engine -----------------------------------------------------------------------------------


def test_without_a_choice_the_environment_s_server_comes_first(
    nodes: InstalledNodes, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(ScriptedPredictions()) as server:
        monkeypatch.setenv(ADDRESS, server.url)
        estimate(nodes)
        asked = list(server.asked)

    assert asked
    assert loaded == []


def test_without_a_choice_and_a_variable_an_engine_in_process_comes_second(
    nodes: InstalledNodes, loaded: list[str]
) -> None:
    estimate(nodes)

    assert loaded == ["auto"]


def test_without_a_choice_a_variable_and_depthflux_the_usual_address_comes_last(
    nodes: InstalledNodes, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where it is not installed.
    monkeypatch.setitem(sys.modules, "depthflux.contract", None)

    # Chosen and not asked: something may listen there.
    address = nodes.module("engines").engine_for(None).address

    assert (address.scheme, address.host, address.port) == (
        "http",
        ServerSettings().host,
        ServerSettings().port,
    )
    assert loaded == []


def test_the_usual_address_is_where_the_server_listens_untold(nodes: InstalledNodes) -> None:
    settings = ServerSettings()
    usual = f"http://{settings.host}:{settings.port}"
    page = Path("docs/comfyui.md").read_text(encoding="utf-8")

    tooltips = [
        nodes.classes["DepthfluxEngine"].INPUT_TYPES()["required"]["address"][1]["tooltip"],
        *(
            nodes.classes[kind].INPUT_TYPES()["optional"]["engine"][1]["tooltip"]
            for kind in ("DepthfluxGenerate", "DepthfluxDepthMap")
        ),
    ]

    assert usual == nodes.module("addresses").USUAL_ADDRESS
    assert all(usual in tooltip for tooltip in tooltips)
    assert f"| none is connected | the server in the variable `{ADDRESS}`" in page
    assert f"else `{usual}` |" in page


# What it is asked -------------------------------------------------------------------------------


def test_a_depth_map_is_asked_for_without_loras(nodes: InstalledNodes) -> None:
    predictions = ScriptedPredictions()
    with ScriptedServer(predictions) as server:
        nodes.generate(server.url, loras='[{"path": "style", "scale": 0.5}]')

    asked = {bool(body.get("only_depth_map")): body["loras"] for body in predictions.posted}
    assert asked == {True: [], False: [{"path": "style", "scale": 0.5}]}


def test_a_server_that_paints_in_place_of_a_depth_map_is_told(nodes: InstalledNodes) -> None:
    with (
        ScriptedServer(ScriptedPredictions(depth_map="coloured")) as server,
        pytest.raises(nodes.error, match="paints where a depth map was asked for: it is an older"),
    ):
        estimate(nodes, engine=nodes.engine(server.url))


# How long it is borne with ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_has_no_time_meanwhile_is_asked_again(
    status: int, nodes: InstalledNodes, comfy: StandInComfy
) -> None:
    busy = Reply({"message": "too many requests"}, status, {"Retry-After": "0"})
    predictions = ScriptedPredictions(before=[busy, busy])

    with ScriptedServer(predictions) as server, interrupted_after(comfy, LONGEST_S):
        depth_map = estimate(nodes, engine=nodes.engine(server.url))

    assert depth_map.shape == (1, 512, 512, 3)
    assert predictions.before == []


def test_a_server_that_stays_away_is_given_up(
    nodes: InstalledNodes, comfy: StandInComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.module("served"), "AWAY_S", 1.0)
    predictions = ScriptedPredictions(before=[Reply(breaks=True)] * 10_000)
    began = time.monotonic()

    with (
        ScriptedServer(predictions) as server,
        interrupted_after(comfy, LONGEST_S),
        pytest.raises(nodes.error, match="does not answer"),
    ):
        estimate(nodes, engine=nodes.engine(server.url))

    assert 1.0 <= time.monotonic() - began < LONGEST_S


# In this process --------------------------------------------------------------------------------


def test_an_engine_in_process_does_one_thing_after_another(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most = 0, 0

    def generate(**_: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.2)
        at_once -= 1
        return SimpleNamespace(depth_map=Image.new("L", (512, 512)))

    nodes.module("in_process").unload()
    monkeypatch.setattr(
        depthflux, "load", lambda _: SimpleNamespace(generate=generate), raising=False
    )
    engine, finished = nodes.engine(), []

    def run() -> None:
        finished.append(estimate(nodes, engine=engine).shape)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_S)
    nodes.module("in_process").unload()

    assert finished == [(1, 512, 512, 3)] * 3
    assert most == 1


def test_an_engine_in_process_is_loaded_and_runs_outside_of_comfyui_s_inference_mode(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []

    def generate(**_: Any) -> Any:
        modes.append(torch.is_inference_mode_enabled())
        return SimpleNamespace(depth_map=Image.new("L", (512, 512)))

    def load(_: str) -> Any:
        modes.append(torch.is_inference_mode_enabled())
        return SimpleNamespace(generate=generate)

    nodes.module("in_process").unload()
    monkeypatch.setattr(depthflux, "load", load, raising=False)
    estimate(nodes, engine=nodes.engine())  # in inference mode, as ComfyUI does
    nodes.module("in_process").unload()

    assert modes == [False, False]
