"""`depthflux bench hosted`: the hosted endpoint and this machine on the same cases.

Everything that can be refused is refused before a key is used, a process is started or torch is
imported. Knows nothing of how sides are asked, nor of what is measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from depthflux.bench.hosted.accounts import KEY_VARIABLE, read_key
from depthflux.bench.hosted.money import estimate, exact, usd
from depthflux.bench.hosted.plan import tasks_of
from depthflux.bench.hosted.planning import (
    DEFAULT_POLL_INTERVAL_S,
    DEFAULT_VERSION,
    HOSTED_URL,
    MAX_CONCURRENCY,
    MAX_REPEAT,
    POLL_INTERVAL_S,
    make_plan,
    needs_key,
    require_utf8,
)
from depthflux.bench.hosted.run_files import AGAINST, PAGE, REPORT
from depthflux.bench.hosted.suites import suite_names
from depthflux.cli.config import PIPE_COLUMNS
from depthflux.cli.errors import OneLineError
from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import given_settings, json_option, profile_option, setting_options
from depthflux.cli.outputs import echo_json, output_folder
from depthflux.errors import CancelledError, OutputError

if TYPE_CHECKING:
    from depthflux.bench.document import Document
    from depthflux.bench.hosted.plan import ContestPlan

EPILOG = f"""\b
A suite is a TOML file of cases, such as those in configs/suites:
  description = "One of my own pictures."
  [[case]]
  name = "living-room"
  control_image = "room.jpg"
  prompt = "a winter garden"
  seed = 1

\b
Examples:
  {KEY_VARIABLE}=... depthflux bench hosted --suite quick --out first-look
  depthflux bench hosted --suite standard --repeat 3 --price-per-picture 0.03 --max-cost 2 --out run
  depthflux bench hosted --suite standard --repeat 3 --replay run --profile fast --out fast
  depthflux bench hosted --suite my.toml --against-profile exact --profile turbo --out turbo
"""

Command = TypeVar("Command", bound=Callable[..., Any])


class SuiteOption(click.Option):
    """An option whose help names the suites that there are, once somebody asks for it."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help, as click shows them."""
        self.help = (
            f"What both sides are asked for: {', '.join(suite_names())}, or a TOML file; required "
            "but with --replay, where it is the recording's."
        )
        return super().get_help_record(ctx)


def amounts(command: Command) -> Command:
    """Add what things cost; none of it is known unless it is given."""
    for option, name, unit, help in reversed(_AMOUNTS):
        command = click.option(option, name, type=float, metavar=unit, help=help)(command)
    return command


_AMOUNTS = (
    ("--price-per-picture", "price_usd", "USD", "What a picture of the hosted side costs."),
    ("--max-cost", "max_cost_usd", "USD", "Send no task that could exceed it in all."),
    ("--electricity-per-kwh", "electricity_usd", "USD", "For what the local side's pictures cost."),
    ("--watts", "watts", "WATTS", "The local side's power, where it cannot be measured."),
)


@click.command(epilog=EPILOG)
@click.option(
    "--suite",
    cls=SuiteOption,
    metavar="NAME|FILE.toml",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help=f"A new folder for all answers, pictures, {REPORT} and {PAGE}.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that DIR holds.")
