"""`depthflux doctor`: what this machine can run, what is missing, and the command to run next."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from depthflux.cli.diagnosis import diagnose
from depthflux.cli.options import json_option
from depthflux.cli.outputs import echo_json
from depthflux.errors import SetupError

if TYPE_CHECKING:
    from depthflux.cli.diagnosis import Diagnosis

_MARKS = {True: "ok", False: "BAD", None: "-"}

EPILOG = """\b
Examples:
  depthflux doctor
  DEPTHFLUX_WEIGHTS_DIR=/data/weights depthflux doctor
  depthflux doctor --json
"""


@click.command(epilog=EPILOG)
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine can run, and what is missing.

    Shows versions, processor, memory, GPUs, weights with their licences, and what --profile auto
    would run. Exits with 0 if at least the packaged miniature can run, else with 3.
    """
    diagnosis = diagnose(os.environ)
    if as_json:
        echo_json(diagnosis.as_dict())
    else:
        _print(diagnosis)
    if not diagnosis.demo_runs:
        ctx.exit(SetupError.exit_code)


def _print(diagnosis: Diagnosis) -> None:
    _section("versions", diagnosis.versions.items())
    _section("machine", diagnosis.machine.items())
    _section("GPUs", ((str(index), gpu) for index, gpu in enumerate(diagnosis.gpus)))
    _section(
        "weights",
        ((check.name, f"{_MARKS[check.ok]:<3} {check.detail}") for check in diagnosis.checks),
    )
    _section("licences", diagnosis.licences.items())
    click.echo(f"profile auto is {diagnosis.auto}")
    click.echo(f"\nNext: {diagnosis.next}")


def _section(title: str, rows: Iterable[tuple[str, str]]) -> None:
    lines = list(rows) or [("none", "")]
    width = max(len(name) for name, _ in lines)
    click.echo(title)
    for name, text in lines:
        click.echo(f"  {name:<{width}}  {text}".rstrip())
    click.echo()
