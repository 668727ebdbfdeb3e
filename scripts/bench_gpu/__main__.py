"""Times FLUX.1-dev's shapes with random weights: against diffusers, and from files to pictures.

    scripts/bench-gpu speed --out docs/benchmarks/h200-2026-11-24      all parts; again to go on
    scripts/bench-gpu speed --out DIR --parts fast,turbo --minutes 9.5
    scripts/bench-gpu speed --out DIR --model small --device cpu       the rehearsal

    scripts/bench-gpu make --folder DIR                       35 GB; once
    scripts/bench-gpu run --folder DIR --minutes 9 --out docs/benchmarks/gpu-full-size.json
    scripts/bench-gpu run --folder DIR --arms eager device    only some ways of loading

    scripts/bench-gpu make --folder DIR --size tiny           the rehearsal, on a CPU
    scripts/bench-gpu run --folder DIR --device cpu

What is measured stands in parts.py and plan.py, in order of importance; what there is no time for
is left out and told. The last line of standard output is one JSON document.
"""

import argparse
import json
import math
import re
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from bench_gpu import parts, speed
from bench_gpu.plan import SCALES
from bench_gpu.run import Options, run
from bench_gpu.sizes import SIZES
from depthflux.errors import DepthFluxError

DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="bench-gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_speed(commands.add_parser("speed", help="the contest against diffusers, part by part"))
    _add_make(commands.add_parser("make", help="write a model of random weights into a folder"))
    _add_run(commands.add_parser("run", help="measure the model in a folder"))
    arguments = parser.parse_args()
    # A plain end, so that what was started is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    does = {"speed": _speed, "make": _make, "run": _run}
    sys.exit(does[arguments.command](arguments))


def _add_speed(contest: argparse.ArgumentParser) -> None:
    contest.add_argument("--out", type=Path, required=True, help="where documents go")
    contest.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "depthflux-bench-gpu",
        help="compiled code, kept for the next call (default: %(default)s)",
    )
    contest.add_argument(
        "--parts", type=names, default=[], help=f"{', '.join(parts.GROUPS)}, or single parts"
    )
    contest.add_argument("--minutes", type=minutes, default=8.0, help="of the call (default: 8)")
    contest.add_argument("--model", choices=parts.SIZES, default="full", help="default: full")
    contest.add_argument("--device", type=device, default="cuda", help="default: cuda")
    contest.add_argument("--sizes", type=names, default=[], help="width*height, with commas")
    contest.add_argument("--steps", type=count, help="of denoising (default: the model's)")
    contest.add_argument("--repeat", type=count, help="rounds (default: 7 for full, 2 for small)")
    contest.add_argument("--warmup", type=count, default=2, help="runs before them (default: 2)")
    contest.add_argument("--commit", help="of the code, where git cannot tell")


def _add_make(make: argparse.ArgumentParser) -> None:
    make.add_argument("--folder", type=Path, required=True, help="where to; made if missing")
    make.add_argument("--size", choices=SIZES, default="full", help="default: full")
    make.add_argument("--seed", type=int, default=0, help="of all weights (default: 0)")
    make.add_argument("--device", type=device, help="draws the numbers (default: cuda if there)")


def _add_run(measure: argparse.ArgumentParser) -> None:
    measure.add_argument("--folder", type=Path, required=True, help="that make wrote")
    measure.add_argument("--device", type=device, default="cuda", help="default: cuda")
    measure.add_argument(
        "--minutes", type=minutes, default=9.0, help="begin nothing after that (default: 9)"
    )
    measure.add_argument("--arms", nargs="+", choices=SCALES, default=[], help="default: all")
    measure.add_argument("--repeat", type=count, help="timed pictures of each kind")
    measure.add_argument("--out", type=Path, help="the document (default: DIR/result.json)")
    measure.add_argument("--commit", help="of the code, where git cannot tell")


def device(text: str) -> str:
    """A device's name."""
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not cpu, cuda or cuda:N")
    return text


def minutes(text: str) -> float:
    """A number of minutes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes, more than 0")
    return value


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def names(text: str) -> list[str]:
    """Names with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _speed(arguments: argparse.Namespace) -> int:
    given = vars(arguments)
    given.pop("command")
    options = speed.Options(**given, arguments=[shlex.quote(word) for word in sys.argv[1:]])
    try:
        return speed.run(options)
    except DepthFluxError as error:
        sys.exit(f"error: {error}")


def _make(arguments: argparse.Namespace) -> int:
    import torch

    from bench_gpu.making import make

    there = torch.cuda.is_available()
    chosen = arguments.device or ("cuda" if there else "cpu")
    if chosen != "cpu" and not there:
        sys.exit(f"error: --device {chosen}: torch {torch.__version__} sees no GPU; use cpu.")
    size = SIZES[arguments.size]
    print(
        json.dumps(make(arguments.folder, size, seed=arguments.seed, device=torch.device(chosen)))
    )
    return 0


def _run(arguments: argparse.Namespace) -> int:
    return run(
        Options(
            folder=arguments.folder,
            device=arguments.device,
            minutes=arguments.minutes,
            arms=arguments.arms,
            repeat=arguments.repeat,
            out=arguments.out or arguments.folder / "result.json",
            commit=arguments.commit,
            arguments=sys.argv[1:],
        )
    )


if __name__ == "__main__":
    main()
