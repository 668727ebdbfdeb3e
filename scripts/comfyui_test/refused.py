"""What is checked of what goes wrong: it shows on the node, in our words, and gives nothing away.

A check is given the stage, raises CheckFailedError, and returns what it saw in a few words.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from comfyui_test.checks import require
from comfyui_test.messages import Refusal, unexpected_tracebacks
from comfyui_test.stage import Stage
from comfyui_test.workflows import ENGINE, GENERATE, Workflow, changed, ids_of

#: By so many letters of its beginning a message is told apart from another.
_TOLD_APART = 40


class Wrong(NamedTuple):
    """A graph that cannot run.

    Attributes:
        kind: whose inputs are changed.
        inputs: to what.
        words: a pattern of what the node has to say.
    """

    kind: str
    inputs: dict[str, Any]
    words: str


_WRONG = {
    "an empty prompt": Wrong(GENERATE, {"prompt": " "}, r"prompt=' ' is not allowed; allowed: "),
    "a size out of range": Wrong(
        GENERATE, {"size": "100*512"}, r"size='100\*512' is not allowed; allowed: .*512 to 1536"
    ),
    # ComfyUI's own words: it knows the range from the widget.
    "a seed out of range": Wrong(GENERATE, {"seed": 10_000_000_000}, r"max of 9999999999: seed"),
    "LoRAs that are no JSON": Wrong(GENERATE, {"loras": "none"}, r"loras='none' is not allowed"),
    "several mistakes": Wrong(
        GENERATE, {"prompt": " ", "loras": "none"}, r"prompt=' ' is .*loras='none' is not allowed"
    ),
    "a LoRA that is not there": Wrong(
        GENERATE, {"loras": '[{"path": "absent", "scale": 1.0}]'}, r"loras.*absent"
    ),
    "a stranger's address": Wrong(
        ENGINE, {"address": "http://203.0.113.7:8000"}, r"address='http://203\.0\.113\.7:8000' is "
    ),
    "a link to an address with a password": Wrong(
        ENGINE, {"address": "http://user:secret@127.0.0.1:8000"}, r"^(?!.*secret).*address="
    ),
    "an unknown profile": Wrong(ENGINE, {"profile": "/tmp/own.toml", "address": ""}, r"own\.toml"),  # noqa: S108
}


def check_errors(stage: Stage) -> str:
    """What is wrong shows on the node in our words."""
    for name, wrong in _WRONG.items():
        workflow = changed(stage.workflows["generate"], wrong.kind, **wrong.inputs)
        _require_words(stage, name, workflow, wrong.words)
    two, given = _with_two_pictures(stage), _with_given_prompt(stage)
    _require_words(stage, "two control pictures", two, r"has 2 pictures; allowed: one\.")
    _require_words(stage, "an empty prompt of another node", given, r"prompt='' is not allowed")
    return f"{len(_WRONG) + 2} graphs"


def check_server_gone(stage: Stage) -> str:
    """A server that is gone shows on the node, with what to do."""
    stage.server.end()
    workflow = changed(stage.workflows["generate"], GENERATE, seed=7)
    return _require_words(stage, "no server", workflow, r"does not answer.*depthflux serve --port")


def check_key(stage: Stage) -> str:
    """The API key is in no picture, graph or log that ComfyUI has written."""
    key = stage.server.key
    require(key not in str(stage.comfyui.ask("/history")), "it is in the history")
    # Before ComfyUI ends, which empties its temporary folder; its log is whole only afterwards.
    files = [path for path in stage.base.rglob("*") if path.is_file()]
    holding = [str(path) for path in files if key.encode() in path.read_bytes()]
    stage.comfyui.end()
    require(not holding, f"it is in {', '.join(holding)}")
    require(key not in stage.comfyui.log_text(), "it is in the log")
    return f"{len(files)} files"


def check_log(stage: Stage) -> str:
    """ComfyUI's log has no error of ours but those that it was made to have."""
    log = stage.comfyui.log_text()
    require("IMPORT FAILED" not in log, "the nodes were not imported")
    found = unexpected_tracebacks(log)
    require(not found, f"there are tracebacks: {'; '.join(found)}")
    announced = log.count("!!! Exception during processing !!!")
    require(announced == stage.failed_runs, f"{announced} errors for {stage.failed_runs} runs")
    return f"{announced} errors, all meant"


def _with_two_pictures(stage: Stage) -> Workflow:
    workflow = changed(stage.workflows["generate"], GENERATE)
    (generate,) = ids_of(workflow, GENERATE)
    picture = workflow[generate]["inputs"]["control_image"]
    repeat = {"class_type": "RepeatImageBatch", "inputs": {"image": picture, "amount": 2}}
    workflow["twice"] = repeat
    workflow[generate]["inputs"]["control_image"] = ["twice", 0]
    return workflow


def _with_given_prompt(stage: Stage) -> Workflow:
    """A prompt that is known only once another node has run."""
    text = {"class_type": "PrimitiveString", "inputs": {"value": ""}}
    return {**changed(stage.workflows["generate"], GENERATE, prompt=["text", 0]), "text": text}


def _require_words(stage: Stage, name: str, workflow: Workflow, words: str) -> str:
    """See that a graph ends in an error whose words match; they are returned."""
    queued = stage.comfyui.queue(workflow)
    if isinstance(queued, Refusal):
        shown = " ".join(queued.nodes.values())
    else:
        stage.comfyui.follow(queued)
        require(queued.end == "execution_error", f"{name}: it ended in {queued.end}")
        stage.failed_runs += 1
        shown = queued.error_text()
    found = re.search(words, shown)
    require(found is not None, f"{name}: the node shows {shown!r}")
    begin = found[0][:_TOLD_APART] if found else ""
    require(shown.count(begin) == 1, f"{name}: the node says so more than once: {shown!r}")
    require("\n" not in shown, f"{name}: {shown!r} is more than one line")
    return shown
