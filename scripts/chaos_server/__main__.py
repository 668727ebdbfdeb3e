"""Break what the server stands on while 10,000 jobs pass through it; see docs/benchmarks/chaos.md.

The last line of standard output is one JSON document: what was found, by kind. The exit code is 1
where anything was. With --out the whole document is written, and the page beside it.

    scripts/chaos --out docs/benchmarks/chaos.json
    scripts/chaos --jobs 300 --worker-kills 4 --server-kills 2 --seed 5
    scripts/chaos --plan
    scripts/chaos --render --check
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos_server.disk import enter_namespace
from chaos_server.errors import ChaosError
from chaos_server.figures import describe
from chaos_server.page import render
from chaos_server.plan import Amounts, make_plan
from chaos_server.run import run
from chaos_server.wishes import make_wishes
from depthflux.files import make_folder, write_atomically
from soak_server.machine import describe_run
from stand_in.running import ROOT

PUBLISHED = ROOT / "docs" / "benchmarks" / "chaos.json"


def main() -> None:
    """Run, judge and write, or compare the page with the figures."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.render:
        render_page(arguments.out or PUBLISHED, check=arguments.check)
        return
    if arguments.check:
        parser.error("--check: give --render, too")
    amounts = _amounts(parser, arguments)
    if arguments.plan:
        print(json.dumps([asdict(fault) for fault in make_plan(arguments.seed, amounts)]))
        return
    try:
        if amounts.disk_s:
            enter_namespace(sys.argv[1:])
        document = make_document(arguments, amounts)
    except ChaosError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    if arguments.out is not None:
        make_folder(arguments.out.absolute().parent)
        write_atomically(arguments.out, f"{json.dumps(document, indent=2)}\n".encode())
        render_page(arguments.out, check=False)
    print(render(document), file=sys.stderr)
    print(json.dumps({"found": document["found"], "complaints": document["complaints"]}))
    sys.exit(1 if any(document["found"].values()) else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=10_000, help="how many are submitted")
    parser.add_argument("--worker-kills", type=int, default=50, help="how often a worker dies")
    parser.add_argument("--server-kills", type=int, default=20, help="how often the server dies")
    parser.add_argument("--disk-seconds", type=float, default=6, help="how long the disk is full")
    parser.add_argument(
        "--lock-seconds", default="8,35", help="how long the store is locked, each time"
    )
    parser.add_argument("--seed", type=int, default=1, help="of jobs and faults")
    parser.add_argument("--without-full-disk", action="store_true", help="where nothing mounts")
    parser.add_argument("--without-clock", action="store_true", help="where no C compiler is")
    parser.add_argument("--folder", type=Path, help="where the server's data lie while it runs")
    parser.add_argument("--keep", type=Path, help="a folder for data, journal and log afterwards")
    parser.add_argument("--out", type=Path, help="the document; its page is put beside it")
    parser.add_argument("--plan", action="store_true", help="print the faults, run nothing")
    parser.add_argument("--render", action="store_true", help="write the page, run nothing")
    parser.add_argument("--check", action="store_true", help="with --render: only compare it")
    return parser


def _amounts(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Amounts:
    try:
        locks = [float(one) for one in arguments.lock_seconds.split(",") if one]
    except ValueError:
        parser.error(f"--lock-seconds={arguments.lock_seconds}: allowed: numbers such as 8,35")
    if arguments.jobs < 1:
        parser.error(f"--jobs={arguments.jobs}: allowed: 1 or more")
    if len(locks) > 2:
        parser.error(f"--lock-seconds={arguments.lock_seconds}: allowed: two at most")
    numbers = {
        "--worker-kills": arguments.worker_kills,
        "--server-kills": arguments.server_kills,
        "--disk-seconds": arguments.disk_seconds,
        "--lock-seconds": min(locks, default=0),
    }
    for name, number in numbers.items():
        if number < 0:
            parser.error(f"{name}={number:g}: allowed: 0 or more")
    return Amounts(
        jobs=arguments.jobs,
        worker_kills=arguments.worker_kills,
        server_kills=arguments.server_kills,
        disk_s=0 if arguments.without_full_disk else arguments.disk_seconds,
        lock_s=locks,
        has_clock=not arguments.without_clock,
    )


def make_document(arguments: argparse.Namespace, amounts: Amounts) -> dict[str, Any]:
    """Run, and describe what came out.

    Raises:
        ChaosError: this machine lacks something, or the server could not be started again.
    """
    if arguments.keep is not None:
        make_folder(arguments.keep)
    plan, wishes = make_plan(arguments.seed, amounts), make_wishes(arguments.seed, amounts.jobs)
    about = describe_run(sys.argv[1:], script="scripts/chaos")
    journal, evidence, took = run(
        wishes, plan, amounts, folder=arguments.folder, keep=arguments.keep
    )
    return {"run": about, "took": took, **describe(journal, evidence, plan, arguments.seed)}


def render_page(path: Path, *, check: bool) -> None:
    """Write the page beside its figures; only compare them with `check`."""
    if not path.exists():
        sys.exit(f"{path.name} is not there; run scripts/chaos --out.")
    page, text = path.with_suffix(".md"), render(json.loads(path.read_text(encoding="utf-8")))
    if not check:
        write_atomically(page, text.encode())
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        sys.exit(f"{page.name} is out of date; run scripts/chaos --render.")


if __name__ == "__main__":
    main()
