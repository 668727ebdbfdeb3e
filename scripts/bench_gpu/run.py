"""`run`: the arms one after another, within a limit of time, and the document of what came out.

Imports no torch and touches no GPU; processes of their own measure. Knows nothing of how anything
is measured.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_gpu.card import card
from bench_gpu.document import NOTICE, NOTICE_TINY, Document, checks, table
from bench_gpu.machine import describe_run
from bench_gpu.manifest import read_manifest
from bench_gpu.plan import Planner
from bench_gpu.sizes import SIZES
from bench_gpu.watching import Listener, measure_apart
from depthflux.bench.gpu_samples import GpuSamples


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        folder: that `make` wrote.
        device: `cpu`, `cuda` or `cuda:N`.
        minutes: after which nothing is begun any more.
        arms: names of those to run; empty for all.
        repeat: timed pictures of each kind; None for the size's own number.
        out: the document's path.
        commit: of the code, where git cannot tell.
        arguments: as they were given, for the document.
    """

    folder: Path
    device: str
    minutes: float
    arms: Sequence[str]
    repeat: int | None
    out: Path
    commit: str | None
    arguments: list[str]


def run(options: Options) -> int:
    """Measure; the last line on standard output is the document.

    Returns:
        1 where a stage failed or a check does not hold, else 0; what there was no time for is no
        failure.
    """
    deadline = time.time() + 60 * options.minutes
    with GpuSamples(options.device) as samples:
        document = _begin(options, samples)
        print(json.dumps(document.data["card"], indent=2), file=sys.stderr)
        _measure(options, deadline, Listener(document, samples))
    document.data |= {"checks": checks(document), "finished": True}
    document.write()
    print(table(document), file=sys.stderr)
    print(json.dumps(document.data))
    failed = any(entry["state"] == "failed" for entry in document.stages.values())
    return 1 if failed or False in document.data["checks"].values() else 0


def _begin(options: Options, samples: GpuSamples) -> Document:
    """The document before anything is measured."""
    manifest = read_manifest(options.folder)
    size = SIZES[manifest["size"]]
    return Document(
        options.out,
        describe_run(options.arguments, options.commit)
        | {
            "notice": NOTICE if size.name == "full" else NOTICE_TINY,
            "gpu": samples.describe(),
            "model": manifest,
            "card": card(size, manifest["weights_bytes"]),
            "null": _why_null(options.device, samples),
        },
    )


def _measure(options: Options, deadline: float, listener: Listener) -> None:
    """Run the arms that are asked for while there is time to load."""
    manifest = read_manifest(options.folder)
    size = SIZES[manifest["size"]]
    on_cuda = options.device.startswith("cuda")
    repeat = options.repeat or size.repeat
    planner = Planner(size, manifest["weights_bytes"], on_cuda=on_cuda, repeat=repeat)
    arms = [arm for arm in planner.arms() if not options.arms or arm.name in options.arms]
    # On the CPU one process for all arms: imports take longer there than what is measured.
    for group in [[arm] for arm in arms] if on_cuda else [arms]:
        needed = planner.start_seconds + group[0].stages[0].seconds
        left = max(deadline - time.time(), 0)
        if left < needed:
            reason = f"{left:.0f} s were left, and starting may take {needed:.0f} s"
            listener.skip(group, reason)
            continue
        measure_apart(
            group,
            listener,
            folder=options.folder,
            device=options.device,
            repeat=repeat,
            deadline=deadline,
        )


def _why_null(device: str, samples: GpuSamples) -> dict[str, str]:
    """Why some of the document's figures are null."""
    reasons = {"gpu": samples.missing} if samples.missing else {}
    if not device.startswith("cuda"):
        reason = f"the run was on {device}, which has no memory and no kernels of its own"
        names = ("device_*_bytes", "host_pinned_bytes", "*_kernels", "pinned_host_to_device_*")
        reasons |= dict.fromkeys(names, reason)
    return reasons
