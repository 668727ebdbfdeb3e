"""`depthflux warmup`: compile what a profile needs, so that no request has to wait for it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import given_settings, json_option, profile_option, setting_options
from depthflux.cli.outputs import echo_json

if TYPE_CHECKING:
    from depthflux.engine.warmup import Part

EPILOG = """\b
Examples:
  depthflux warmup
  depthflux warmup --profile fast
  depthflux warmup --profile exact --size "1024*1024" --size "768*1344"
"""


@click.command(epilog=EPILOG)
@click.option(
    "--size",
    "sizes",
    metavar="WIDTH*HEIGHT",
    multiple=True,
    help="What to paint; the kernels are chosen for the first. May be repeated."
    "  [default: 864*1636, 512*512]",
)
@profile_option
@setting_options()
@json_option
@verbose_option
@click.pass_context
def warmup(ctx: click.Context, profile: str | None, sizes: tuple[str, ...], as_json: bool) -> None:
    """Compile a profile's blocks and keep the result for later starts.

    What was compiled lies in depthflux/compile in the user's cache folder (XDG_CACHE_HOME), apart
    for each version of torch and Triton, device and kind of settings; TORCHINDUCTOR_CACHE_DIR and
    TRITON_CACHE_DIR name other places. A second call shows what a start costs with it. Profiles
    that do not compile need no warming up.
    """
    import depthflux
    from depthflux.engine.compile_cache import use_compile_cache
    from depthflux.engine.warmup import SIZES, warm_up

    engine = depthflux.load(profile or "auto", **given_settings(ctx))
    compilation = engine.compilation
    if not compilation.applied:
        say(f"nothing to do: the blocks are not compiled ({compilation.reason})")
    start = time.perf_counter()
    parts = warm_up(engine, sizes=sizes or SIZES, on_part=_tell)
    seconds = time.perf_counter() - start
    folder = None
    if compilation.applied:
        folder = use_compile_cache(engine.settings.values, engine.model.placement)
        say(f"warm after {seconds:.1f} s")
    if as_json:
        echo_json(
            {
                "profile": engine.settings.profile,
                "compiled": compilation.applied,
                "reason": compilation.reason,
                "folder": str(folder) if folder else None,
                "seconds": round(seconds, 3),
                "parts": [asdict(part) | {"seconds": round(part.seconds, 3)} for part in parts],
            }
        )
    elif folder is not None:
        click.echo(str(folder))


def _tell(part: Part) -> None:
    graphs = f"{part.graphs} graphs, {part.from_cache} of them from the cache"
    say(f"{part.name}: {part.seconds:.1f} s, {graphs if part.graphs else 'no graph was missing'}")
