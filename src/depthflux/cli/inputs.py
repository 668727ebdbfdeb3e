"""What a command is given: files of requests, standard input, control images.

All of it is read and checked before a model is loaded, which takes seconds to minutes; so this
module imports no torch.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError
from depthflux.settings import ENVIRONMENT_PREFIX, EngineSettings, resolve_settings

if TYPE_CHECKING:
    from depthflux.images import SourceImage

STANDARD_INPUT = "-"


def read_request_file(path: Path) -> dict[str, Any]:
    """The fields in a TOML or JSON file; which fields there are is checked by the request.

    Raises:
        InvalidParameterError: the file cannot be read, or holds no table of fields.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise _bad_file(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, no JSON or no TOML
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise _bad_file(path, f"is no valid {kind}: {error}") from error
    if not isinstance(fields, dict):
        raise _bad_file(path, "holds no table of fields")
    return fields


def fill_from_standard_input(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, with `-` as prompt or control image replaced by standard input.

    Raises:
        InvalidParameterError: both are `-`.
    """
    wanted = [name for name in ("prompt", "control_image") if fields.get(name) == STANDARD_INPUT]
    if len(wanted) == 2:
        raise InvalidParameterError(
            "prompt and control_image are both -, and there is one standard input; "
            "give one of them otherwise.",
            field="control_image",
            value=STANDARD_INPUT,
        )
    filled = dict(fields)
    if "prompt" in wanted:
        filled["prompt"] = _prompt_of(read_standard_input("prompt"))
    if "control_image" in wanted:
        filled["control_image"] = read_standard_input("control_image")
    return filled


def read_standard_input(field: str) -> bytes:
    """All bytes of standard input.

    Args:
        field: what they are for, named in the error.

    Raises:
        InvalidParameterError: there are none.
    """
    data = sys.stdin.buffer.read()
    if not data:
        raise InvalidParameterError(
            f"{field}=-: standard input is empty; pipe something into it.",
            field=field,
            value=STANDARD_INPUT,
        )
    return data


def _prompt_of(data: bytes) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidParameterError(
            f"prompt=-: standard input is no UTF-8 text: {error}.",
            field="prompt",
            value=STANDARD_INPUT,
        ) from error


def early_settings(profile: str, arguments: Mapping[str, Any]) -> EngineSettings:
    """The settings as far as they are known before `auto` is decided, which needs torch.

    What `auto` decides is the model and what it runs in, not how images are read.

    Raises:
        SettingsError: an unknown profile or setting, or a value out of range.
    """
    if profile == "auto":
        profile = os.environ.get(f"{ENVIRONMENT_PREFIX}PROFILE", "auto")
    named = None if profile == "auto" else profile
    return resolve_settings(named, environment=os.environ, arguments=arguments).values


def read_source(image: object, settings: EngineSettings) -> SourceImage:
    """Read a control image as the engine would.

    Raises:
        UnreadableImageError: it is no usable picture.
        ImageFetchError: its URL is refused or gives none.
    """
    from depthflux.images import ReadLimits, read_image

    return read_image(image, limits=ReadLimits.from_settings(settings))


def with_source(request: GenerationRequest, settings: EngineSettings) -> GenerationRequest:
    """The same request with its control image read.

    Raises:
        UnreadableImageError: it is no usable picture.
        ImageFetchError: its URL is refused or gives none.
    """
    source = read_source(request.control_image, settings)
    return request.model_copy(update={"control_image": source})


def _bad_file(path: Path, reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"request: {path} {reason}; give a .toml or .json file of the request's fields.",
        field="request",
        value=str(path),
        allowed="a TOML or JSON file of the request's fields",
    )
