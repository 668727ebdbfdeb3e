"""`depthflux serve`: the hosted endpoint's HTTP interface on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from depthflux.cli.inputs import early_settings
from depthflux.cli.messages import say, server_verbose_option
from depthflux.cli.options import (
    given_server_settings,
    given_settings,
    profile_option,
    server_options,
    setting_options,
)
from depthflux.server.settings import ServerSettings, resolve_server_settings

EPILOG = """\b
Examples:
  depthflux serve
  depthflux serve --profile demo --port 9000 --data-dir ./data
  depthflux serve --host 0.0.0.0 --api-keys-file keys.txt

\b
Then, with the hosted service's own client:
  wavespeed.Client(api_key="any", base_url="http://127.0.0.1:8000")
"""


@click.command(epilog=EPILOG)
@server_options(ServerSettings)
@profile_option
@setting_options()
@server_verbose_option
@click.pass_context
def serve(ctx: click.Context, profile: str | None) -> None:
    """Answer like the hosted endpoint, over HTTP.

    Its clients work with only the base URL changed. Prints the address once it listens. What was
    accepted is kept in the data folder and ends completed or failed, whatever is killed. SIGTERM
    lets what runs end. Every server setting can be given as DEPTHFLUX_SERVER_<NAME>, too.
    """
    settings = resolve_server_settings(environment=os.environ, arguments=given_server_settings(ctx))
    target, engine = profile or "auto", given_settings(ctx)
    early = early_settings(target, engine)

    from depthflux.server.keys import read_keys
    from depthflux.server.serving import end_process
    from depthflux.server.serving import serve as run

    keys = read_keys(settings.api_keys_file, os.environ)
    run(
        settings,
        early,
        keys=keys,
        target=target,
        given={name: _plain(value) for name, value in engine.items()},
        on_listening=_tell(len(keys)),
    )
    end_process()


def _tell(keys: int) -> Any:
    def tell(address: str) -> None:
        who = f"{keys} API keys" if keys else "no API keys: any or none is accepted"
        say(f"listening on {address} ({who}); /readyz answers 200 once the model is loaded")
        click.echo(address)

    return tell


def _plain(value: Any) -> str | int | float | bool | None:
    """A setting as it can be told to another process."""
    plain: str | int | float | bool | None = str(value) if isinstance(value, Path) else value
    return plain
