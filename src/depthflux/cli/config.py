"""`depthflux config show`: each effective setting, where it came from, and what will run here."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from depthflux.cli.memory import describe_memory, in_words
from depthflux.cli.messages import verbose_option
from depthflux.cli.options import given_settings, json_option, profile_option, setting_options
from depthflux.cli.outputs import echo_json
from depthflux.errors import DeviceError, WeightsMissingError
from depthflux.settings import EngineSettings, ResolvedSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.text import Text

    from depthflux.engine.switches import Switch

#: Columns where standard output is no terminal, so that a pipe gets whole descriptions.
PIPE_COLUMNS = 160

EPILOG = """\b
Examples:
  depthflux config show
  depthflux config show --profile exact --set compile=false
  depthflux config show --profile turbo
  DEPTHFLUX_DEVICE=cpu depthflux config show --json
"""
GROUP_EPILOG = """\b
Examples:
  depthflux config show
  depthflux config show --profile reference --json
"""


class Here(NamedTuple):
    """What an open setting becomes on this machine, and why."""

    value: str
    reason: str


MISSING = Here("missing", "see: depthflux doctor")


@click.group(epilog=GROUP_EPILOG)
def config() -> None:
    """Show the settings of the engine."""


@config.command(epilog=EPILOG)
@profile_option
@setting_options()
@json_option
@verbose_option
@click.pass_context
def show(ctx: click.Context, profile: str | None, as_json: bool) -> None:
    """Show each setting, where its value came from, and what will run on this machine.

    Stronger sources win: default, profile, environment (DEPTHFLUX_NAME), argument. Any of them can
    be set with --set name=value. The second table has the switches of speed and memory, which of
    them are on here, and why.
    """
    from depthflux.engine.selection import select_settings

    resolved = select_settings(
        profile or "auto", environment=os.environ, arguments=given_settings(ctx)
    )
    here, switches = settings_here(resolved.values), _switches(resolved.values)
    memory = describe_memory(resolved.values)
    if as_json:
        echo_json(_document(resolved, here, switches) | {"memory": memory})
        return
    _print_settings(resolved, here)
    click.echo()
    _print_switches(switches)
    if memory is not None:
        click.echo(f"\n{in_words(memory)}")


def settings_here(settings: EngineSettings) -> dict[str, Here]:
    """What the settings that leave something open become on this machine."""
    open_settings: dict[str, Callable[[EngineSettings], Here | None]] = {
        "model": _model,
        "control_lora": _control_lora,
        "depth_estimator": _depth_estimator,
        "device": _device,
        "compile": _compile,
        "threads": _threads,
        "safety_threshold": _safety_threshold,
    }
    found = {name: find(settings) for name, find in open_settings.items()}
    return {name: here for name, here in found.items() if here is not None}


def _model(settings: EngineSettings) -> Here:
    from depthflux.model.weights import find_model

    try:
        transformer = find_model(settings).components["transformer"]
    except WeightsMissingError:
        return MISSING
    place = transformer.place if transformer.is_single else transformer.place.parent
    return Here(str(place), f"found: {transformer.rule_in_words}")


def _control_lora(settings: EngineSettings) -> Here | None:
    return _accessory("control_lora", settings)


def _depth_estimator(settings: EngineSettings) -> Here | None:
    return _accessory("depth_estimator", settings)


def _accessory(name: str, settings: EngineSettings) -> Here | None:
    """Where a part lies that a setting may name; None where one does."""
    from depthflux.model.weights import search_model

    if getattr(settings, name) is not None:
        return None
    try:
        found = search_model(settings)[name].found
    except WeightsMissingError:
        return MISSING
    return Here(str(found.place), f"found: {found.rule_in_words}") if found else MISSING


def _device(settings: EngineSettings) -> Here:
    from depthflux.model.placement import device_name, place

    try:
        placement = place(settings)
    except DeviceError as error:
        return Here("missing", str(error))
    return Here(f"{placement.device}, {device_name(placement.device)}", placement.reason)


def _compile(settings: EngineSettings) -> Here | None:
    if settings.compile != "auto":
        return None
    on_cuda = _device(settings).value.startswith("cuda")
    return Here(str(on_cuda).lower(), "auto: on CUDA" if on_cuda else "auto: not on the CPU")


def _switches(settings: EngineSettings) -> list[Switch]:
    """What will run; nothing where the device cannot be had, which its own row says."""
    from depthflux.engine.switches import switches_of
    from depthflux.model.placement import place

    try:
        return switches_of(settings, place(settings))
    except DeviceError:
        return []


def _threads(settings: EngineSettings) -> Here | None:
    import torch

    if settings.threads is not None:
        return None
    return Here(str(torch.get_num_threads()), "torch's own choice")


def _safety_threshold(settings: EngineSettings) -> Here | None:
    from depthflux.safety import DEFAULT_THRESHOLD

    if settings.safety_threshold is not None:
        return None
    return Here(str(DEFAULT_THRESHOLD), "the checker's own")


def _document(
    resolved: ResolvedSettings, here: dict[str, Here], switches: list[Switch]
) -> dict[str, Any]:
    values = resolved.values.model_dump(mode="json")
    return {
        "profile": resolved.profile,
        "settings": {
            name: {
                "value": values[name],
                "source": resolved.sources[name],
                "here": here[name]._asdict() if name in here else None,
                "description": field.description,
            }
            for name, field in EngineSettings.model_fields.items()
        },
        "switches": {
            switch.name: {"applied": switch.applied, "reason": switch.reason} for switch in switches
        },
    }


def _print_settings(resolved: ResolvedSettings, here: dict[str, Here]) -> None:
    from rich.text import Text

    values = resolved.values.model_dump(mode="json")
    rows: list[tuple[str | Text, ...]] = []
    for name, field in EngineSettings.model_fields.items():
        told = Text(field.description or "", style="dim")
        if name in here:
            told = Text(f"{here[name].value} ({here[name].reason})\n").append_text(told)
        rows.append((name, _spell(values[name]), resolved.sources[name], told))
    headings = ("setting", "value", "from", "here, and what it is")
    _print_table(f"profile {resolved.profile}", headings, rows)


def _print_switches(switches: list[Switch]) -> None:
    rows = [(s.name, "on" if s.applied else "off", s.reason) for s in switches]
    _print_table(
        "what will run", ("switch", "", "why"), rows or [("nothing", "", "no such device")]
    )


def _print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    table = Table(title=title, title_justify="left", box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    with console.capture() as captured:
        console.print(table)
    # rich pads every line to the full width, which a pipe or a file has no use for.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _spell(value: Any) -> str:
    """A value as it would be written after --set; nothing where it is left open."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
