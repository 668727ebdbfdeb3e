"""The request: every field's name, default, range and description, declared once.

The options of the command line, the JSON schema and the table in the README are derived from
`GenerationRequest`, so a default or a range is changed in this file and nowhere else.

Knows nothing of models or of pictures' pixels.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from depthflux.contract.fields import RealNumber, WholeNumber, describe_field, findings
from depthflux.contract.lora import LORAS_ALLOWED, MAX_LORAS, Lora, read_entries
from depthflux.errors import InvalidParameterError, MissingParameterError, show

DEFAULT_CONTROL_IMAGE = (
    "https://d2g64w682n9w0w.cloudfront.net/media/images/1745416716025416255_1oAHDzwr.jpg"
)
#: Documented by the endpoint although 1636 is beyond its own range; accepted as it stands.
DEFAULT_SIZE = "864*1636"
MIN_SIDE, MAX_SIDE = 512, 1536
RANDOM_SEED = -1
MAX_SEED = 9_999_999_999
#: Seeds wrap round here: picture i of a request has the seed (seed + i) mod 10^10.
SEED_COUNT = MAX_SEED + 1

DepthNormalization = Literal["minmax", "bfl_raw", "percentile"]
Fit = Literal["stretch", "cover", "contain"]
OutputFormat = Literal["png", "jpeg", "webp"]


class Size(NamedTuple):
    """A picture's size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}*{self.height}"


class GenerationRequest(BaseModel):
    """What is asked for: the hosted endpoint's parameters, then depthflux's own additions.

    The additions are optional and leave the hosted behaviour as it is. Unknown fields are
    refused; `from_http` drops them first, as the hosted endpoint does.

    Raises:
        MissingParameterError: there is no prompt, or an empty one.
        InvalidParameterError: a field is unknown or out of range; the message names all of them.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )

    prompt: str = Field(
        description="What the picture shows, in words.",
        json_schema_extra={"allowed": "a text that is not empty"},
    )
    control_image: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        DEFAULT_CONTROL_IMAGE,
        repr=False,
        description=(
            "The picture whose depth guides the result: a path, URL, data URI or base64; "
            "in Python also bytes, a PIL image or a numpy array."
        ),
        json_schema_extra={"allowed": "a path, URL, data URI, base64, bytes, PIL image or array"},
    )
    control_scale: RealNumber = Field(
        1.0,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="How strongly the depth guides the result: the scale of the control LoRA.",
    )
    seed: WholeNumber = Field(
        RANDOM_SEED,
        ge=RANDOM_SEED,
        le=MAX_SEED,
        description="The same seed and request give the same picture; -1 draws one at random.",
    )
    num_images: WholeNumber = Field(
        1, ge=1, le=4, description="How many pictures; picture i is made with seed + i."
    )
    size: str = Field(
        DEFAULT_SIZE,
        description="The picture's size in pixels, width*height; it comes out exactly so.",
        json_schema_extra={
            "pattern": r"^\d+\*\d+$",
            "allowed": f"width*height, each {MIN_SIDE} to {MAX_SIDE}, or {DEFAULT_SIZE}",
        },
    )
    num_inference_steps: WholeNumber = Field(
        28, ge=1, le=50, description="How many denoising steps; more cost more time."
    )
    guidance_scale: RealNumber = Field(
        3.5,
        ge=1,
        le=30,
        allow_inf_nan=False,
        description="How closely the picture keeps to the prompt (distilled guidance).",
    )
    enable_safety_checker: bool = Field(
        True, description="Withhold pictures that the safety checker flags."
    )

    preprocess_depth: bool = Field(
        True, description="Estimate the depth; false: control_image already is a depth map."
    )
    invert_depth: bool = Field(
        False, description="The supplied depth map is dark where near; turn it round."
    )
    depth_normalization: DepthNormalization = Field(
        "minmax", description="How relative depth becomes grey values."
    )
    fit: Fit = Field("stretch", description="How a control image of another shape is fitted.")
    only_depth_map: bool = Field(
        False, description="Answer with the depth map alone; nothing is painted."
    )
    output_format: OutputFormat = Field("png", description="The pictures' file format.")
    enable_base64_output: bool = Field(
        False, description="Answer with bare base64 instead of addresses."
    )
    enable_sync_mode: bool = Field(
        False, description="Over HTTP: answer once the pictures are done."
    )
    webhook_url: str | None = Field(
        None, description="Over HTTP: an address that is told when the pictures are done."
    )
    loras: Annotated[list[Lora], BeforeValidator(read_entries)] = Field(
        default_factory=list,
        max_length=MAX_LORAS,
        description=(
            "Further LoRAs beside the control LoRA, in any order: names in loras_dir; paths and "
            "https addresses where the settings allow them."
        ),
        json_schema_extra={"allowed": LORAS_ALLOWED},
    )

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _translate(error, fields) from None

    @classmethod
    def from_http(cls, fields: Mapping[str, Any]) -> Self:
        """A request from a JSON body; fields it does not know are ignored, as hosted.

        Raises:
            InvalidParameterError: as for the class.
        """
        known = _known(fields, cls)
        if isinstance(known.get("loras"), list):
            known["loras"] = [
                _known(entry, Lora) if isinstance(entry, Mapping) else entry
                for entry in known["loras"]
            ]
        return cls(**known)

    @field_validator("prompt")
    @classmethod
    def _prompt_is_not_empty(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            message = (
                f"prompt={show(prompt)} holds half a surrogate pair, which is no text; "
                "allowed: any Unicode text that is not empty."
            )
            raise ValueError(message) from error
        return prompt

    @field_validator("control_image")
    @classmethod
    def _control_image_is_given(cls, image: object) -> object:
        if image is None or (isinstance(image, str | bytes) and not image):
            raise ValueError
        return image

    @field_validator("size")
    @classmethod
    def _size_is_in_range(cls, size: str) -> str:
        try:
            parse_size(size)
        except InvalidParameterError as error:
            # pydantic goes on to the other fields after a ValueError only.
            raise ValueError(error) from error
        return size

    @field_validator("invert_depth")
    @classmethod
    def _only_a_supplied_map_is_inverted(cls, invert: bool, info: ValidationInfo) -> bool:
        if invert and info.data.get("preprocess_depth", True):
            message = (
                "invert_depth=True turns a supplied depth map round, but the depth is estimated "
                "here; allowed: true only together with preprocess_depth=false."
            )
            raise ValueError(message)
        return invert

    @property
    def dimensions(self) -> Size:
        """The picture's size in pixels."""
        return parse_size(self.size)

    @property
    def picture_count(self) -> int:
        """How many pictures are answered with; a depth map alone is one, whatever num_images is."""
        return 1 if self.only_depth_map else self.num_images

    def with_seed_drawn(self) -> Self:
        """The same request with its seed fixed: -1 becomes a random one in 0..9999999999."""
        if self.seed != RANDOM_SEED:
            return self
        return self.model_copy(update={"seed": random.SystemRandom().randrange(SEED_COUNT)})

    def picture_seeds(self) -> list[int]:
        """The seed of each picture: (seed + i) mod 10^10. The seed must have been drawn."""
        return [(self.seed + index) % SEED_COUNT for index in range(self.picture_count)]

    def fields(self) -> dict[str, Any]:
        """Every field but the control image, as JSON values."""
        return self.model_dump(mode="json", exclude={"control_image"})


