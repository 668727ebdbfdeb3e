"""The nodes for ComfyUI without a ComfyUI: what they declare, and what they do either way."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from installed_nodes import (
    PICTURE,
    InstalledNodes,
    InterruptProcessingException,
    StandInComfy,
    image_of,
)

from depthflux.comfyui.declaration import DEPTH_FIELDS, WITHOUT_WIDGET
from depthflux.contract import GenerationRequest, field_range
from depthflux.settings import profile_names
from stand_in.running import StandInServer

FIELDS = [name for name in GenerationRequest.model_fields if name not in WITHOUT_WIDGET]


def widgets_of(nodes: InstalledNodes, kind: str) -> dict[str, Any]:
    types = nodes.classes[kind].INPUT_TYPES()
    return {**types["required"], **types["optional"]}


# What they declare ------------------------------------------------------------------------------


def test_the_nodes_are_called_as_the_documentation_says(nodes: InstalledNodes) -> None:
    assert nodes.titles == {
        "DepthfluxGenerate": "Depthflux Generate",
        "DepthfluxDepthMap": "Depthflux Depth Map",
        "DepthfluxEngine": "Depthflux Engine",
    }
    assert set(nodes.classes) == set(nodes.titles)
    assert {kind.CATEGORY for kind in nodes.classes.values()} == {"depthflux"}


def test_generate_has_a_widget_for_each_field_in_the_request_s_order(nodes: InstalledNodes) -> None:
    types = nodes.classes["DepthfluxGenerate"].INPUT_TYPES()

    given = [*types["required"], *types["optional"]]
    assert given == ["control_image", *FIELDS, "engine"]
    # A graph of the API may leave out everything that has a default.
    assert list(types["required"]) == ["control_image", "prompt"]


@pytest.mark.parametrize("name", FIELDS)
def test_a_widget_is_what_the_request_declares(name: str, nodes: InstalledNodes) -> None:
    field = GenerationRequest.model_fields[name]
    default = "" if field.is_required() else field.get_default(call_default_factory=True)
    low, high = field_range(field)

    kind, options = widgets_of(nodes, "DepthfluxGenerate")[name]

    assert options["tooltip"] == field.description
    assert options["default"] == (json.dumps(default) if name == "loras" else default)
    assert (options.get("min"), options.get("max")) == (low, high)
    expected = {int: "INT", float: "FLOAT", bool: "BOOLEAN", str: "STRING"}
    if isinstance(kind, list):
        assert kind == list(field.annotation.__args__)  # type: ignore[union-attr]
    else:
        assert kind == expected.get(field.annotation, "STRING")  # type: ignore[arg-type]


def test_the_depth_map_s_widgets_are_generate_s_own(nodes: InstalledNodes) -> None:
    whole, part = widgets_of(nodes, "DepthfluxGenerate"), widgets_of(nodes, "DepthfluxDepthMap")

    assert list(part) == ["control_image", *DEPTH_FIELDS, "engine"]
    assert part == {name: whole[name] for name in part}


def test_an_engine_is_a_profile_or_an_address(nodes: InstalledNodes) -> None:
    types = nodes.classes["DepthfluxEngine"].INPUT_TYPES()["required"]

    assert types["profile"][0] == ["auto", *profile_names()]
    assert types["address"][1]["default"] == ""
    assert nodes.classes["DepthfluxEngine"].RETURN_TYPES == ("DEPTHFLUX_ENGINE",)
    assert widgets_of(nodes, "DepthfluxGenerate")["engine"][0] == "DEPTHFLUX_ENGINE"


def test_every_field_has_a_widget_or_a_reason(nodes: InstalledNodes) -> None:
    widgets = {
        name
        for name, (kind, _) in widgets_of(nodes, "DepthfluxGenerate").items()
        if kind not in ("IMAGE", "DEPTHFLUX_ENGINE")
    }

    assert widgets | set(WITHOUT_WIDGET) == set(GenerationRequest.model_fields)
    assert widgets & set(WITHOUT_WIDGET) == set()
    assert all(len(reason) > 20 for reason in WITHOUT_WIDGET.values())


def test_seeds_are_controlled_after_generating_and_a_drawn_one_is_never_kept(
    nodes: InstalledNodes,
) -> None:
    kind = nodes.classes["DepthfluxGenerate"]

    assert widgets_of(nodes, "DepthfluxGenerate")["seed"][1]["control_after_generate"] is True
    # What ComfyUI compares with the last time: not a number equals nothing.
    assert math.isnan(kind.IS_CHANGED(seed=-1, prompt="x"))
    assert math.isnan(kind.IS_CHANGED(prompt="x"))
    assert kind.IS_CHANGED(seed=7, prompt="x") == kind.IS_CHANGED(seed=7, prompt="x")
    assert kind.IS_CHANGED(seed=None) == ""


@pytest.mark.parametrize(
    ("kind", "widgets", "problem"),
    [
        ("DepthfluxGenerate", {"size": "100*100"}, "size='100*100' is not allowed; allowed: width"),
        ("DepthfluxGenerate", {"size": "512x512"}, "each 512 to 1536, or 864*1636."),
        ("DepthfluxDepthMap", {"size": ""}, "size='' is not allowed"),
        ("DepthfluxEngine", {"address": "http://example.com"}, "is not asked, since a graph can"),
    ],
)
def test_what_is_wrong_with_a_graph_is_said_before_it_runs(
    kind: str, widgets: dict[str, str], problem: str, nodes: InstalledNodes
) -> None:
    said = nodes.classes[kind].VALIDATE_INPUTS(**widgets)

    assert problem in said
    assert "\n" not in said


def test_what_another_node_gives_is_judged_once_it_is_there(
    nodes: InstalledNodes, quick: StandInServer
) -> None:
    # ComfyUI says None of it before it runs.
    assert nodes.classes["DepthfluxGenerate"].VALIDATE_INPUTS(size=None) is True
    assert nodes.classes["DepthfluxEngine"].VALIDATE_INPUTS(address=None) is True

    with pytest.raises(nodes.error, match="size='9\\*9' is not allowed"):
        nodes.generate(quick.address, size="9*9")
    with pytest.raises(nodes.error, match=r"profile='own\.toml' is not allowed"):
        nodes.engine(profile="own.toml")


# What they do -----------------------------------------------------------------------------------


def test_in_process_and_over_http_a_seed_gives_the_same_pictures(
    nodes: InstalledNodes, demo: str
) -> None:
    fields = {"num_images": 2, "seed": 9_999_999_999, "size": "520*512"}

    here, served = nodes.generate("", **fields), nodes.generate(demo, **fields)

    for mine, theirs in zip(here[:2], served[:2], strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs)
    assert here[0].shape == (2, 512, 520, 3)
    assert here[1].shape == (1, 512, 520, 3)
    assert not torch.equal(here[0][0], here[0][1])
    documents = [json.loads(result[2]) for result in (here, served)]
    for document in documents:
        assert document["data"]["model"] == "depthflux/demo"
        assert document["data"]["outputs"] == ["images[0]", "images[1]"]
        assert document["data"]["has_nsfw_contents"] == [False, False]
    assert documents[0]["data"]["input"] == documents[1]["data"]["input"]


def test_pictures_are_those_that_python_gives(nodes: InstalledNodes, demo_engine: Any) -> None:
    prediction = demo_engine.generate(
        prompt="a blue cone", control_image=PICTURE, size="512*512", seed=5, num_inference_steps=3
    )

    images, depth_map, _ = nodes.generate(prompt="a blue cone", seed=5, num_inference_steps=3)

    pixels = (images[0] * 255).round().to(torch.uint8).numpy()
    assert pixels.tobytes() == prediction.images[0].tobytes()
    grey = (depth_map[0, ..., 0] * 255).round().to(torch.uint8).numpy()
    assert grey.tobytes() == prediction.depth_map.tobytes()


@pytest.mark.parametrize("served", [False, True], ids=["in process", "over HTTP"])
def test_a_depth_map_is_what_pictures_are_guided_by(
    served: bool, nodes: InstalledNodes, demo: str
) -> None:
    address = demo if served else ""
    fields: dict[str, Any] = {"size": "512*640", "fit": "contain"}

    _, guided_by, _ = nodes.generate(address, **fields)
    (alone,) = nodes.run(
        "DepthfluxDepthMap",
        control_image=image_of(PICTURE),
        engine=nodes.engine(address),
        **fields,
    )
    (given,) = nodes.run(
        "DepthfluxDepthMap",
        control_image=alone,
        engine=nodes.engine(address),
        preprocess_depth=False,
        **fields,
    )

    assert torch.equal(alone, guided_by)
    assert alone.unique().numel() > 10
    assert torch.equal(given, alone)


def test_a_drawn_seed_is_told_and_gives_the_same_picture_again(
    nodes: InstalledNodes, quick: StandInServer
) -> None:
    first, second = (nodes.generate(quick.address, seed=-1)[2] for _ in range(2))

    seeds = [json.loads(document)["data"]["input"]["seed"] for document in (first, second)]
    assert seeds[0] != seeds[1]
    assert all(0 <= seed <= 9_999_999_999 for seed in seeds)


@pytest.mark.parametrize("served", [False, True], ids=["in process", "over HTTP"])
def test_the_bar_moves_with_the_steps_of_all_pictures(
    served: bool, nodes: InstalledNodes, quick: StandInServer, comfy: StandInComfy
) -> None:
    prompt, address = ("slow 2", quick.address) if served else ("a cone", "")

    nodes.generate(address, prompt=prompt, num_images=2)

    values = [value for value, _ in comfy.moves]
    assert {total for _, total in comfy.moves} == {8}
    assert values == sorted(values)
    assert len(set(values)) >= (4 if served else 8)
    assert values[-1] == 8


def test_an_interrupt_cancels_on_the_server_and_is_comfyui_s_own(
    nodes: InstalledNodes, quick: StandInServer, comfy: StandInComfy
) -> None:
    comfy.interrupt_at = 1

    with pytest.raises(InterruptProcessingException):
        nodes.generate(quick.address, prompt="slow 30", num_inference_steps=50)

    (last, *_) = quick.client.get("/api/v3/predictions").json()["data"]["items"]
    ended = quick.wait(last["id"])
    assert last["input"]["prompt"] == "slow 30"
    assert ended["status"] == "failed"
    assert ended["code"] == 1405
    assert "cancelled" in ended["error"]


def test_an_interrupt_stops_an_engine_in_process_and_the_next_run_is_as_ever(
    nodes: InstalledNodes, comfy: StandInComfy
) -> None:
    before = nodes.generate()[0]
    comfy.moves.clear()
    comfy.interrupt_at = 2

    with pytest.raises(InterruptProcessingException):
        nodes.generate()
    moves = list(comfy.moves)
    comfy.interrupt_at = None

    assert [value for value, _ in moves] == [1, 2]
    assert torch.equal(nodes.generate()[0], before)


def test_an_engine_is_loaded_once_and_makes_room_for_itself(
    nodes: InstalledNodes, comfy: StandInComfy
) -> None:
    nodes.module("in_process").unload()

    nodes.generate()
    first = dict(nodes.module("in_process")._kept)
    nodes.generate()

    assert comfy.unloaded == 1
    assert list(first) == ["demo"]
    assert nodes.module("in_process")._kept["demo"] is first["demo"]
