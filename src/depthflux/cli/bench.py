"""`depthflux bench speed`: diffusers and depthflux side by side on this machine.

Everything that can be refused is refused before torch is imported and a model is loaded. The other
command of the group, `hosted`, is in depthflux.cli.bench_hosted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from depthflux.bench.plan import BASELINES, MODELS, make_plan
from depthflux.cli.bench_hosted import hosted
from depthflux.cli.config import PIPE_COLUMNS
from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import given_settings, json_option, setting_options
from depthflux.cli.outputs import check_new_file, echo_json, output_folder
from depthflux.files import write_atomically

#: Files that a run leaves in its folder.
DOCUMENT, CHART = "speed.json", "speed.png"
DEFAULT_SYSTEMS = "E,C,F,exact"

GROUP_EPILOG = """\b
Examples:
  depthflux bench speed --model demo --systems E,exact
  depthflux bench speed --model full --size "1024*1024" --size "864*1636" --out bench
  depthflux bench hosted --suite quick --out first-look
"""
SPEED_EPILOG = f"""\b
Systems:
  {(chr(10) + "  ").join(f"{name}  {what}" for name, what in BASELINES.items())}
  and depthflux in any profile, by its name

\b
Examples:
  depthflux bench speed --model demo --systems E,exact --out bench
  depthflux bench speed --model small --systems E,C,exact --steps 4 --repeat 3 --json
  depthflux bench speed --model full --size "1024*1024" --systems E,C,F,exact
"""


@click.group(epilog=GROUP_EPILOG)
def bench() -> None:
    """Measure depthflux on this machine."""


bench.add_command(hosted)


@bench.command(epilog=SPEED_EPILOG)
@click.option(
    "--model",
    default="demo",
    show_default=True,
    help="; ".join(f"{name}: {kind.summary}" for name, kind in MODELS.items()) + ".",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="WIDTH*HEIGHT",
    help="What is painted, multiples of the model's grid; may be repeated.  [default: "
    + "; ".join(f"{kind.size} for {name}" for name, kind in MODELS.items())
    + "]",
)
@click.option(
    "--systems",
    default=DEFAULT_SYSTEMS,
    show_default=True,
    metavar="NAMES",
    help="What is timed, with commas between, in this order.",
)
@click.option(
    "--steps",
    type=int,
    help="Denoising steps, 1 to 50.  [default: "
    + "; ".join(f"{kind.steps} for {name}" for name, kind in MODELS.items())
    + "]",
)
@click.option("--repeat", default=7, show_default=True, help="Timed rounds.")
@click.option("--warmup", default=2, show_default=True, help="Runs of each system before them.")
@click.option("--num-images", default=1, show_default=True, help="Pictures of a run, 1 to 4.")
@click.option("--seed", default=1, show_default=True, help="Of the first picture.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="bench",
    show_default=True,
    metavar="DIR",
    help=f"Where {DOCUMENT} and {CHART} are written.",
)
@click.option("--force", is_flag=True, help="Overwrite what an earlier run left there.")
@setting_options(("device", "dtype", "compile", "threads"))
@json_option
@verbose_option
@click.pass_context
def speed(ctx: click.Context, /, out: Path, force: bool, as_json: bool, **asked: Any) -> None:
    """Time diffusers and depthflux side by side.

    Systems take turns in one process on the same pictures, with the same weights. Prints the paths
    of the figures and of a bar chart, or with --json the figures; the table goes to standard error.
    Settings win over every profile's.
    """
    plan = make_plan(**asked, settings=given_settings(ctx))
    for name in (DOCUMENT, CHART):
        check_new_file(out.expanduser() / name, force=force)
    with output_folder(out) as folder:
        from depthflux.bench.chart import chart_file
        from depthflux.bench.speed import run_speed

        document_path, chart_path = folder / DOCUMENT, folder / CHART

        def keep(document: dict[str, Any]) -> None:
            write_atomically(document_path, (json.dumps(document, indent=2) + "\n").encode())

        # After every round, so that a run that is ended leaves its rounds.
        document = run_speed(plan, say=say, announce=_announce, keep=keep)
        keep(document)
        write_atomically(chart_path, chart_file(document))
    _print_tables(document)
    if as_json:
        echo_json(document)
        return
    click.echo(str(document_path))
    click.echo(str(chart_path))


def _announce(card: dict[str, Any]) -> None:
    from depthflux.bench.table import card_lines

    for line in card_lines(card):
        say(line)


def _print_tables(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from depthflux.bench.table import HEADINGS, rows

    console = Console(
        stderr=True, width=None if sys.stderr.isatty() else PIPE_COLUMNS, highlight=False
    )
    for size in document["sizes"]:
        table = Table(title=f"{size}, {document['device']['name']}", title_justify="left", box=None)
        for heading in HEADINGS:
            table.add_column(heading, overflow="fold")
        missing = []
        for row in rows(document, size):
            if len(row) == len(HEADINGS):
                table.add_row(*row)
            else:
                missing.append(": ".join(row))
        console.print(table)
        for line in missing:
            say(line)
    say(document["note"])
