"""What ComfyUI tells while it runs a workflow, read from its messages.

Knows nothing of where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfyui_test.errors import CheckFailedError

#: One of them ends each run.
ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Run:
    """One run of a workflow, as its messages tell it.

    Attributes:
        id: ComfyUI's, its `prompt_id`.
        end: the message that ended it; empty while it runs.
        cached: the nodes that were not executed, since nothing had changed.
        executed: the nodes that were, in order.
        progress: value and maximum of each progress message, by node.
        outputs: what nodes have told the page, by node.
        error: what `execution_error` says.
    """

    id: str
    end: str = ""
    cached: set[str] = field(default_factory=set)
    executed: list[str] = field(default_factory=list)
    progress: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)

    def take(self, kind: str, data: Mapping[str, Any]) -> None:
        """Note a message; one of another run is passed over."""
        if data.get("prompt_id") != self.id:
            return
        if kind == "execution_cached":
            self.cached |= {str(node) for node in data["nodes"]}
        elif kind == "executing" and data["node"] is not None:
            self.executed.append(str(data["node"]))
        elif kind == "executed":
            self.outputs[str(data["node"])] = data["output"] or {}
        elif kind == "progress":
            step = (int(data["value"]), int(data["max"]))
            self.progress.setdefault(str(data["node"]), []).append(step)
        elif kind in ENDS:
            self.end = kind
            self.error = dict(data) if kind == "execution_error" else {}

    def require_success(self) -> None:
        """See that it has ended well.

        Raises:
            CheckFailedError: it has not; what ComfyUI said.
        """
        if self.end != "execution_success":
            raise CheckFailedError(f"it ended in {self.end}: {self.error_text() or 'no words'}")

    def error_text(self) -> str:
        """The words of its error, as the node shows them."""
        return str(self.error.get("exception_message", "")).strip()


@dataclass(frozen=True)
class Refusal:
    """A workflow that ComfyUI did not queue.

    Attributes:
        nodes: what is wrong with each node, in one line each.
    """

    nodes: dict[str, str]


def parse_message(text: str) -> tuple[str, dict[str, Any]]:
    """A message's kind and data.

    Raises:
        CheckFailedError: it is none of ComfyUI's.
    """
    try:
        message = json.loads(text)
        return str(message["type"]), dict(message["data"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckFailedError(f"no message of ComfyUI: {text[:200]!r}") from error


def parse_refusal(document: Mapping[str, Any]) -> Refusal:
    """What an answer 400 to a workflow says about each node."""
    nodes = {
        str(node): " ".join(f"{told['message']}: {told['details']}" for told in found["errors"])
        for node, found in document.get("node_errors", {}).items()
    }
    return Refusal(nodes or {"": str(document.get("error"))})


def unexpected_tracebacks(log: str) -> list[str]:
    """The last lines of tracebacks in a log that ComfyUI did not announce as a node's error."""
    found, lines = [], log.splitlines()
    announced = False
    for index, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            if not announced:
                found.append(_last_line(lines[index + 1 :]))
            announced = False
        elif line.strip():
            announced = "!!! Exception during processing !!!" in line or (
                # A traceback may tell of a second one that caused it.
                "was the direct cause of" in line or "another exception occurred" in line
            )
    return found


def _last_line(lines: list[str]) -> str:
    """The first line that is not indented: the error itself."""
    return next((line for line in lines if line.strip() and not line.startswith(" ")), "")
