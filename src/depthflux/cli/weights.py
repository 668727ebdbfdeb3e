"""`depthflux weights list | pull | verify`: which weights are there, fetching, comparing.

Its fourth command, `prepare`, has a file of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthflux.cli.bytes_progress import BytesProgress, in_words
from depthflux.cli.config import PIPE_COLUMNS
from depthflux.cli.inputs import early_settings
from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import Command, given_settings, json_option, setting_options
from depthflux.cli.outputs import echo_json
from depthflux.cli.weights_prepare import prepare
from depthflux.errors import CancelledError, WeightsMissingError
from depthflux.logs import one_line
from depthflux.model.catalogue import CATALOGUE, NAMES, Entry, find_entries
from depthflux.model.pins import FolderPins, read_pins
from depthflux.model.verification import (
    FileCheck,
    check_entry,
    expected_of,
    pin_unpinned,
    require_right,
)

if TYPE_CHECKING:
    from depthflux.model.download import PulledFile

#: From this size on reading a file takes long enough to be announced.
LONG_READ_BYTES = 10**9

GROUP_EPILOG = """\b
Examples:
  depthflux weights list
  depthflux weights pull
  depthflux weights verify
  depthflux weights prepare
"""
LIST_EPILOG = """\b
Examples:
  depthflux weights list
  DEPTHFLUX_WEIGHTS_DIR=/data/weights depthflux weights list --json
"""
PULL_EPILOG = """\b
Examples:
  depthflux weights pull
  depthflux weights pull depth-large --weights-dir /data/weights
  HF_TOKEN=hf_... depthflux weights pull flux control-lora
"""
VERIFY_EPILOG = """\b
Examples:
  depthflux weights verify
  depthflux weights verify control-lora --fresh
  depthflux weights verify --pin
"""


@click.group(epilog=GROUP_EPILOG)
def weights() -> None:
    """List, fetch, verify and prepare the weights."""


weights.add_command(prepare)


def _names(command: Command) -> Command:
    """Add the names of entries, and --only, which means the same."""
    command = click.option(
        "--only", multiple=True, metavar="NAME", help="The same as NAME. May be repeated."
    )(command)
    return click.argument("names", nargs=-1, metavar="[NAME]...")(command)


@weights.command("list", epilog=LIST_EPILOG)
@setting_options(("weights_dir",))
@json_option
@verbose_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Show all weights and which are there.

    What each is, whose, how large, under which licence, and whether it can be compared: with the
    catalogue's sums, or with those that the first pull recorded.
    """
    weights_dir = _weights_dir(ctx)
    pins = read_pins(weights_dir)
    rows = [_describe(entry, weights_dir, pins.get(entry.folder)) for entry in CATALOGUE]
    if as_json:
        echo_json({"weights_dir": str(weights_dir.absolute()), "entries": rows})
    else:
        _print_table(weights_dir, rows)


