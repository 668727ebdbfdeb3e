"""`depthflux comfyui install`: depthflux's nodes → a ComfyUI's custom_nodes."""

from __future__ import annotations

from pathlib import Path

import click

from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import json_option
from depthflux.cli.outputs import echo_json

GROUP_EPILOG = """\b
Examples:
  depthflux comfyui install --path ~/ComfyUI
  depthflux comfyui install --path ~/ComfyUI --force --json
"""
EPILOG = """\b
Examples:
  depthflux comfyui install --path ~/ComfyUI
  depthflux comfyui install --path ~/ComfyUI --force
"""


@click.group(epilog=GROUP_EPILOG)
def comfyui() -> None:
    """Install the nodes for ComfyUI."""


@comfyui.command(epilog=EPILOG)
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    required=True,
    metavar="COMFYUI",
    help="ComfyUI's folder, or its base directory: the one that has custom_nodes in it.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace what else is called depthflux there, or lies in that folder.",
)
@json_option
@verbose_option
def install(path: Path, force: bool, as_json: bool) -> None:
    """Put the nodes into a ComfyUI, or bring them up to date.

    Writes the folder custom_nodes/depthflux, whole or not at all, and prints its path. It has no
    requirements of its own: where depthflux is not installed in ComfyUI's Python, the nodes ask a
    running `depthflux serve`.
    """
    from depthflux.comfyui.install import install as install_nodes

    folder = install_nodes(path, force=force)
    say("installed; restart ComfyUI, and look for depthflux among its nodes")
    if as_json:
        echo_json({"path": str(folder)})
    else:
        click.echo(str(folder))
