"""The example workflows, in API format, pointed at the server under test and made small.

A workflow is a dict of nodes by id; a node has a `class_type` and `inputs`, and an input is a
value or a link `[id, output]`. Knows nothing of ComfyUI's answers.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from stand_in.running import ROOT

FOLDER = ROOT / "examples" / "comfyui"
ENGINE, GENERATE, DEPTH_MAP = "DepthfluxEngine", "DepthfluxGenerate", "DepthfluxDepthMap"
#: The id of an engine node that a workflow is given; the examples number theirs.
_OUR_ENGINE = "engine-under-test"

Workflow = dict[str, dict[str, Any]]


def read_workflows(folder: Path = FOLDER) -> dict[str, Workflow]:
    """The workflows of a folder, by their files' names without the ending."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }


def ids_of(workflow: Workflow, kind: str) -> list[str]:
    """The ids of the nodes of a class."""
    return [id for id, node in workflow.items() if node["class_type"] == kind]


def is_link(value: object) -> bool:
    """Whether an input comes from another node."""
    return isinstance(value, list) and len(value) == 2


def changed(workflow: Workflow, kind: str, **inputs: Any) -> Workflow:
    """The same workflow with these inputs in every node of a class."""
    copied = copy.deepcopy(workflow)
    for id in ids_of(copied, kind):
        copied[id]["inputs"].update(inputs)
    return copied


def pointed(workflow: Workflow, engine: dict[str, Any], picture: str) -> Workflow:
    """The same workflow with every engine and every picture replaced.

    Args:
        workflow: an example.
        engine: the engine node's inputs.
        picture: an uploaded file's name.
    """
    copied = changed(changed(workflow, "LoadImage", image=picture), ENGINE, **engine)
    for kind in (GENERATE, DEPTH_MAP):
        for id in ids_of(copied, kind):
            if not is_link(copied[id]["inputs"].get("engine")):
                copied[_OUR_ENGINE] = {"class_type": ENGINE, "inputs": dict(engine)}
                copied[id]["inputs"]["engine"] = [_OUR_ENGINE, 0]
    return copied


def fields_of(workflow: Workflow, kind: str) -> dict[str, Any]:
    """What the one node of a class has in its widgets."""
    (id,) = ids_of(workflow, kind)
    inputs: dict[str, Any] = workflow[id]["inputs"]
    return {name: value for name, value in inputs.items() if not is_link(value)}


def fed_by(workflow: Workflow, kind: str, source: str, output: int) -> list[str]:
    """The ids of the nodes of a class that take a link from this output of a node."""
    return [
        id for id in ids_of(workflow, kind) if [source, output] in workflow[id]["inputs"].values()
    ]