@weights.command(epilog=PULL_EPILOG)
@_names
@setting_options(("weights_dir",))
@json_option
@verbose_option
@click.pass_context
def pull(ctx: click.Context, names: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> None:
    """Fetch weights from the Hugging Face Hub.

    Without NAME: flux, control-lora and depth-small. Every file is compared and recorded; what is
    there and right is not fetched again, and what was stopped goes on where it was. FLUX's
    repositories ask for an account that has accepted their licence: hf auth login, or HF_TOKEN.
    """
    from depthflux.model import download

    weights_dir, entries = _weights_dir(ctx), find_entries((*names, *only))
    for line in licence_lines(entries):
        say(line)
    try:
        with BytesProgress() as progress:
            files = download.pull(entries, weights_dir, on_bytes=progress.on_bytes)
    except KeyboardInterrupt as error:
        # Closes the line on which the terminal has shown ^C.
        click.echo(err=True)
        raise CancelledError(f"cancelled. {download.GO_ON}") from error
    if as_json:
        echo_json({"weights_dir": str(weights_dir.absolute()), "files": list(map(_pulled, files))})
        return
    for file in files:
        what = "fetched" if file.fetched else "there"
        click.echo(f"{what:<8} {file.entry.folder}/{file.path}: {in_words(file.pin.bytes)}")


@weights.command(epilog=VERIFY_EPILOG)
@_names
@click.option("--fresh", is_flag=True, help="Read every byte, whatever sums are remembered.")
@click.option("--pin", is_flag=True, help="Record the files that nothing is recorded of.")
@setting_options(("weights_dir",))
@json_option
@verbose_option
@click.pass_context
def verify(
    ctx: click.Context,
    names: tuple[str, ...],
    only: tuple[str, ...],
    fresh: bool,
    pin: bool,
    as_json: bool,
) -> None:
    """Compare the weights with what they should be.

    That is what the catalogue says, else what the first pull recorded in pins.json. One line a
    file; those copied by hand are `unpinned` until --pin records them. Exits with 3 where a file is
    wrong or missing.
    """
    weights_dir, asked = _weights_dir(ctx), (*names, *only)
    pins = read_pins(weights_dir)
    entries = find_entries(asked or NAMES)
    if not asked:
        entries = [e for e in entries if e.folder in pins or e.present(weights_dir)]
    if not entries:
        raise WeightsMissingError(
            f"there are no weights in {weights_dir.absolute()}.", fix="Run depthflux weights pull."
        )
    checks = []
    with _Sums(fresh=fresh) as sums:
        for entry in entries:
            found = list(check_entry(entry, weights_dir, pins.get(entry.folder), sums.sha256))
            found = pin_unpinned(found, weights_dir) if pin else found
            checks += found
            if not as_json:
                _print_checks(found)
    if as_json:
        echo_json(
            {"weights_dir": str(weights_dir.absolute()), "files": list(map(_checked, checks))}
        )
    unpinned = sum(check.state == "unpinned" for check in checks)
    if unpinned:
        say(f"{unpinned} not pinned; to record what is there: depthflux weights verify --pin")
    require_right(checks, weights_dir)


def licence_lines(entries: Iterable[Entry]) -> list[str]:
    """One line for each licence that forbids commercial use, naming what it is the licence of."""
    titles: dict[str, list[str]] = {}
    for entry in entries:
        if not entry.commercial:
            titles.setdefault(entry.licence, []).append(entry.repository)
    return [
        f"{', '.join(repositories)}: {licence}, no commercial use."
        for licence, repositories in titles.items()
    ]


class _Sums:
    """Files' sha256 sums, remembered between runs unless they are to be fresh."""

    def __init__(self, *, fresh: bool) -> None:
        from depthflux.files import sha256_of_file
        from depthflux.model.hashes import HashCache

        self._remembered = HashCache()
        self._compute: Callable[[Path], str] = sha256_of_file if fresh else self._remembered.sha256

    def __enter__(self) -> _Sums:
        return self

    def __exit__(self, *_error: object) -> None:
        self._remembered.store()

    def sha256(self, path: Path) -> str:
        """A file's sha256; large files are announced."""
        size = path.stat().st_size
        if size >= LONG_READ_BYTES:
            say(f"reading {path} ({in_words(size)})")
        return self._compute(path)


def _weights_dir(ctx: click.Context) -> Path:
    return early_settings("auto", given_settings(ctx)).weights_dir.expanduser()


def _describe(entry: Entry, weights_dir: Path, pins: FolderPins | None) -> dict[str, Any]:
    """One entry with what is there of it, as JSON values; None for what is not known."""
    present = entry.present(weights_dir)
    missing = entry.missing(present)
    expected = {path: expected_of(entry, path, pins) for path in present}
    size = entry.bytes if missing else sum(path.stat().st_size for path in present.values())
    return {
        "name": entry.name,
        "title": entry.title,
        "repository": entry.repository,
        "revision": (pins.revision if pins else None) or entry.revision,
        "licence": entry.licence,
        "commercial": entry.commercial,
        "gated": entry.gated,
        "default": entry.default,
        "folder": str((weights_dir / entry.folder).absolute()),
        "bytes": size,
        "about": entry.about,
        "there": "no" if not present else "partly" if missing else "yes",
        "pinned": [path for path in present if expected[path].sha256 is not None],
        "unpinned": [path for path in present if expected[path].sha256 is None],
        "missing": missing,
    }


def _print_table(weights_dir: Path, rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, markup=False)
    table = Table(title=f"in {weights_dir.absolute()}", title_justify="left", box=None)
    for heading in ("name", "what, and whose", "size", "licence", "gated", "there", "pinned"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        size = row["bytes"]
        pinned = "yes" if not row["unpinned"] else "partly" if row["pinned"] else "no"
        table.add_row(
            row["name"],
            f"{row['title']}\n{row['repository']}",
            row["about"] if size is None else in_words(size),
            row["licence"] + ("" if row["commercial"] else "\nno commercial use"),
            "yes" if row["gated"] else "no",
            {"no": "not there", "partly": "partly", "yes": Path(row["folder"]).name}[row["there"]],
            "" if row["there"] == "no" else pinned,
        )
    with console.capture() as captured:
        console.print(table)
    # rich pads every line to the full width, which a pipe or a file has no use for.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _print_checks(checks: Iterable[FileCheck]) -> None:
    for check in checks:
        size = "" if check.bytes is None else f"{in_words(check.bytes)}, "
        click.echo(f"{check.state:<8} " + one_line(f"{check.name}: {size}{check.detail}"))


def _pulled(file: PulledFile) -> dict[str, Any]:
    return {
        "name": file.entry.name,
        "path": f"{file.entry.folder}/{file.path}",
        "bytes": file.pin.bytes,
        "sha256": file.pin.sha256,
        "fetched": file.fetched,
    }


def _checked(check: FileCheck) -> dict[str, Any]:
    return {
        "name": check.entry.name,
        "path": check.name,
        "state": check.state,
        "detail": check.detail,
        "bytes": check.bytes,
        "sha256": check.sha256,
    }
