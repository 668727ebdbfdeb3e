"""Options derived from where their values are declared: the request and the engine's settings.

A field's name, type, default, range and description are stated once, in depthflux.contract or
depthflux.settings; nothing of them is repeated here. Derived options stay out of the commands'
signatures: what a person gave is asked for with `given_fields` and `given_settings`, so that a
default can be told from the same value typed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.core import ParameterSource

from depthflux.cli.inputs import DocumentError, parse_document
from depthflux.contract import GenerationRequest, describe_allowed
from depthflux.errors import SettingsError, show
from depthflux.settings import EngineSettings, profile_names

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

Command = TypeVar("Command", bound=Callable[..., Any])

#: Settings with an option of their own; the others are reached with --set.
COMMON_SETTINGS = ("device", "dtype", "compile", "threads", "model", "weights_dir")

_FIELDS = "depthflux.cli.options.fields"
_SETTINGS = "depthflux.cli.options.settings"
_SERVER = "depthflux.cli.options.server"
#: What the allowed values of these add to their description and type is nothing.
_EVIDENT = frozenset({"prompt", "control_image", "webhook_url"})
#: Defaults that are too long for the help.
_DEFAULTS_IN_WORDS = {"control_image": "the hosted endpoint's example"}


def read_json(text: object) -> Any:
    """An option's value written as JSON, such as `[]`; other values are defaults, and stay."""
    if not isinstance(text, str):
        return text
    try:
        return parse_document(text, "JSON")
    except DocumentError as error:
        raise click.BadParameter(f"{show(text)} {error}") from error


def request_options(
    names: Iterable[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    shown: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Callable[[Command], Command]:
    """Add an option for each of the request's fields.

    Args:
        names: which fields; None for all.
        defaults: defaults of this command instead of the declared ones. They are only shown: the
            command itself puts them under what `given_fields` returns.
        shown: words that the help shows as a default instead of its value.
        aliases: a second spelling of an option, such as `--steps`.
    """
    defaults, aliases = defaults or {}, aliases or {}
    words = {**_DEFAULTS_IN_WORDS, **(shown or {})}

    def decorate(command: Command) -> Command:
        for name in reversed(list(names or GenerationRequest.model_fields)):
            field = GenerationRequest.model_fields[name]
            default = defaults.get(name, _default(field))
            command = _derive(
                name,
                field,
                home=_FIELDS,
                help=_request_help(name, field, words.get(name, _in_words(default))),
                default=default,
                alias=aliases.get(name),
            )(command)
        return command

    return decorate


def given_fields(ctx: click.Context) -> dict[str, Any]:
    """The request's fields that were given on the command line."""
    return dict(ctx.meta.get(_FIELDS, {}))


def setting_options(names: Iterable[str] = COMMON_SETTINGS) -> Callable[[Command], Command]:
    """Add --set name=value and an option for each of some settings, by default the common ones."""

    def decorate(command: Command) -> Command:
        command = click.option(
            "--set",
            "assignments",
            metavar="NAME=VALUE",
            multiple=True,
            expose_value=False,
            callback=_keep_assignments,
            help="Any other setting; see: depthflux config show. May be repeated.",
        )(command)
        for name in reversed(list(names)):
            field = EngineSettings.model_fields[name]
            command = _derive(
                name,
                field,
                home=_SETTINGS,
                help=field.description or "",
                default=None,
            )(command)
        return command

    return decorate


def server_options(model: type[BaseModel]) -> Callable[[Command], Command]:
    """Add an option for each of the server's settings; `given_server_settings` has their values.

    Args:
        model: the declaring class, which only the command that serves imports.
    """

    def decorate(command: Command) -> Command:
        for name in reversed(model.model_fields):
            field = model.model_fields[name]
            extra = field.json_schema_extra
            allowed = f" Allowed: {extra['allowed']}." if isinstance(extra, dict) else ""
            # A default of many machines' own is told in words by its description.
            default = "" if field.default_factory is not None else _in_words(_default(field))
            command = _derive(
                name,
                field,
                home=_SERVER,
                help=f"{field.description}{allowed}"
                + (f"  [default: {default}]" if default else ""),
                default=None,
            )(command)
        return command

    return decorate


def given_server_settings(ctx: click.Context) -> dict[str, Any]:
    """The server's settings that were given on the command line."""
    return dict(ctx.meta.get(_SERVER, {}))


def profile_option(command: Command) -> Command:
    """Add --profile, whose value the command takes as `profile`; None where it was not given."""
    names = ", ".join(["auto", *profile_names()])
    return click.option(
        "--profile",
        metavar="NAME|FILE.toml",
        help=f"A preset of settings: {names}, or a TOML file; the settings below win over it. auto "
        "takes FLUX where its weights are; without them and without CUDA, the packaged miniature."
        "  [default: auto]",
    )(command)


def given_settings(ctx: click.Context) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return dict(ctx.meta.get(_SETTINGS, {}))


def json_option(command: Command) -> Command:
    """Add --json, which the command takes as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Write one JSON document to standard output."
    )(command)


def _derive(
    name: str,
    field: FieldInfo,
    *,
    home: str,
    help: str,
    default: Any,
    alias: str | None = None,
) -> Callable[[Command], Command]:
    option, kind = "--" + name.replace("_", "-"), _click_type(field.annotation)
    spelling = f"{option}/--no-{option[2:]}" if kind is click.BOOL else option
    return click.option(
        *filter(None, (spelling, alias, name)),
        type=kind,
        metavar="JSON" if kind is read_json else None,
        default=default,
        help=help,
        expose_value=False,
        callback=_keeper(home),
    )


def _keeper(home: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that remembers a value where it was given on the command line."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        name = str(parameter.name)
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            _keep_once(ctx.meta.setdefault(home, {}), name, value)
        return value

    return keep


def _keep_assignments(
    ctx: click.Context, _parameter: click.Parameter, assignments: tuple[str, ...]
) -> None:
    settings = ctx.meta.setdefault(_SETTINGS, {})
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SettingsError(
                f"--set {show(assignment)} is not of the form name=value.",
                fix="See: depthflux config show.",
            )
        # Text, as from the environment: what it means is for the setting's type to say.
        _keep_once(settings, name, None if text.strip() == "null" else text.strip())


def _keep_once(home: dict[str, Any], name: str, value: Any) -> None:
    """Remember a value; an option and --set may name the same setting, and neither should win."""
    if name in home:
        raise SettingsError(f"{name} is set twice on the command line; leave one out.")
    home[name] = value


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _request_help(name: str, field: FieldInfo, default: str) -> str:
    """A field's description, what is allowed, and its default."""
    text = field.description or ""
    is_evident = name in _EVIDENT or field.annotation is bool
    if not is_evident and get_origin(field.annotation) is not Literal:
        text += f" Allowed: {describe_allowed(name)}."
    return f"{text}  [default: {default}]" if default else text


def _in_words(default: Any) -> str:
    """A default as the help shows it; nothing where there is none worth showing."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return "" if default in (None, []) else str(default)


def _click_type(annotation: Any) -> Any:
    """The click type of a field; ranges are left to the declaration, which says them better."""
    if get_origin(annotation) in (Union, UnionType):
        # Such as `int | None`; None is what an option is that was not given.
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    if get_origin(annotation) is list:
        return read_json
    types: dict[Any, Any] = {
        bool: click.BOOL,
        int: click.INT,
        float: click.FLOAT,
        Path: click.Path(path_type=Path),
    }
    return types.get(annotation, click.STRING)
