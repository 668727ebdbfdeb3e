"""What a command is given: files of requests, standard input, control images.

All of it is read and checked before a model is loaded, which takes seconds to minutes; so this
module imports no torch.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError
from depthflux.settings import ENVIRONMENT_PREFIX, EngineSettings, resolve_settings

if TYPE_CHECKING:
    from depthflux.images import SourceImage

Kind = Literal["JSON", "TOML"]

STANDARD_INPUT = "-"
#: The model reads 512 tokens; a megabyte is a mistake, and /dev/zero never ends.
MAX_PROMPT_BYTES = 2**20
#: The largest control image that is accepted by default has 43 MiB as base64.
MAX_REQUEST_BYTES = 64 * 2**20
#: A request's fields nest three deep at most.
MAX_DEPTH = 16


class DocumentError(Exception):
    """What is wrong with a text that should be JSON or TOML, such as `is no valid JSON: …`."""


def read_request_file(path: Path) -> dict[str, Any]:
    """The fields in a TOML or JSON file; which fields there are is checked by the request.

    Raises:
        InvalidParameterError: the file cannot be read, or holds no table of fields.
    """
    kind: Kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_REQUEST_BYTES + 1)
        if len(data) > MAX_REQUEST_BYTES:
            raise _bad_file(path, f"has more than {MAX_REQUEST_BYTES} bytes")
        fields = parse_document(data.decode("utf-8"), kind)
    except OSError as error:
        raise _bad_file(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _bad_file(path, f"is no valid {kind}: {error}") from error
    except DocumentError as error:
        raise _bad_file(path, str(error)) from error
    if not isinstance(fields, dict):
        raise _bad_file(path, "holds no table of fields")
    return fields


def parse_document(text: str, kind: Kind) -> Any:
    """What a JSON or TOML text says.

    Raises:
        DocumentError: it is none, or nests so deep that showing or checking it would fail later.
    """
    try:
        document = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except RecursionError as error:
        raise DocumentError(f"nests more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise DocumentError(f"is no valid {kind}: {error}") from error
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
    if level:
        raise DocumentError(f"nests more than {MAX_DEPTH} deep")
    return document


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def fill_from_standard_input(
    fields: Mapping[str, Any], profile: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The same fields, with `-` as prompt or control image replaced by standard input.

    Args:
        fields: the request's.
        profile: whose settings say how large a control image may be.
        settings: given beside it.

    Raises:
        InvalidParameterError: both are `-`, or there is nothing or too much on standard input.
        SettingsError: as `early_settings`.
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
        filled["prompt"] = _prompt_of(read_standard_input("prompt", MAX_PROMPT_BYTES))
    if "control_image" in wanted:
        limit = early_settings(profile, settings).max_image_bytes
        filled["control_image"] = read_standard_input("control_image", limit)
    return filled


def read_standard_input(field: str, limit: int) -> bytes:
    """All bytes of standard input.

    Args:
        field: what they are for, named in the error.
        limit: most bytes accepted; no more than one beyond them is read.

    Raises:
        InvalidParameterError: there are none or too many, or they cannot be read.
    """
    # Python has no standard input where the shell has closed it.
    try:
        data = sys.stdin.buffer.read(limit + 1) if sys.stdin is not None else b""
    except OSError as error:
        raise _bad_standard_input(field, f"cannot be read: {error.strerror}") from error
    if not data:
        raise _bad_standard_input(field, "is empty; pipe something into it")
    if len(data) > limit:
        raise _bad_standard_input(
            field, f"has more than the {limit} bytes that are read; pipe less into it"
        )
    return data


def _prompt_of(data: bytes) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _bad_standard_input("prompt", f"is no UTF-8 text: {error}") from error


def _bad_standard_input(field: str, reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{field}=-: standard input {reason}.", field=field, value=STANDARD_INPUT
    )


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
