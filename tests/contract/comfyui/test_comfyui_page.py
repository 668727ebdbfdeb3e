"""docs/comfyui.md beside the nodes: its tables are what they declare."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from installed_nodes import InstalledNodes

from depthflux.comfyui.declaration import WITHOUT_WIDGET

PAGE = Path("docs/comfyui.md").read_text(encoding="utf-8")


def row(name: str, kind: Any, options: dict[str, Any]) -> str:
    """A line of the page's table of inputs."""
    allowed = ", ".join(kind) if isinstance(kind, list) else ""
    if "max" in options:
        allowed = f"{options['min']} to {options['max']}, in steps of {options['step']}"
    shown = "choice" if isinstance(kind, list) else kind
    default = f"`{json.dumps(options['default'])}`" if "default" in options else "-"
    return f"| `{name}` | {shown} | {default} | {allowed or '-'} | {options['tooltip']} |"


@pytest.mark.parametrize("node", ["DepthfluxGenerate", "DepthfluxDepthMap", "DepthfluxEngine"])
def test_the_page_has_every_input_of_a_node(node: str, nodes: InstalledNodes) -> None:
    types = nodes.classes[node].INPUT_TYPES()
    inputs = {**types["required"], **types.get("optional", {})}

    section = PAGE.partition(f"### {nodes.titles[node]}\n")[2].partition("\n#")[0]

    if node == "DepthfluxDepthMap":  # its inputs are told once, above
        assert re.findall(r"`(\w+)`", section.partition("Inputs: ")[2].partition(".")[0]) == list(
            inputs
        )
    else:
        # Of five columns; tables of fewer are about something else.
        lines = [
            line
            for line in section.splitlines()
            if line.startswith("| `") and line.count(" | ") == 4
        ]
        assert lines == [row(name, *declared) for name, declared in inputs.items()]
    for output in nodes.classes[node].RETURN_NAMES:
        assert f"`{output}`" in section


def test_the_page_says_why_a_field_has_no_widget() -> None:
    for name, reason in WITHOUT_WIDGET.items():
        assert f"| `{name}` | {reason} |" in PAGE


def test_the_page_names_every_example() -> None:
    names = {path.name for path in Path("examples/comfyui").glob("*.json")}

    assert names == set(re.findall(r"examples/comfyui/([\w-]+\.json)", PAGE))


def test_the_swap_on_the_page_fits_the_node(nodes: InstalledNodes) -> None:
    (after,) = re.findall(r"becomes\n\n```json\n(.*?)```", PAGE, flags=re.DOTALL)

    (node,) = json.loads(after).values()
    types = nodes.classes[node["class_type"]].INPUT_TYPES()
    assert set(types["required"]) <= set(node["inputs"])
    assert set(node["inputs"]) <= set(types["required"]) | set(types["optional"])
