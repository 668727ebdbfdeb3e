"""What the path of a request's LoRA leads to: a file in loras_dir, or more where a setting allows.

A name is a file's path inside the folder, with or without `.safetensors`, matched exactly, on
systems too that do not tell Ink from ink. A request may come from a stranger: nothing outside the
folder is looked at before the setting that allows it was asked, and links do not lead out.

Knows nothing of torch: files are found here and read elsewhere.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

from depthflux.contract import Lora
from depthflux.errors import InvalidParameterError, first_line, show, shown_name
from depthflux.images.url import shown_url
from depthflux.settings import EngineSettings

SUFFIX = ".safetensors"
#: Names in a message; the folder may hold thousands.
MOST_SHOWN = 8
#: Names that a nearest one is looked for among.
MOST_LISTED = 2000
ALLOWED = (
    "a name in loras_dir; an absolute path with allow_lora_paths, an https address with "
    "allow_lora_urls"
)

Origin = Literal["loras_dir", "path", "url"]


@dataclass(frozen=True)
class FoundLora:
    """Where a request's LoRA comes from.

    Attributes:
        field: where it stands in the request, such as `loras[0].path`.
        name: what records call it: the name in loras_dir, or the file's own name; neither a path
            nor an address, which may tell who made a picture.
        origin: what its path in the request was.
        scale: how much of it.
        file: its file; for an address None.
        url: its address; for a file empty.
    """

    field: str
    name: str
    origin: Origin
    scale: float
    file: Path | None = None
    url: str = ""

    def refusal(self, problem: str) -> InvalidParameterError:
        """The error that this LoRA cannot be used."""
        return _refused(self.field, self.name, problem)


def find_loras(
    loras: Sequence[Lora], settings: EngineSettings, *, for_strangers: bool = False
) -> list[FoundLora]:
    """Find a request's LoRAs; addresses are judged by their setting, not fetched.

    Args:
        loras: the request's.
        settings: loras_dir, allow_lora_paths and allow_lora_urls.
        for_strangers: whether errors leave out where the folder lies.

    Returns:
        One for each, in their order.

    Raises:
        InvalidParameterError: one is not there or not allowed; the message names all of them.
    """
    shown = "loras_dir" if for_strangers else str(settings.loras_dir)
    found, errors = [], []
    for index, lora in enumerate(loras):
        try:
            found.append(_find(lora, f"loras[{index}].path", settings, shown))
        except InvalidParameterError as error:
            errors.append(error)
    raise_together(errors)
    return found


def raise_together(errors: Sequence[InvalidParameterError]) -> None:
    """Raise the errors about several LoRAs as one; without any, do nothing."""
    if errors:
        problems = tuple(problem for error in errors for problem in error.problems)
        raise InvalidParameterError(
            " ".join(problems),
            field="loras",
            value=errors[0].value,
            allowed=ALLOWED,
            problems=problems,
        )


def is_name(path: str) -> bool:
    """Whether a path can only be one inside a folder: no address, not absolute, no way up."""
    parts = path.split("/")
    plain = not re.search(r"[\\\x00-\x1f\x7f]", path) and not PureWindowsPath(path).drive
    return plain and not path.startswith("~") and not {"", ".", ".."}.intersection(parts)


def _find(lora: Lora, field: str, settings: EngineSettings, folder: str) -> FoundLora:
    scheme = re.match(r"\s*([a-z][a-z0-9+.-]*)://", lora.path, re.IGNORECASE)
    if scheme:
        shown = shown_url(lora.path)
        _judge_address(shown, scheme[1].lower(), field, settings, folder)
        name = shown.rpartition("/")[2] or "a LoRA"
        return FoundLora(field, name, "url", lora.scale, url=lora.path.strip())
    if lora.path.startswith(("/", "\\", "~")) or PureWindowsPath(lora.path).drive:
        file = _file_anywhere(lora.path, field, settings, folder)
        return FoundLora(field, file.name, "path", lora.scale, file)
    name, file = _file_in_folder(lora.path, field, settings.loras_dir, folder)
    return FoundLora(field, name, "loras_dir", lora.scale, file)


def _judge_address(
    shown: str, scheme: str, field: str, settings: EngineSettings, folder: str
) -> None:
    if not settings.allow_lora_urls:
        advice = f"download it into {folder} and give its name, or set allow_lora_urls"
        raise _refused(field, shown, f"addresses are not allowed here; {advice}")
    if scheme != "https":
        raise _refused(field, shown, f"has the scheme {scheme}; only https addresses are fetched")


def _file_anywhere(path: str, field: str, settings: EngineSettings, folder: str) -> Path:
    if not settings.allow_lora_paths:
        advice = f"put it into {folder} and give its name, or set allow_lora_paths"
        raise _refused(field, path, f"paths are not allowed here; {advice}")
    try:
        file = Path(path).expanduser()
        there = file.is_absolute() and file.exists()
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: a NUL character in the path; RuntimeError: "~nobody" has no home.
        raise _refused(field, path, f"cannot be looked up ({first_line(error)})") from error
    if not there:
        raise _refused(field, path, "there is no such file")
    return _regular(file, field, path)


def _file_in_folder(path: str, field: str, loras_dir: Path, shown: str) -> tuple[str, Path]:
    """A name with its suffix, and its file, links followed."""
    if not is_name(path):
        problem = f"is no name in {shown}; write it with / and without .. or empty parts"
        raise _refused(field, path, problem)
    name = path if path.endswith(SUFFIX) else path + SUFFIX
    folder = loras_dir.expanduser()
    if not _is_there(folder, name.split("/")):
        raise _refused(field, path, _not_there(path, folder, shown))
    try:
        file = (folder / name).resolve()
    except (OSError, RuntimeError) as error:
        raise _refused(field, path, f"cannot be looked up ({first_line(error)})") from error
    if not file.is_relative_to(folder.resolve()):
        raise _refused(field, path, f"is a link that leads out of {shown}; copy the file")
    return name, _regular(file, field, path)


def _is_there(folder: Path, parts: Sequence[str]) -> bool:
    """Whether a folder holds exactly this name, down to the case of its letters."""
    try:
        for part in parts:
            if part not in os.listdir(folder):
                return False
            folder /= part
    except OSError:
        return False
    return True


def _not_there(path: str, folder: Path, shown: str) -> str:
    if not folder.is_dir():
        return f"there is no folder {shown}; make it and put LoRAs there, or set loras_dir"
    if _is_there(folder, path.split("/")):
        return f"is no {SUFFIX} file, and no others are read"
    names = sorted(itertools.islice(_names(folder), MOST_LISTED))
    asked = path.removesuffix(SUFFIX)
    near = [name for name in names if name.rpartition("/")[2] == asked]
    near = near or difflib.get_close_matches(asked, names, n=1)
    if near:
        return f"there is no such LoRA in {shown}; did you mean {shown_name(near[0])}?"
    there = ", ".join(map(shown_name, names[:MOST_SHOWN])) or "none yet"
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"there is no such LoRA in {shown}; there are {there}{more}"


def _names(folder: Path) -> Iterator[str]:
    """The names in a folder, without their suffix."""
    for place, _, files in os.walk(folder):
        for file in files:
            if file.endswith(SUFFIX):
                name = (Path(place) / file).relative_to(folder).as_posix()
                yield name.removesuffix(SUFFIX)


def _regular(file: Path, field: str, given: str) -> Path:
    """The same file, if it is one that can be read to its end."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise _refused(field, given, f"cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        raise _refused(field, given, "is a folder")
    # Reading a pipe would wait for its writer, and a device may never end.
    if not stat.S_ISREG(mode):
        raise _refused(field, given, "is no regular file")
    return file


def _refused(field: str, given: str, problem: str) -> InvalidParameterError:
    end = "" if problem.endswith(("?", ".")) else "."
    return InvalidParameterError(
        f"{field}={show(given)}: {problem}{end}", field="loras", value=given, allowed=ALLOWED
    )
