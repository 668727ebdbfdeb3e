"""The graphs in examples/comfyui: they fit the nodes, preview the depth map, and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from installed_nodes import InstalledNodes, image_of

from stand_in.running import StandInServer

EXAMPLES = sorted(Path("examples/comfyui").glob("*.json"))
#: What the nodes of ComfyUI's own in the examples give.
OTHERS = {
    "LoadImage": ("IMAGE", "MASK"),
    "SaveImage": (),
    "PreviewImage": (),
    "PreviewAny": (),
    "ImageBlend": ("IMAGE",),
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_s_graph_fits_the_nodes(path: Path, nodes: InstalledNodes) -> None:
    graph = json.loads(path.read_text())

    for node in graph.values():
        kind = nodes.classes.get(node["class_type"])
        if kind is None:
            assert node["class_type"] in OTHERS
            continue
        types = kind.INPUT_TYPES()
        known = {**types["required"], **types.get("optional", {})}
        assert set(types["required"]) <= set(node["inputs"]) <= set(known)
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source = graph[value[0]]["class_type"]
                given = nodes.classes[source].RETURN_TYPES if source in nodes.classes else ()
                assert (given or OTHERS[source])[value[1]] == known[name][0]
            elif "max" in known[name][1]:
                assert known[name][1]["min"] <= value <= known[name][1]["max"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_previews_the_depth_map(path: Path) -> None:
    graph = json.loads(path.read_text())
    maps = {"DepthfluxGenerate": 1, "DepthfluxDepthMap": 0}

    previewed = [
        node["inputs"]["images"] for node in graph.values() if node["class_type"] == "PreviewImage"
    ]

    assert any(maps.get(graph[id]["class_type"]) == output for id, output in previewed)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, nodes: InstalledNodes, quick: StandInServer) -> None:
    graph, done = json.loads(path.read_text()), {}
    for id, node in graph.items():  # they stand in the order in which they run
        given = {
            name: done[value[0]][value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
            if not isinstance(value, list) or value[0] in done
        }
        if node["class_type"] == "LoadImage":
            done[id] = (image_of(Path("examples") / given["image"]),)
        elif node["class_type"] in nodes.classes:
            if "address" in given:
                given["address"] = quick.address
            elif "engine" not in given:
                given["engine"] = nodes.engine(quick.address)
            done[id] = nodes.run(node["class_type"], **given)

    pictures = [result[0] for id, result in done.items() if graph[id]["class_type"] != "LoadImage"]
    assert [1 for picture in pictures if getattr(picture, "shape", None) == (1, 512, 512, 3)]
