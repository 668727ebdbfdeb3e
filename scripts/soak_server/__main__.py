"""Measure the server around an engine that takes 50 ms; see docs/benchmarks/server.md.

The last line of standard output is one JSON document of the parts measured now; tables go to
standard error. With --out, server.json in that folder gets these parts in place of their earlier
figures, and server.md is written from it.

    scripts/soak --out docs/benchmarks
    scripts/soak --parts overhead,load --seconds 20
    scripts/soak --parts memory --minutes 30 --out docs/benchmarks
    scripts/soak --render --check
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from depthflux.files import make_folder, write_atomically
from soak_server.load import measure_load
from soak_server.machine import describe_run
from soak_server.memory import measure_memory
from soak_server.overhead import measure_overhead
from soak_server.page import render
from soak_server.stage import Stage, stage
from stand_in.running import ROOT

PUBLISHED = ROOT / "docs" / "benchmarks"
FIGURES, PAGE = "server.json", "server.md"
#: A part that takes so many times what it should, and so many seconds more, is given up.
_PATIENCE, _EXTRA_S = 3.0, 120.0

Measure = Callable[[Stage], Coroutine[Any, Any, dict[str, Any]]]


def main() -> None:
    """Measure and write, or compare the page with the figures."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", default="overhead,load,memory", help="which, with commas")
    parser.add_argument("--count", type=int, default=200, help="of overhead: requests of each kind")
    parser.add_argument("--rates", default="300,450,600", help="of load: polls a second, in turn")
    parser.add_argument("--seconds", type=float, default=60, help="of load: for each rate")
    parser.add_argument("--minutes", type=float, default=30, help="of memory")
    parser.add_argument("--folder", type=Path, help="where the server's data lie while it runs")
    parser.add_argument("--out", type=Path, help="folder of server.json and server.md")
    parser.add_argument("--render", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--check", action="store_true", help="with --render: only compare it")
    arguments = parser.parse_args()
    if arguments.render:
        render_page(arguments.out or PUBLISHED, check=arguments.check)
        return
    if arguments.check:
        parser.error("--check: give --render, too")
    measured = measure_parts(_chosen(parser, arguments), arguments.folder)
    if arguments.out is not None:
        publish(arguments.out, measured)
    print(render({"parts": measured}), file=sys.stderr)
    failures = sum(part["failures_count"] for part in measured.values())
    print(json.dumps({"parts": measured, "failures_count": failures}))
    sys.exit(1 if failures else 0)


def _chosen(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> dict[str, tuple[Measure, float]]:
    """The parts that are asked for: how each is measured, and how many seconds it should take."""
    try:
        rates = [float(rate) for rate in arguments.rates.split(",")]
    except ValueError:
        parser.error(f"--rates={arguments.rates}: allowed: numbers with commas, such as 300,450")
    numbers = {
        "--count": arguments.count,
        "--rates": min(rates),
        "--seconds": arguments.seconds,
        "--minutes": arguments.minutes,
    }
    for name, number in numbers.items():
        if number <= 0:
            parser.error(f"{name}={number:g}: allowed: more than 0")
    known: dict[str, tuple[Measure, float]] = {
        "overhead": (lambda on: measure_overhead(on, arguments.count), 0.5 * arguments.count),
        "load": (
            lambda on: measure_load(on, rates, arguments.seconds),
            len(rates) * arguments.seconds,
        ),
        "memory": (lambda on: measure_memory(on, arguments.minutes), 60 * arguments.minutes),
    }
    wanted = arguments.parts.split(",")
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"--parts: {', '.join(unknown)} is none; allowed: {', '.join(known)}")
    return {name: known[name] for name in known if name in wanted}


def measure_parts(
    chosen: dict[str, tuple[Measure, float]], folder: Path | None
) -> dict[str, dict[str, Any]]:
    """Measure each part with a server of its own.

    Args:
        chosen: how each is measured, and how many seconds it should take.
        folder: where the servers' folders are made; None for the system's temporary one.
    """
    measured = {}
    for name, (measure, seconds) in chosen.items():
        run = describe_run(sys.argv[1:])
        print(f"{name}: about {seconds:.0f} s", file=sys.stderr)
        with stage(folder) as on:
            figures = asyncio.run(_limited(measure(on), _PATIENCE * seconds + _EXTRA_S))
        measured[name] = {"run": run, **figures}
    return measured


async def _limited(figures: Coroutine[Any, Any, dict[str, Any]], limit_s: float) -> dict[str, Any]:
    async with asyncio.timeout(limit_s):
        return await figures


def publish(folder: Path, measured: dict[str, dict[str, Any]]) -> None:
    """Put parts into a folder's figures, and write its page."""
    make_folder(folder)
    path = folder / FIGURES
    parts = read(folder)["parts"] if path.exists() else {}
    text = json.dumps({"parts": parts | measured}, indent=2)
    write_atomically(path, f"{text}\n".encode())
    render_page(folder, check=False)


def render_page(folder: Path, *, check: bool) -> None:
    """Write a folder's page from its figures; only compare them with `check`."""
    page, text = folder / PAGE, render(read(folder))
    if not check:
        write_atomically(page, text.encode())
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        sys.exit(f"{page.name} is out of date; run scripts/soak --render.")


def read(folder: Path) -> dict[str, Any]:
    """A folder's figures; the script ends where there are none."""
    if not (folder / FIGURES).exists():
        sys.exit(f"{FIGURES} is not there; measure with scripts/soak --out.")
    document: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    main()