def parse_size(size: str) -> Size:
    """Read `width*height`.

    Raises:
        InvalidParameterError: it has another form, or a side outside 512 to 1536 pixels
            (the documented default 864*1636 is taken as it is).
    """
    match = re.fullmatch(r"(\d{1,6})\*(\d{1,6})", size, flags=re.ASCII)
    if match is None:
        other = re.fullmatch(r"\s*(\d{1,6})\s*[xX×*,]\s*(\d{1,6})\s*", size)
        hint = f"; write {int(other[1])}*{int(other[2])}" if other else ""
        raise _size_error(size, f"is not of the form width*height{hint}")
    width, height = int(match[1]), int(match[2])
    if size == DEFAULT_SIZE:
        return Size(width, height)
    for name, side in (("width", width), ("height", height)):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise _size_error(size, f"has {name} {side}")
    return Size(width, height)


def _size_error(size: str, reason: str) -> InvalidParameterError:
    allowed = describe_allowed("size")
    return InvalidParameterError(
        f"size={show(size)} {reason}; allowed: {allowed}.",
        field="size",
        value=size,
        allowed=allowed,
    )


def _known(fields: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in model.model_fields}


# What is allowed, in words ---------------------------------------------------------------------


def describe_allowed(name: str) -> str:
    """What a field of the request takes, in words, derived from its declaration."""
    return describe_field(GenerationRequest.model_fields[name])


def parameter_table() -> str:
    """The request's fields as the Markdown table that the README shows."""
    lines = ["| field | default | allowed | what it does |", "|---|---|---|---|"]
    for name, field in GenerationRequest.model_fields.items():
        if field.is_required():
            default = "required"
        elif name == "control_image":
            default = "the hosted endpoint's example"
        else:
            default = f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        allowed = describe_allowed(name).replace("*", r"\*").replace("|", r"\|")
        lines.append(f"| `{name}` | {default} | {allowed} | {field.description} |")
    return "\n".join(lines) + "\n"


def _translate(error: ValidationError, fields: Mapping[str, Any]) -> InvalidParameterError:
    """All of pydantic's findings as one error of ours, the first one's field in front."""
    found = findings(error, GenerationRequest, fields)
    problems = tuple(finding.problem for finding in found)
    prompt = str(fields.get("prompt") or "").strip()
    missing = not prompt and all(finding.name == "prompt" for finding in found)
    kind = MissingParameterError if missing else InvalidParameterError
    return kind(
        " ".join(problems),
        field=found[0].name,
        value=fields.get(found[0].name),
        allowed=found[0].allowed,
        problems=problems,
    )
