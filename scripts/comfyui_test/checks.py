"""What is checked of a workflow that runs: what comes back, how it moves, what is not done twice.

A check is given the stage, raises CheckFailedError, and returns what it saw in a few words.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from comfyui_test.errors import CheckFailedError
from comfyui_test.messages import Run
from comfyui_test.stage import PICTURE, PROFILE, Pixels, Stage, pixels_of, run_depthflux
from comfyui_test.widgets import WITHOUT, differences
from comfyui_test.workflows import (
    DEPTH_MAP,
    ENGINE,
    GENERATE,
    Workflow,
    changed,
    fields_of,
    ids_of,
)
from depthflux.contract import GenerationRequest

#: What a depth map depends on.
_DEPTH_FIELDS = {"size", "preprocess_depth", "invert_depth", "depth_normalization", "fit"}
#: Paints for minutes on a CPU, so that there is time to interrupt it.
_LONG = {"size": "1536*1536", "num_images": 4, "num_inference_steps": 50}
#: The server stops at its next step, which takes a second or two at this size.
_CANCEL_S = 20.0


def check_widgets(stage: Stage) -> str:
    """The nodes are there, and their widgets are the contract's."""
    wanted = {
        GENERATE: set(GenerationRequest.model_fields) - WITHOUT,
        DEPTH_MAP: _DEPTH_FIELDS,
        ENGINE: set(),
    }
    found = []
    for kind, fields in wanted.items():
        info = stage.comfyui.node_info(kind)
        if not info:
            raise CheckFailedError(f"there is no node {kind}; see {stage.comfyui.log}.")
        found += [f"{kind}.{line}" for line in differences(info, fields)]
    require(not found, "; ".join(found))
    return f"{sum(map(len, wanted.values()))} widgets"


def check_generate(stage: Stage) -> str:
    """The saved picture is the one that the server gives for the same request."""
    workflow = stage.workflows["generate"]
    run = stage.comfyui.run(workflow)
    run.require_success()
    stage.kept["run"] = run
    (picture,) = pictures = stage.shown(run, workflow, "SaveImage", _generate(workflow), 0)
    stage.kept["picture"] = picture

    (expected,) = stage.served.paint(PICTURE, fields_of(workflow, GENERATE))
    require_equal(picture, pixels_of(expected), "the saved picture")
    return f"{len(pictures)} of {picture.shape[1]}*{picture.shape[0]}"


def check_depth_map(stage: Stage) -> str:
    """The previewed depth map is the one that `depthflux depth` writes."""
    workflow, run = stage.workflows["generate"], _kept(stage, "run")
    (depth,) = stage.shown(run, workflow, "PreviewImage", _generate(workflow), 1)
    stage.kept["depth"] = depth
    size = fields_of(workflow, GENERATE)["size"]

    with TemporaryDirectory() as folder:
        out = Path(folder) / "depth.png"
        words = (str(PICTURE), "--out", str(out), "--size", size, "--profile", PROFILE)
        run_depthflux("depth", *words)
        require_equal(depth, pixels_of(out.read_bytes()), "the previewed depth map")
    return f"grey from {depth.min()} to {depth.max()}"


def check_envelope(stage: Stage) -> str:
    """The third output is the hosted envelope, with the request's fields."""
    workflow, run = stage.workflows["generate"], _kept(stage, "run")
    (id,) = ids_of(workflow, "PreviewAny")
    envelope = json.loads(run.outputs[id]["text"][0])
    data, fields = envelope["data"], fields_of(workflow, GENERATE)
    require((envelope["code"], data["status"]) == (200, "completed"), f"it is {envelope}")
    different = [name for name, value in fields.items() if data["input"].get(name) != value]
    require(not different, f"its input has other values of {', '.join(different)}")
    return f"{len(data['input'])} fields, {data['timings']['inference']} ms"


