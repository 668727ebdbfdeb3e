"""What the figures were measured on and by which code.

Knows nothing of what is measured.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from depthflux.bench.gpu_samples import GpuSamples
from depthflux.bench.host import commit_here, describe_host
from depthflux.engine.provenance import describe_versions
from depthflux.model.placement import device_name


def describe_run(device: torch.device, samples: GpuSamples) -> dict[str, Any]:
    """Command, date, commit, versions, host and device."""
    torchao = importlib.metadata.version("torchao") if _has("torchao") else None
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit_here(),
        "versions": {**describe_versions(), "torchao": torchao, "cuda": torch.version.cuda},
        "host": describe_host(),
        "device": {
            "name": device_name(device),
            "torch": str(device),
            "threads": torch.get_num_threads(),
            "nvidia_smi": samples.describe(),
            "nvidia_smi_missing": samples.missing,
        },
    }


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
