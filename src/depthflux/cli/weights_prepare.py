"""`depthflux weights prepare`: the fused transformer saved, so that the next start is shorter."""

from __future__ import annotations

import time

import click

from depthflux.cli.bytes_progress import in_words
from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import (
    given_fields,
    given_settings,
    json_option,
    profile_option,
    request_options,
    setting_options,
)
from depthflux.cli.outputs import echo_json
from depthflux.contract import GenerationRequest

EPILOG = """\b
Examples:
  depthflux weights prepare
  depthflux weights prepare --profile exact --control-scale 0.85
"""


@click.command(epilog=EPILOG)
@request_options(("control_scale",))
@profile_option
@setting_options(("model", "weights_dir", "comfyui_dir", "control_lora", "device", "dtype"))
@json_option
@verbose_option
@click.pass_context
def prepare(ctx: click.Context, profile: str | None, as_json: bool) -> None:
    """Fuse the transformer once and save it.

    The next start with the same weights, profile, kind of device and library versions loads it
    instead of fusing; FLUX takes 24 GB under prepared/ in weights_dir. What was prepared for
    anything else is passed over, and may be deleted. Other control scales stay exact.
    """
    # The prompt is required of a request, and nothing here reads it.
    scale = GenerationRequest(prompt="prepare", **given_fields(ctx)).control_scale
    from depthflux.engine.preparation import prepare as prepare_weights

    start = time.perf_counter()
    prepared = prepare_weights(profile or "auto", control_scale=scale, **given_settings(ctx))
    size = sum(path.stat().st_size for path in prepared.files)
    say(f"{in_words(size)} in {time.perf_counter() - start:.1f} s, control_scale {scale:g}")
    if as_json:
        files = [str(path) for path in prepared.files]
        echo_json({"folder": str(prepared.folder), "control_scale": scale, "files": files})
    else:
        click.echo(str(prepared.folder))
