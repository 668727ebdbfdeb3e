"""Measures, writes the figures and the page; see --help."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fidelity_report.page import PAGE, REPORT, render

LIBRARIES = ("torch", "diffusers", "transformers", "peft")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        scenes: pictures that each system paints.
        steps: of each picture.
        heads: of the random model, 128 channels each.
        blocks: of the random model, double and single; FLUX's own numbers unless quick.
        cycles: of fuse_lora and unfuse_lora.
        repeat: timed changes of the control scale.
        compiled_in_depth: whether the random model is compiled, too.
    """

    scenes: int = 8
    steps: int = 16
    heads: int = 2
    blocks: tuple[int, int] = (19, 38)
    cycles: int = 10
    repeat: int = 10
    compiled_in_depth: bool = True


QUICK = Plan(scenes=1, steps=3, heads=1, blocks=(1, 1), cycles=2, repeat=2, compiled_in_depth=False)


def main() -> None:
    """Measure and render, or compare the page with the figures."""
    parser = argparse.ArgumentParser(prog="scripts/fidelity", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where the page is out of date")
    parser.add_argument("--render", action="store_true", help="write the page from the old figures")
    parser.add_argument("--quick", action="store_true", help="a run for tests; needs --out")
    parser.add_argument("--out", type=Path, help="write the figures there, and no page")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out is None:
        parser.error("--quick: give --out, too; a quick run's figures are not for the page")
    if arguments.check:
        stale = PAGE.read_text(encoding="utf-8") != render(read_report())
        sys.exit("docs/fidelity.md is out of date; run scripts/fidelity --render." if stale else 0)
    if not arguments.render:
        report = describe_run() | measure(QUICK if arguments.quick else Plan())
        out = arguments.out or REPORT
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.out is None:
        PAGE.write_text(render(read_report()), encoding="utf-8")


def read_report() -> dict[str, Any]:
    """The figures that the page is made of."""
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8"))
    return report


def describe_run() -> dict[str, Any]:
    """What the figures were measured on, and with what."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "command": " ".join(["scripts/fidelity", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def measure(plan: Plan) -> dict[str, Any]:
    """All figures."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries below are imported
    import diffusers
    import torch
    import transformers

    from fidelity_report import changes, law, models, stages

    # One thread: two give other last bits than one.
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as home:
        miniature = models.write_miniature(Path(home) / "miniature")
        double, single = plan.blocks
        deep = models.write_random(
            Path(home) / "random", miniature, heads=plan.heads, double=double, single=single
        )
        cases = models.unseen_cases(plan.scenes)
        inputs = stages.random_inputs(deep, cases[0])
        return {
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "setting": describe_setting(plan),
            "stages": stages.measure_stages(miniature, cases, steps=plan.steps, compiled=True),
            "hoisting": stages.measure_hoisting(miniature, cases, steps=plan.steps),
            "random_model": stages.measure_step(deep, inputs, compiled=plan.compiled_in_depth),
            "law": {
                "conversion": law.measure_conversion() | law.measure_last_adaln(deep, inputs[1]),
                "norms": law.measure_norms(deep, inputs[1]),
                "scale_zero": law.measure_scale_zero(deep, inputs[1]),
                "rounding": {
                    "miniature": law.measure_rounding(miniature, 0.7),
                    "random_model": law.measure_rounding(deep, 0.7),
                },
                "sequences": law.measure_sequences(miniature, plan.cycles),
            },
            "changes": changes.measure_changes(miniature, plan.repeat),
        }


def describe_setting(plan: Plan) -> dict[str, Any]:
    """What was painted, and how the random model was cut."""
    from fidelity_report import models, stages

    return {
        "scenes": plan.scenes,
        "steps": plan.steps,
        "size": f"{models.SIDE}*{models.SIDE}",
        "levels": list(stages.LEVELS),
        "random_blocks": list(plan.blocks),
        "random_width": plan.heads * models.HEAD_WIDTH,
        "random_rank": models.RANK,
    }


if __name__ == "__main__":
    main()
