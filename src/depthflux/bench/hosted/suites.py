"""Suites: the cases that both sides are asked for, from a TOML file with its pictures beside it.

A suite is whole in itself: its control images are files, never addresses, and one sum covers the
file and every picture's bytes, so that two runs can be seen to have asked for the same. A case's
fields are checked as a request's, in the request's own words, before anything is sent.

Knows nothing of sides, repetitions or money.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflux.contract import GenerationRequest
from depthflux.errors import (
    InvalidParameterError,
    RequestError,
    first_line,
    show,
    unknown_name_problem,
)
from depthflux.files import sha256_of_file
from depthflux.logs import plain
from depthflux.settings import configs_folder

#: What is sent of every case, given or not, so that no side's own default can decide.
HOSTED_FIELDS = (
    "prompt",
    "control_scale",
    "seed",
    "num_images",
    "size",
    "num_inference_steps",
    "guidance_scale",
    "enable_safety_checker",
)
#: depthflux's own, sent where they say more than its defaults; the hosted side passes them over.
OWN_FIELDS = ("preprocess_depth", "invert_depth")
ALLOWED_FIELDS = (*HOSTED_FIELDS, *OWN_FIELDS)
#: A suite's keys beside its cases.
_SUITE_KEYS = ("description", "defaults", "case")

_ONE_SIDE = "only depthflux heeds it, so the two sides would not be asked for the same"
_FETCHED = "both sides' pictures are fetched from their addresses"
#: Fields of a request that no case may have, and why.
REFUSED_FIELDS = {
    **dict.fromkeys(
        ("depth_normalization", "fit", "only_depth_map", "output_format", "loras"), _ONE_SIDE
    ),
    "enable_base64_output": _FETCHED,
    "webhook_url": _FETCHED,
    "enable_sync_mode": "it is said for a whole run, with --sync-mode",
}

#: A case's name becomes a folder's on any system, and stands in tasks' keys.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_NAME_CHARACTERS = 60
#: More is no suite: a case is a few hundred bytes.
MAX_SUITE_BYTES = 2**20
MAX_CASES = 1000
#: How many problems one message tells.
_MOST_TOLD = 5

_SCHEME = re.compile(r"\s*[a-zA-Z][a-zA-Z0-9+.-]+:")


@dataclass(frozen=True)
class Case:
    """One request of a suite.

    Attributes:
        name: small letters, digits and single hyphens.
        control_image: its file.
        control_sha256: of that file's bytes.
        fields: what is sent less the control image, as JSON values: the hosted endpoint's fields
            all, depthflux's own where they differ from its defaults.
    """

    name: str
    control_image: Path
    control_sha256: str
    fields: dict[str, Any]

    @property
    def pictures(self) -> int:
        """How many pictures are asked for."""
        return int(self.fields["num_images"])


@dataclass(frozen=True)
class Suite:
    """Cases that belong together, in their order.

    Attributes:
        name: the file's, less its ending.
        description: what it is for, in the file's words; may be empty.
        path: the file.
        sha256: of the file's bytes and of every case's picture's.
        cases: at least one, no two of one name.
    """

    name: str
    description: str
    path: Path
    sha256: str
    cases: tuple[Case, ...]


def suite_names() -> list[str]:
    """The suites in configs/suites/, sorted."""
    return sorted(path.stem for path in _suites_folder().glob("*.toml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a suite and its pictures, and check every case.

    Args:
        name_or_path: a name in configs/suites/, or the path of a TOML file.

    Raises:
        InvalidParameterError: there is no such suite, its file is none, or a case is refused; the
            message names the file, the case, and all that is wrong with it.
    """
    path = _place(name_or_path)
    data = _read_file(path)
    document = _parse(path, data)
    description, defaults = _head(path, document)
    tables = _case_tables(path, document)
    cases: list[Case] = []
    problems: list[str] = []
    for number, table in enumerate(tables, start=1):
        try:
            cases.append(_read_case(path, number, table, defaults))
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise _refused(path, problems)
    digest = hashlib.sha256(hashlib.sha256(data).digest())
    for case in cases:
        digest.update(bytes.fromhex(case.control_sha256))
    return Suite(path.stem, description, path, digest.hexdigest(), tuple(cases))


def _suites_folder() -> Path:
    return configs_folder() / "suites"


