"""The command `depthflux` itself: which commands there are, each loaded when it is called.

`--help` and `--version` must answer at once, so this module imports none of the commands: their
names and one-line descriptions stand here, and a test compares them with the commands' own.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click

import depthflux
from depthflux.cli.errors import one_line_errors
from depthflux.errors import unknown_name_problem


class Entry(NamedTuple):
    """Where a command lives, and its line in the list of commands."""

    module: str
    summary: str


#: In the order in which a newcomer needs them.
COMMANDS = {
    "demo": Entry("demo", "Run the packaged miniature on a packaged picture."),
    "generate": Entry("generate", "Make pictures from a prompt and a control image."),
    "depth": Entry("depth", "Write the depth map of a picture."),
    "serve": Entry("serve", "Answer like the hosted endpoint, over HTTP."),
    "doctor": Entry("doctor", "Say what this machine can run, and what is missing."),
    "weights": Entry("weights", "List, fetch, verify and prepare the weights."),
    "warmup": Entry("warmup", "Compile a profile's blocks and keep the result for later starts."),
    "config": Entry("config", "Show the settings of the engine."),
    "comfyui": Entry("comfyui", "Install the nodes for ComfyUI."),
    "bench": Entry("bench", "Measure depthflux on this machine."),
}

EPILOG = """\b
Examples:
  depthflux demo
  depthflux generate --prompt "a red sphere" --control-image room.jpg --size "1024*768"
  depthflux doctor

FLUX.1-dev and its Depth Control LoRA are looked for in weights/; without them the packaged
miniature (depthflux/demo) can run, which paints toy scenes only.
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The commands' names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"depthflux.cli.{COMMANDS[name].module}")
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the called command, or name the nearest one."""
        name = click.utils.make_str(args[0])
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(unknown_name_problem(name, list(COMMANDS), kind="command"))
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table: importing them would take half a second."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the group's own options, errors as one line."""
        with one_line_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, errors as one line."""
        with one_line_errors():
            return super().invoke(ctx)


@click.group("depthflux", cls=LazyGroup, epilog=EPILOG, context_settings={"max_content_width": 100})
@click.version_option(depthflux.__version__, "--version", message="depthflux %(version)s")
def root() -> None:
    """FLUX.1-dev with the FLUX.1 Depth Control LoRA on your own GPU.

    Answers like the hosted endpoint wavespeed-ai/flux-control-lora-depth. Results go to standard
    output, everything else to standard error.
    """
