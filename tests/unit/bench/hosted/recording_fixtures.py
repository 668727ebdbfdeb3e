"""What the tests of recordings share: a plan of two cases, and an earlier run of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from run_fixtures import completed, facts

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.manifest import write_manifest
from depthflux.bench.hosted.plan import ContestPlan, tasks_of
from depthflux.bench.hosted.plan_file import describe_plan
from depthflux.bench.hosted.planning import make_plan
from depthflux.bench.hosted.suite_copy import write_suite

SUITE = """
[defaults]
size = "512*512"
[[case]]
name = "one"
control_image = "cube.png"
prompt = "a red cube"
seed = 7
[[case]]
name = "two"
control_image = "cube.png"
prompt = "a blue cube"
seed = 9_999_999_998
num_images = 2
"""


def write_suite_file(folder: Path, text: str = SUITE) -> Path:
    """A suite of two cases with one picture."""
    Image.new("RGB", (32, 32), "red").save(folder / "cube.png")
    suite = folder / "mine.toml"
    suite.write_text(text, encoding="utf-8")
    return suite


def plan_of(file: Path, /, **changed: Any) -> ContestPlan:
    """A plan of a suite and the miniature, changed as a test says."""
    return make_plan(**{"suite": file, "profile": "demo", **changed})


def record(path: Path, plan: ContestPlan, *, answered: int = 1) -> RunFolder:
    """A run of a plan, of which so many tasks of the first side are completed."""
    folder = RunFolder(path)
    path.mkdir()
    folder.write_json("plan.json", describe_plan(plan).model_dump(mode="json"))
    write_suite(plan.suite, folder)
    name = plan.first_name
    folder.write_side(facts(name, model="a/model", profile="" if name == "hosted" else "a"))
    for task in tasks_of(plan)[:answered]:
        folder.task(name, task.key).end(completed(folder, name, task))
        folder.write(f"{name}/{task.key}/0-depth.png", b"drawn by a judge")
    folder.write("local/one-0/0.png", b"the other side's")
    write_manifest(folder)
    return folder
