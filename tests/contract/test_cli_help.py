"""`--help` says what the declarations say, is as recorded, and answers at once.

After a wanted change: UPDATE_HELP=1 pytest tests/contract/test_cli_help.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from depthflux.cli.generate import generate
from depthflux.cli.options import COMMON_SETTINGS
from depthflux.cli.root import COMMANDS, root
from depthflux.contract import GenerationRequest, field_range
from depthflux.settings import EngineSettings

Call = Callable[..., Result]

UPDATE = "UPDATE_HELP" in os.environ
HELP = Path(__file__).parent / "data" / "help"


def pages(command: click.Command, *words: str) -> list[tuple[str, ...]]:
    """A command's words and those of all commands in it."""
    if not isinstance(command, click.Group):
        return [words]
    ctx = click.Context(command)
    below = [(name, command.get_command(ctx, name)) for name in command.list_commands(ctx)]
    return [words, *(page for name, sub in below if sub for page in pages(sub, *words, name))]


PAGES = pages(root)

LIGHT = """
import sys
from depthflux.cli import main
for words in (["--version"], ["--help"], ["generate", "--help"], ["generate", "--prompt", ""],
              ["generate", "--prompt", "x", "--control-image", "no-such-file.png"]):
    sys.argv = ["depthflux", *words]
    try:
        main()
    except SystemExit as stop:
        heavy = {"torch", "diffusers", "transformers", "onnxruntime"} & set(sys.modules)
        print(stop.code, sorted(heavy))
    if words == ["--help"]:
        print("pydantic" in sys.modules, "rich" in sys.modules, "numpy" in sys.modules)
"""


@pytest.mark.parametrize("words", PAGES, ids=lambda words: "-".join(("depthflux", *words)))
def test_help_is_as_recorded(words: tuple[str, ...], cli: Call) -> None:
    page = HELP / ("-".join(("depthflux", *words)) + ".txt")

    shown = cli(*words, "--help").stdout

    if UPDATE:
        page.write_text(shown, encoding="utf-8")
    # Where lines are broken is click's business, and differs between its versions.
    assert shown.split() == page.read_text(encoding="utf-8").split()


@pytest.mark.parametrize("words", PAGES, ids=lambda words: "-".join(("depthflux", *words)))
def test_help_ends_with_two_or_more_examples(words: tuple[str, ...], cli: Call) -> None:
    _, examples = cli(*words, "--help").stdout.split("Examples:")

    assert examples.count("depthflux") >= 2


@pytest.mark.parametrize("name", GenerationRequest.model_fields)
def test_every_field_of_the_request_is_an_option_of_generate(name: str) -> None:
    field = GenerationRequest.model_fields[name]
    option = next(option for option in generate.params if option.name == name)

    assert isinstance(option, click.Option)
    assert f"--{name.replace('_', '-')}" in option.opts
    assert (option.help or "").startswith(field.description or "no description")
    if not field.is_required():
        assert option.default == field.get_default(call_default_factory=True)
    for limit in field_range(field):
        assert limit is None or str(limit) in (option.help or "")


@pytest.mark.parametrize("name", COMMON_SETTINGS)
def test_common_settings_are_options_with_their_declared_description(name: str) -> None:
    option = next(option for option in generate.params if option.name == name)

    assert isinstance(option, click.Option)
    assert option.help == EngineSettings.model_fields[name].description
    assert option.default is None


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_commands_say(name: str) -> None:
    command = root.get_command(click.Context(root), name)

    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name].summary


def test_help_version_and_refusals_import_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)

    judged = [line for line in run.stdout.splitlines() if line.endswith("]")]
    codes = ["0", "0", "0", "2", "2"]
    judged = [line for line in judged if line[:1].isdigit()]
    assert judged == [f"{code} []" for code in codes]
    assert "False False False" in run.stdout.splitlines()