def check_progress(stage: Stage) -> str:
    """The progress bar moves with the steps, to their end."""
    workflow, run = stage.workflows["generate"], _kept(stage, "run")
    fields = fields_of(workflow, GENERATE)
    total = fields["num_inference_steps"] * fields["num_images"]
    steps = run.progress.get(_generate(workflow), [])
    values = [value for value, _ in steps]
    require({most for _, most in steps} == {total}, f"of {total} steps it told {steps}")
    require(values == sorted(values) and values[-1] == total, f"it told {values}")
    between = {value for value in values if 0 < value < total}
    fewest = total - 1 if stage.is_in_process else 1
    require(len(between) >= fewest, f"between start and end it told {sorted(between)}")
    return f"{len(values)} messages for {total} steps"


def check_same_again(stage: Stage) -> str:
    """Queued again, nothing is executed and nothing is asked."""
    workflow, count = stage.workflows["generate"], stage.served.count()
    run = stage.comfyui.run(workflow)
    run.require_success()
    require(not run.executed, f"the nodes {run.executed} were executed again")
    require(run.cached == set(workflow), f"cached were only {sorted(run.cached)}")
    require(stage.served.count() == count, "the server was asked again")
    return f"{len(run.cached)} nodes cached"


def check_other_seed(stage: Stage) -> str:
    """Another seed gives another picture; what it does not touch stays."""
    workflow = changed(stage.workflows["generate"], GENERATE, seed=1)
    run = stage.comfyui.run(workflow)
    run.require_success()
    (id,) = ids_of(workflow, GENERATE)
    require(id in run.executed, "Depthflux Generate was not executed")
    loaders = set(ids_of(workflow, "LoadImage"))
    require(loaders <= run.cached, "the control picture was loaded again")
    (picture,) = stage.shown(run, workflow, "SaveImage", id, 0)
    require(not np.array_equal(picture, _kept(stage, "picture")), "the picture is the same")
    return f"executed: {', '.join(run.executed)}"


def check_random_seed(stage: Stage) -> str:
    """Seed -1 draws anew at each queueing, and so does a seed that is left out."""
    left_out = changed(stage.workflows["generate"], GENERATE)
    for id in ids_of(left_out, GENERATE):
        del left_out[id]["inputs"]["seed"]
    drawn = changed(stage.workflows["generate"], GENERATE, seed=-1)
    for name, workflow in (("-1", drawn), ("none", left_out)):
        (id,) = ids_of(workflow, GENERATE)
        first, second = _pictures_of_two_runs(stage, workflow, id)
        require(not np.array_equal(first, second), f"seed {name}: twice the same picture")
    return "four pictures"


def _pictures_of_two_runs(stage: Stage, workflow: Workflow, id: str) -> tuple[Pixels, Pixels]:
    pictures = []
    for _ in range(2):
        run = stage.comfyui.run(workflow)
        run.require_success()
        pictures += stage.shown(run, workflow, "SaveImage", id, 0)
    return pictures[0], pictures[1]


def check_batch(stage: Stage) -> str:
    """Several pictures come as one batch, the first one that of the seed."""
    workflow = changed(stage.workflows["generate"], GENERATE, num_images=3)
    run = stage.comfyui.run(workflow)
    run.require_success()
    pictures = stage.shown(run, workflow, "SaveImage", _generate(workflow), 0)
    require(len(pictures) == 3, f"{len(pictures)} pictures were saved")
    require_equal(pictures[0], _kept(stage, "picture"), "the first of three")
    return "3 pictures"


def check_depth_map_alone(stage: Stage) -> str:
    """Depthflux Depth Map gives the same depth map, and nothing is painted for it."""
    workflow = stage.workflows["depth-map"]
    run = stage.comfyui.run(workflow)
    run.require_success()
    (id,) = ids_of(workflow, DEPTH_MAP)
    for kind in ("SaveImage", "PreviewImage"):
        (depth,) = stage.shown(run, workflow, kind, id, 0)
        require_equal(depth, _kept(stage, "depth"), f"the depth map of {kind}")
    if not stage.is_in_process:
        fields = stage.served.newest()
        require("denoise" not in fields["timings"], f"the server painted: {fields['timings']}")
    return "saved and previewed"