@profile_option
@click.option(
    "--against-profile",
    metavar="NAME|FILE.toml",
    help="Compare with this profile on this machine instead of the hosted endpoint.",
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take the first side's answers from an earlier run's folder; nothing is sent or paid, and "
    "defaults are that run's.",
)
@click.option("--base-url", metavar="URL", help=f"Of the hosted API.  [default: {HOSTED_URL}]")
@click.option(
    "--api-version",
    "version",
    metavar="v2|v3",
    help="Of the hosted API: v2 is documented for the endpoint, v3 is what its clients speak now.  "
    f"[default: {DEFAULT_VERSION}]",
)
@click.option(
    "--repeat",
    type=int,
    help=f"Tasks of each case, each with new seeds, 1 to {MAX_REPEAT}.  [default: 1]",
)
@click.option(
    "--concurrency",
    type=int,
    help=f"Tasks under way at a time, 1 to {MAX_CONCURRENCY}; from 2 on they wait for each other.  "
    "[default: 1]",
)
@click.option(
    "--sync-mode",
    is_flag=True,
    default=None,
    help="Await each answer in its request, without polls.",
)
@click.option(
    "--poll-interval",
    "poll_interval_s",
    type=float,
    metavar="SECONDS",
    help=f"Between two polls of a task, {POLL_INTERVAL_S[0]} to {POLL_INTERVAL_S[1]:g}.  "
    f"[default: {DEFAULT_POLL_INTERVAL_S}]",
)
@amounts
@click.option(
    "--estimator",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A Depth Anything folder that judges structure.  [default: the one beside the model]",
)
@click.option(
    "--clip",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A CLIP folder that judges agreement with the prompt.  [default: one in weights_dir]",
)
@setting_options(("device", "dtype", "compile", "threads"))
@json_option
@verbose_option
@click.pass_context
def hosted(ctx: click.Context, /, out: Path, resume: bool, as_json: bool, **asked: Any) -> None:
    """Compare the hosted endpoint with this machine.

    Both are asked for the same cases over the same HTTP interface; every answer and picture is kept
    in DIR, and times, cost, structure and closeness are compared with their intervals. Prints the
    paths of the document and of a page to look at, or with --json the document; tables go to
    standard error.

    The hosted side costs money. By the price that you give, what it will cost is said first and
    --max-cost is never exceeded; a run that was ended goes on with --resume, and nothing is paid
    twice. The API key is read from WAVESPEED_API_KEY alone. Settings win over every profile's.
    """
    require_utf8("out", out)
    plan = make_plan(**asked, settings=given_settings(ctx), environment=os.environ)
    key = read_key(os.environ) if needs_key(plan, out.expanduser(), resume=resume) else ""
    with output_folder(out) as folder:
        say(_money(plan, resume))
        with ctrl_c_told(folder):
            from depthflux.bench.hosted.contest import run_contest

            document = run_contest(plan, key=key, out=folder, resume=resume, say=say)
    print_tables(document)
    with standard_output_told(folder):
        if as_json:
            echo_json(document.model_dump(mode="json"))
            return
        click.echo(str(folder / REPORT))
        click.echo(str(folder / PAGE))


def _money(plan: ContestPlan, resume: bool) -> str:
    """What the run will cost, before anything is sent."""
    if plan.first_side == "replay":
        return "nothing is paid: the first side's answers are those of an earlier run"
    if plan.first_side == AGAINST:
        return "nothing is paid: both sides run on this machine"
    text = estimate(tasks_of(plan), plan.price_usd).sentence(urlsplit(plan.base_url).netloc)
    if plan.max_cost_usd is not None:
        text += f", of which at most {usd(exact(plan.max_cost_usd))} are spent"
    return f"{text}; what is done already is not paid again" if resume else text


@contextmanager
def ctrl_c_told(folder: Path) -> Iterator[None]:
    """Say of Ctrl-C what is true here: what was asked for and paid is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        click.echo(err=True)
        raise OneLineError(
            f"cancelled; all that was answered is kept in {folder}. Run the same command with "
            "--resume to go on.",
            CancelledError.exit_code,
        ) from error


@contextmanager
def standard_output_told(folder: Path) -> Iterator[None]:
    """Say of a standard output that takes nothing, such as a full disk, where the report is."""
    try:
        yield
    except OSError as error:
        # What is left in its buffer would fail once more when Python ends.
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OneLineError(
            f"cannot write to standard output: {error.strerror}; the report is {folder / REPORT}.",
            OutputError.exit_code,
        ) from error


def print_tables(document: Document) -> None:
    """Show a comparison on standard error."""
    from rich.console import Console
    from rich.table import Table

    from depthflux.bench.report.table import tables

    # Labels and errors are others' words: nothing in them is markup.
    console = Console(
        stderr=True,
        width=None if sys.stderr.isatty() else PIPE_COLUMNS,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for made in tables(document):
        table = Table(
            title=made.title, title_justify="left", box=None, show_header=any(made.headings)
        )
        for heading in made.headings:
            table.add_column(heading, overflow="fold")
        for row in made.rows:
            table.add_row(*row)
        with console.capture() as captured:
            console.print(table)
        # rich pads every line to the full width, which a pipe or a file has no use for.
        lines = [line.rstrip() for line in captured.get().splitlines()]
        click.echo("\n".join(["", *lines]), err=True)
        for line in made.lines:
            say(line)
