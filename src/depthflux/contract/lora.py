"""A request's further LoRAs: what one entry of the list holds.

Knows nothing of files: what a path leads to is found out by depthflux.model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from depthflux.contract.fields import RealNumber, describe_field, findings
from depthflux.errors import InvalidParameterError, show

MAX_LORAS = 5
#: No path and no address is longer.
MAX_PATH_CHARACTERS = 4096


class Lora(BaseModel):
    """A LoRA beside the control LoRA, and how much of it.

    Raises:
        InvalidParameterError: a field is unknown, missing or out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str = Field(
        max_length=MAX_PATH_CHARACTERS,
        description=(
            "A name in loras_dir, with or without .safetensors; a path or an https address where "
            "the settings allow it."
        ),
        json_schema_extra={"allowed": f"a text of 1 to {MAX_PATH_CHARACTERS} characters"},
    )
    scale: RealNumber = Field(
        1.0, ge=-4, le=4, allow_inf_nan=False, description="How much of it; 0 is none."
    )

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            found = findings(error, type(self), fields)
            problems = tuple(finding.problem for finding in found)
            raise InvalidParameterError(
                " ".join(problems),
                field=found[0].name,
                value=fields.get(found[0].name),
                allowed=found[0].allowed,
                problems=problems,
            ) from None

    @field_validator("path")
    @classmethod
    def _path_is_not_empty(cls, path: str) -> str:
        if not path.strip():
            raise ValueError
        return path


LORA_ALLOWED = f'{{"path": a name, "scale": {describe_field(Lora.model_fields["scale"])}}}'
LORAS_ALLOWED = f"at most {MAX_LORAS} of {LORA_ALLOWED}"


def read_entries(entries: Any) -> Any:
    """A request's list with its tables made LoRAs; what is no list stays, to be refused as such.

    Raises:
        ValueError: entries are wrong, or too many; the message names all of them.
    """
    if not isinstance(entries, list):
        return entries
    if len(entries) > MAX_LORAS:
        raise ValueError(f"loras has {len(entries)} entries; allowed: {LORAS_ALLOWED}.")
    loras, problems = [], []
    for index, entry in enumerate(entries):
        try:
            loras.append(_read_entry(entry))
        except InvalidParameterError as error:
            # A problem begins with its field, but for an entry that is none at all.
            dot = "." if isinstance(entry, Mapping) else ""
            problems += [f"loras[{index}]{dot}{problem}" for problem in error.problems]
    if problems:
        raise ValueError(" ".join(problems))
    return loras


def _read_entry(entry: object) -> Lora:
    if isinstance(entry, Lora):
        return entry
    if not isinstance(entry, Mapping):
        raise InvalidParameterError(f"={show(entry)} is not allowed; allowed: {LORA_ALLOWED}.")
    return Lora(**{str(name): value for name, value in entry.items()})