def check_chained(stage: Stage) -> str:
    """Depthflux Depth Map's picture, given to Depthflux Generate, leads to the same picture."""
    (depth,) = ids_of(stage.workflows["depth-map"], DEPTH_MAP)
    generate = changed(
        stage.workflows["generate"],
        GENERATE,
        control_image=["depth-map", 0],
        preprocess_depth=False,
    )
    (picture,) = ids_of(generate, "LoadImage")
    estimating = changed(stage.workflows["depth-map"], DEPTH_MAP, control_image=[picture, 0])[depth]
    estimating["inputs"]["engine"] = generate[_generate(generate)]["inputs"]["engine"]
    workflow = {**generate, "depth-map": estimating}
    run = stage.comfyui.run(workflow)
    run.require_success()
    (painted,) = stage.shown(run, workflow, "SaveImage", _generate(workflow), 0)
    require_equal(painted, _kept(stage, "picture"), "the picture")
    return "no pixel differs"


def check_two_engines(stage: Stage) -> str:
    """Two engines side by side: the same pictures, so their difference is black.

    The second one is the server under another name of this machine, which to ComfyUI is another
    engine.
    """
    workflow = changed(stage.workflows["two-engines"], ENGINE)
    second = {"profile": "auto", "address": stage.server.address.replace("127.0.0.1", "localhost")}
    workflow[ids_of(workflow, ENGINE)[1]]["inputs"] = second
    run = stage.comfyui.run(workflow)
    run.require_success()
    painted = [id for id in run.executed if id in ids_of(workflow, GENERATE)]
    require(len(painted) == 2, f"only {painted} were executed")
    (preview,) = (
        id
        for id in ids_of(workflow, "PreviewImage")
        if workflow[workflow[id]["inputs"]["images"][0]]["class_type"] == "ImageBlend"
    )
    (difference,) = stage.pictures_of(run, preview)
    require(not difference.any(), f"they differ by up to {difference.max()} of 255")
    return "no pixel differs"


def check_interrupt(stage: Stage) -> str:
    """The interrupt stops a run at its next step, on the server, too."""
    workflow = changed(stage.workflows["generate"], GENERATE, **_LONG)
    sent: list[float] = []

    def interrupt_once(run: Run) -> None:
        steps = run.progress.get(_generate(workflow))
        if steps and not sent:
            sent.append(time.monotonic())
            stage.comfyui.interrupt()

    run = stage.comfyui.run(workflow, interrupt_once)
    require(run.end == "execution_interrupted", f"it ended in {run.end}: {run.error_text()}")
    done, total = run.progress[_generate(workflow)][-1]
    seen = f"after step {done} of {total}, in {time.monotonic() - sent[0]:.1f} s"
    if stage.is_in_process:
        return seen
    prediction = stage.served.wait(stage.served.newest()["id"], _CANCEL_S)
    ended = (prediction["status"], prediction.get("code"))
    require(ended == ("failed", 1405), f"on the server it ended in {ended}: {prediction['error']}")
    return f"{seen}; the server: {prediction['error']}"


def require(holds: bool, otherwise: str) -> None:
    """See that something holds.

    Raises:
        CheckFailedError: it does not.
    """
    if not holds:
        raise CheckFailedError(otherwise)


def require_equal(got: Pixels, expected: Pixels, name: str) -> None:
    """See that two pictures are the same to the bit.

    Raises:
        CheckFailedError: they are not; by how much.
    """
    require(got.shape == expected.shape, f"{name} is {got.shape} and not {expected.shape}")
    most = int(np.abs(got.astype(int) - expected.astype(int)).max())
    require(most == 0, f"{name} differs by up to {most} of 255")


def _generate(workflow: Workflow) -> str:
    (id,) = ids_of(workflow, GENERATE)
    return id


def _kept(stage: Stage, name: str) -> Any:
    """What an earlier check has left.

    Raises:
        CheckFailedError: it has left nothing, since it failed.
    """
    require(name in stage.kept, f"an earlier check left no {name}")
    return stage.kept[name]
