"""Queue the example workflows in a real ComfyUI, headless on the CPU, and check what comes back.

Starts `depthflux serve --profile demo` and ComfyUI on free ports of 127.0.0.1, installs the nodes
into a base directory of their own, and ends everything again; ComfyUI's own folder is only read.
Prints a line for each check; the exit code is 0, 1 where one fails, 2 where nothing can be checked.

    scripts/test-comfyui ~/ComfyUI
    scripts/test-comfyui ~/ComfyUI --python ~/ComfyUI/venv/bin/python --in-process
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from comfyui_test.checks import (
    check_batch,
    check_chained,
    check_depth_map,
    check_depth_map_alone,
    check_envelope,
    check_generate,
    check_interrupt,
    check_other_seed,
    check_progress,
    check_random_seed,
    check_same_again,
    check_two_engines,
    check_widgets,
)
from comfyui_test.errors import CannotRunError, CheckFailedError
from comfyui_test.folders import check_comfyui, find_python
from comfyui_test.refused import check_errors, check_key, check_log, check_server_gone
from comfyui_test.stage import PROFILE, Stage, stage

#: Several times what both rounds take on two cores, so that what hangs ends.
LIMIT_S = 600
#: How much of a log is shown where a check has failed, in characters.
_SHOWN = 4000

Check = Callable[[Stage], str]

#: Once in a round: over HTTP, and in process where that is asked for.
_ROUND: tuple[Check, ...] = (
    check_generate,
    check_depth_map,
    check_envelope,
    check_progress,
    check_same_again,
    check_interrupt,
    check_other_seed,
    check_random_seed,
    check_batch,
    check_depth_map_alone,
    check_chained,
    check_two_engines,
    check_errors,
)


def main() -> None:
    """Check, and exit."""
    parser = argparse.ArgumentParser(
        prog="scripts/test-comfyui",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="ComfyUI's folder")
    parser.add_argument("--python", type=Path, help="ComfyUI's Python; else that of its venv")
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="check an engine in ComfyUI's process, too; its Python must have depthflux",
    )
    arguments = parser.parse_args()
    # A shell's background jobs ignore it, and ComfyUI, which is ended by it, would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(LIMIT_S)
    try:
        comfyui = check_comfyui(arguments.path.expanduser())
        python = find_python(comfyui, arguments.python)
        failed = run_checks(comfyui, python, in_process=arguments.in_process)
    except CannotRunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if failed else 0)


def run_checks(comfyui: Path, python: Path, *, in_process: bool) -> int:
    """Run all checks, and print a line for each; how many failed.

    Args:
        comfyui: its folder.
        python: what runs it.
        in_process: check an engine in ComfyUI's process, too.

    Raises:
        CannotRunError: something does not start.
    """
    began, failed, count = time.monotonic(), 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="test-comfyui-") as folder,
        stage(Path(folder), comfyui, python) as on,
    ):
        versions = ", ".join(f"{name} {is_}" for name, is_ in on.comfyui.versions().items())
        print(f"{versions}; started in {time.monotonic() - began:.0f} s")
        for check in _plan(on, in_process=in_process):
            failed, count = failed + _fails(check, on), count + 1
        if failed:
            _show_logs(Path(folder))
    seconds = time.monotonic() - began
    print(f"{count - failed} of {count} checks passed in {seconds:.0f} s: {versions}")
    return failed


def _plan(on: Stage, *, in_process: bool) -> Iterator[Check]:
    """The checks in order; each round's engine is set up before its checks are."""
    yield check_widgets
    rounds = {"over HTTP": on.engine}
    if in_process:
        rounds["in process"] = {"profile": PROFILE, "address": ""}
    for name, engine in rounds.items():
        print(f"{name}:")
        on.use(engine)
        yield from _ROUND
    on.use(rounds["over HTTP"])
    yield from (check_server_gone, check_key, check_log)


def _fails(check: Check, on: Stage) -> int:
    """Run one check and print its line; 1 where it fails."""
    start = time.monotonic()
    name = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
    try:
        seen = check(on)
    except (CheckFailedError, CannotRunError, OSError, LookupError, ValueError) as error:
        print(f"FAILED  {name}: {type(error).__name__}: {error}")
        return 1
    print(f"ok      {name} ({seen}; {time.monotonic() - start:.1f} s)")
    return 0


def _show_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        text = log.read_text(encoding="utf-8", errors="replace")
        print(f"--- the end of {log.name}:\n{text[-_SHOWN:]}", file=sys.stderr)


def _end(number: int, _frame: FrameType | None) -> None:
    """Leave by the way that ends what was started."""
    sys.exit(f"error: ended by {signal.Signals(number).name}; what was started is ended, too.")


if __name__ == "__main__":
    main()
