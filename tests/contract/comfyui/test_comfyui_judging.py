"""What is wrong with a node's inputs: all of it, once, in one line of ours."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from installed_nodes import InstalledNodes
from scripted_server import Reply, ScriptedServer

import depthflux
from depthflux.images import ReadLimits

NOBODY = "http://127.0.0.1:9"
NODE_FILES = sorted(Path("src/depthflux/comfyui/node").glob("*.py"))


@pytest.mark.parametrize("kind", ["DepthfluxGenerate", "DepthfluxDepthMap", "DepthfluxEngine"])
def test_a_mistake_shows_once(kind: str, nodes: InstalledNodes) -> None:
    # ComfyUI shows what VALIDATE_INPUTS says at each input that it names.
    named = inspect.getfullargspec(nodes.classes[kind].VALIDATE_INPUTS)

    assert len(named.args) == 2  # the class, and one input
    assert named.varkw is None


def test_all_mistakes_are_told_at_once_and_before_an_engine_is_asked(nodes: InstalledNodes) -> None:
    wrong = {
        "prompt": " ",
        "size": "1*1",
        "loras": "x",
        "guidance_scale": float("nan"),
        "num_images": 5,
    }

    with pytest.raises(nodes.error) as caught:
        nodes.generate(NOBODY, **wrong)

    said = str(caught.value)
    assert [said.count(f"{name}=") for name in wrong] == [1] * len(wrong)
    assert said.count("is not allowed; allowed: ") == len(wrong)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", None),
        ("prompt", 7),
        ("prompt", ["a"]),
        ("size", None),
        ("size", 512),
        ("size", "٥١٢*512"),
        ("size", "512*512\n"),
        ("num_inference_steps", None),
        ("num_inference_steps", "4"),
        ("num_inference_steps", 4.5),
        ("num_inference_steps", True),
        ("num_inference_steps", 51),
        ("seed", -2),
        ("seed", 10**10),
        ("seed", "7"),
        ("control_scale", float("inf")),
        ("control_scale", "1"),
        ("guidance_scale", float("nan")),
        ("enable_safety_checker", "false"),
        ("enable_safety_checker", 0),
        ("fit", "x"),
        ("fit", None),
        ("fit", ["cover"]),
        ("loras", None),
        ("loras", 7),
        ("loras", "{}"),
        ("loras", "[NaN]"),
        ("loras", "[" * 5000),
        ("loras", {"path": "x"}),
        ("loras", [float("nan")]),
        ("loras", [{"path": Path("x")}]),
        ("loras", "[{'path': 'x', 'scale': 1}]"),
    ],
    ids=repr,
)
def test_a_value_of_another_kind_is_refused_in_our_words(
    name: str, value: Any, nodes: InstalledNodes
) -> None:
    with pytest.raises(nodes.error, match=f"^{name}=.* is not allowed; allowed: .*") as caught:
        nodes.generate(NOBODY, **{name: value})

    assert str(caught.value).isprintable()
    if name == "loras":
        assert str(caught.value).endswith(", as a text of JSON, in quotes.")


def test_values_that_other_nodes_give_are_sent_as_numbers_and_lists(nodes: InstalledNodes) -> None:
    given = {
        "seed": np.int64(7),
        "num_inference_steps": np.uint8(4),
        "guidance_scale": np.float32(3.5),
        "control_scale": 1,
        "loras": [{"path": "style", "scale": 0.5}],
    }
    refusal = Reply({"message": "not today."}, status=400)

    with ScriptedServer(refusal) as server:
        with pytest.raises(nodes.error, match="not today"):
            nodes.run(
                "DepthfluxGenerate",
                control_image=torch.zeros(1, 8, 8, 3),
                prompt="a",
                engine=nodes.engine(server.url),
                **given,
            )
        (asked,) = server.asked

    sent = asked.json()
    # The first question is about the depth map, which LoRAs have nothing to do with.
    assert {name: sent[name] for name in given} == {**given, "loras": []}


def test_a_list_of_loras_is_taken_as_it_is(nodes: InstalledNodes) -> None:
    judged = nodes.module("declared").judged

    for given in ('[{"path": "x", "scale": 1}]', [{"path": "x", "scale": 1}]):
        assert judged({"loras": given}, ["loras"]) == {"loras": [{"path": "x", "scale": 1}]}
    assert judged({"loras": " "}, ["loras"]) == {"loras": []}


@pytest.mark.parametrize(
    "damaged",
    ["{}", "[]", "null", "{", "\ufeff", '{"fields": {}}', "[" * 100_000],
    ids=["object", "list", "null", "half", "mark", "part", "deep"],
)
def test_a_damaged_declaration_is_said_with_what_to_do(
    damaged: str, nodes: InstalledNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = nodes.module("declared")
    (tmp_path / "declaration.json").write_text(damaged)
    monkeypatch.setattr(declared, "_FILE", tmp_path / "declaration.json")
    declared.declaration.cache_clear()

    try:
        with pytest.raises(nodes.error, match=r"cannot read .*; install the nodes anew") as caught:
            nodes.classes["DepthfluxGenerate"].INPUT_TYPES()
    finally:
        declared.declaration.cache_clear()

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "raised",
    [
        ImportError("no torchvision\n(look up)"),
        RuntimeError("operator does not exist"),
        OSError("libcudart.so.13: cannot open"),
        ValueError("numpy.dtype size changed, may indicate binary incompatibility"),
        AttributeError("_ARRAY_API not found"),
        TypeError("unexpected keyword"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_package_that_does_not_fit_raises_is_one_line(
    raised: Exception, nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_profile: str) -> None:
        raise raised

    nodes.module("in_process").unload()
    monkeypatch.setattr(depthflux, "load", load, raising=False)

    with pytest.raises(nodes.error, match="cannot be loaded in ComfyUI's Python: ") as caught:
        nodes.generate()

    assert str(caught.value).isprintable()
    assert "start `depthflux serve`" in str(caught.value)


def test_a_picture_that_is_too_large_is_said_with_the_way_out(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = nodes.module("pictures")
    noise = torch.rand(1, 64, 128, 3)
    assert ReadLimits().max_bytes == pictures.MOST_BYTES
    assert ReadLimits().max_pixels == pictures.MOST_PIXELS

    # No memory is taken: all of it is the same number.
    with pytest.raises(nodes.error, match=r"12000\*9000 .*67 million pixels.*ImageScale"):
        pictures.png_of(torch.zeros(1).expand(1, 9_000, 12_000, 3))
    monkeypatch.setattr(pictures, "MOST_BYTES", 2**14)
    with pytest.raises(nodes.error, match=r"128\*64 pixels is too large; .*ImageScale"):
        pictures.png_of(noise)


@pytest.mark.parametrize("given", [None, "picture.png", [1]])
def test_a_control_image_that_is_no_image_is_refused_in_our_words(
    given: Any, nodes: InstalledNodes
) -> None:
    with pytest.raises(nodes.error, match=r"^control_image is .*; allowed: an IMAGE"):
        nodes.generate(NOBODY, control_image=given)


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda path: path.name)
def test_the_nodes_are_written_for_every_python_of_comfyui(path: Path) -> None:
    assert ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_what_is_shown_of_a_value_is_one_line(nodes: InstalledNodes) -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd\n\x1b[31m" + "x" * 100

    show = nodes.module("errors").show

    assert show(Odd()).isprintable()
    assert len(show(Odd())) <= 60