def _place(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path.expanduser()
    name, known = str(name_or_path), suite_names()
    if name not in known:
        raise InvalidParameterError(
            f"{unknown_name_problem(name, known, kind='suite')} Give a suite of your own by the "
            "path of its .toml file.",
            field="suite",
            value=name,
            allowed=f"{', '.join(known)}, or the path of a .toml file",
        )
    return _suites_folder() / f"{name}.toml"


def _read_file(path: Path) -> bytes:
    try:
        # A pipe or a device would be waited for, or never end.
        if path.exists() and not path.is_file():
            raise _bad(path, "is no regular file; give a .toml file")
        with path.open("rb") as file:
            data = file.read(MAX_SUITE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise _bad(path, f"cannot be read: {reason}; check the path") from error
    if len(data) > MAX_SUITE_BYTES:
        raise _bad(path, f"has more than {MAX_SUITE_BYTES} bytes; a suite holds no pictures")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(path, f"is no valid TOML: {first_line(error)}; correct it") from error


def _head(path: Path, document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The description and the cases' defaults."""
    unknown = [
        unknown_name_problem(key, _SUITE_KEYS, kind="key of a suite")
        for key in document
        if key not in _SUITE_KEYS
    ]
    if unknown:
        raise _refused(path, unknown)
    description, defaults = document.get("description", ""), document.get("defaults", {})
    if not isinstance(description, str):
        raise _bad(path, f"has description={show(description)}; allowed: a text")
    if not isinstance(defaults, dict):
        raise _bad(path, f"has defaults={show(defaults)}; write a table: [defaults]")
    if problems := _key_problems(defaults, ALLOWED_FIELDS):
        raise _refused(path, [f"[defaults]: {problem}" for problem in problems])
    return description, defaults


def _case_tables(path: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = document.get("case", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _bad(path, "has a case that is no table; begin each with [[case]]")
    if not tables:
        raise _bad(path, "has no cases; begin each with [[case]]")
    if len(tables) > MAX_CASES:
        raise _bad(path, f"has {len(tables)} cases; at most {MAX_CASES} are run")
    counts = Counter(table["name"] for table in tables if isinstance(table.get("name"), str))
    if twice := [name for name, count in counts.items() if count > 1]:
        raise _bad(
            path, f"has more than one case {', '.join(map(show, twice))}; give each its own name"
        )
    return tables


def _read_case(
    path: Path, number: int, table: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Case:
    name = table.get("name")
    if not isinstance(name, str) or not (
        len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name)
    ):
        given = f"name={show(name)} is not allowed" if "name" in table else "name: is required"
        raise InvalidParameterError(
            f"case {number}: {given}; allowed: a-z, 0-9 and single hyphens between them, at most "
            f"{MAX_NAME_CHARACTERS} characters, such as red-cube."
        )
    if problems := _key_problems(table, ("name", "control_image", *ALLOWED_FIELDS)):
        raise InvalidParameterError(f"case {name}: {' '.join(problems)}")
    given_fields = {key: value for key, value in table.items() if key in ALLOWED_FIELDS}
    try:
        picture = _picture(path, table.get("control_image"))
        fields = _fields({**defaults, **given_fields})
    except RequestError as error:
        raise InvalidParameterError(f"case {name}: {error}") from error
    return Case(name, picture, sha256_of_file(picture), fields)


def _key_problems(table: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    """Keys that are not among the known ones, each with the reason or the nearest known one."""
    return [
        f"{key} is refused: {REFUSED_FIELDS[key]}; leave it out."
        if key in REFUSED_FIELDS
        else unknown_name_problem(key, known)
        for key in table
        if key not in known
    ]


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent for the given fields, checked by the request's own declaration.

    Raises:
        InvalidParameterError: a field is out of range, or there is no seed.
    """
    request = GenerationRequest(**given)
    if request.seed < 0:
        raise InvalidParameterError(
            (f"seed={request.seed} is refused" if "seed" in given else "seed: is required")
            + ": a drawn seed cannot be asked for again; allowed: a whole number from 0 to "
            "9999999999."
        )
    values = request.fields()
    own = {
        name: values[name]
        for name in OWN_FIELDS
        if values[name] != GenerationRequest.model_fields[name].default
    }
    return {name: values[name] for name in HOSTED_FIELDS} | own


def _picture(path: Path, given: object) -> Path:
    """A case's control image, read once to see that it can be.

    Raises:
        InvalidParameterError: it is named by no path.
        UnreadableImageError: it is not there, or no usable picture.
    """
    if not isinstance(given, str) or not given.strip():
        problem = "is required" if given is None else f"{show(given)} is no path"
        raise InvalidParameterError(
            f"control_image: {problem}; allowed: the path of a PNG, JPEG or WebP picture, relative "
            "to the suite's file."
        )
    if _SCHEME.match(given):
        raise InvalidParameterError(
            f"control_image={show(given)} is refused: a suite must be whole in itself; save the "
            "picture beside the suite's file and name it by its path."
        )
    # Pillow and NumPy cost 0.2 s to import, which a suite that is refused earlier must not pay.
    from depthflux.images import read_image

    place = path.parent / Path(given)
    read_image(place)
    return place


def _bad(path: Path, reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"suite {plain(str(path))} {reason}.",
        field="suite",
        value=str(path),
        allowed="a TOML file of [[case]] tables",
    )


def _refused(path: Path, problems: list[str]) -> InvalidParameterError:
    told = problems[:_MOST_TOLD]
    if len(problems) > _MOST_TOLD:
        told.append(f"And {len(problems) - _MOST_TOLD} cases more are refused.")
    return InvalidParameterError(
        f"suite {plain(str(path))}: {' '.join(told)}",
        field="suite",
        value=str(path),
        allowed="a TOML file of [[case]] tables",
        problems=tuple(problems),
    )
