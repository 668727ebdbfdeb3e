"""Runs arms, one stage after another, and tells of each as it ends.

Answers with one JSON object a line, so that what was measured is known to the watching process even
when this one dies. It knows nothing of the document.
"""

import gc
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench_gpu import ceiling_stages, picture_stages, weight_stages
from bench_gpu.bench import Bench, SkippedError
from bench_gpu.child import Teller
from bench_gpu.manifest import read_manifest
from bench_gpu.plan import Arm, Planner, Stage
from bench_gpu.sizes import SIZES
from depthflux.engine.provenance import describe_versions
from depthflux.engine.selection import select_settings
from depthflux.errors import DepthFluxError, first_line
from depthflux.model.placement import place
from depthflux.model.prepared import FOLDER as PREPARED

Measure = Callable[..., dict[str, Any]]

KINDS: Mapping[str, Measure] = {
    "prepare": weight_stages.prepare,
    "load": weight_stages.load,
    "control_scale": weight_stages.control_scale,
    "first_steps": picture_stages.first_steps,
    "pictures": picture_stages.pictures,
    "recompiling": picture_stages.recompiling,
    "kernels": picture_stages.kernels,
    "safety": picture_stages.safety,
    "ceilings": ceiling_stages.ceilings,
}


def main(options: Mapping[str, Any], tell: Teller) -> None:
    """Run the arms that the options name."""
    # That there is no depth estimator, which is meant here, would be said at every loading.
    logging.getLogger("depthflux").setLevel(logging.ERROR)
    folder = Path(options["folder"])
    manifest = read_manifest(folder)
    size = SIZES[manifest["size"]]
    on_cuda = options["device"].startswith("cuda")
    planner = Planner(size, manifest["weights_bytes"], on_cuda=on_cuda, repeat=options["repeat"])
    for arm in planner.arms():
        if arm.name in options["arms"]:
            settings = select_settings(
                "exact",
                environment={},
                arguments={"weights_dir": folder, "device": options["device"], **arm.settings},
            )
            placement = place(settings.values)
            tell(machine=describe_torch(placement.device))
            run_arm(arm, Bench(folder, size, settings, placement), options["deadline"], tell)


def run_arm(arm: Arm, bench: Bench, deadline: float, tell: Teller) -> None:
    """Run an arm's stages; what fails is told, and what needs no more of it goes on."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # What another run left there would be loaded instead of the files that are to be measured.
    shutil.rmtree(bench.folder / PREPARED, ignore_errors=True)
    for stage in arm.stages:
        name = f"{arm.name}/{stage.name}"
        left = deadline - time.time()
        if stage.loaded and bench.engine is None:
            tell(stage=name, state="skipped", reason="the model was not loaded")
        elif stage.seconds > left:
            reason = f"{max(left, 0):.0f} s were left, and it may take {stage.seconds:.0f} s"
            tell(stage=name, state="skipped", reason=reason)
        else:
            tell(stage=name, state="started", expected_seconds=round(stage.seconds, 1))
            tell(stage=name, **measure(stage, bench))
    bench.engine = None
    gc.collect()
    shutil.rmtree(bench.folder / PREPARED, ignore_errors=True)
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def measure(stage: Stage, bench: Bench) -> dict[str, Any]:
    """One stage's result, or why it has none; one failure must not cost the stages after it."""
    try:
        return {"state": "done", "result": KINDS[stage.kind](bench, **stage.options)}
    except SkippedError as error:
        return {"state": "skipped", "reason": str(error)}
    except (DepthFluxError, RuntimeError, ImportError, OSError) as error:
        return {"state": "failed", "reason": f"{type(error).__name__}: {first_line(error)}"}


def describe_torch(device: torch.device) -> dict[str, Any]:
    """The device as torch sees it, and the versions of all that computes."""
    facts: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "device": "CPU",
        "versions": describe_versions(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "device_memory_bytes": properties.total_memory,
        }
    return facts
