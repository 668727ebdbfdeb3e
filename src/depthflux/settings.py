"""Engine settings: what is fixed when a model is loaded, and where each value came from.

Layers, weakest first: the defaults in this file, a profile's TOML file in configs/, environment
variables `DEPTHFLUX_<NAME>`, arguments. `resolve_settings` merges them and remembers the layer
each value came from, which `depthflux config show` prints. A request's own fields are not
settings; they are declared in depthflux.contract.

Knows nothing of torch: whether a device can be had is found out when the model is loaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from depthflux.errors import SettingsError, first_line, show, unknown_name_problem

ENVIRONMENT_PREFIX = "DEPTHFLUX_"
#: Variables that begin so are settings of the server (depthflux.server.settings).
SERVER_PREFIX = "DEPTHFLUX_SERVER_"
#: Variables with the engine's prefix that are no settings of the engine; the last two are read by
#: the nodes for ComfyUI (depthflux.comfyui).
OTHER_VARIABLES = frozenset({"PROFILE", "API_KEYS", "COMFYUI_ADDRESS", "COMFYUI_API_KEY"})

Dtype = Literal["float32", "bfloat16"]
#: Whose law decides where diffusers and the definition of a control LoRA differ.
Compat = Literal["none", "diffusers"]
#: Where the unfused weights are kept, for changing the control scale.
Master = Literal["file", "host", "device"]
#: Whether what is constant over the steps is computed once or, as diffusers does, in every step.
Order = Literal["hoisted", "diffusers"]
#: Where weights that are not needed in the loop live; `file`: nowhere, they are read when needed.
Home = Literal["device", "host", "file"]
#: Where the text encoders live and run.
TextHome = Literal["device", "host", "cpu"]
#: What the blocks' large linears are rounded to.
Quantize = Literal["none", "auto", "fp8", "int8"]
#: Which kernel computes attention; auto measures once per machine.
Attention = Literal["auto", "cudnn", "flash", "efficient", "math", "flash3"]
#: How far what was computed for a prompt or a control image is kept for the next request.
Remember = Literal["none", "memory", "disk"]


class EngineSettings(BaseModel):
    """Everything that is fixed once a model is loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "flux",
        description=(
            "What to load: `flux` (FLUX.1-dev, looked for in weights_dir, the Hugging Face cache "
            "and comfyui_dir), `demo` (the packaged miniature), or the path of a folder laid out "
            "like FLUX.1-dev's."
        ),
    )
    weights_dir: Path = Field(
        Path("weights"), description="Where FLUX.1-dev, the control LoRA and the estimator lie."
    )
    comfyui_dir: Path | None = Field(
        None, description="A ComfyUI folder whose models/ are used, too."
    )
    control_lora: Path | None = Field(
        None, description="The depth control LoRA's file; without it, the one beside the model."
    )
    depth_estimator: Path | None = Field(
        None, description="A Depth Anything folder; without it, the one beside the model."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where the model runs; auto prefers CUDA.",
        json_schema_extra={"allowed": "auto, cpu, cuda or cuda:N"},
    )
    dtype: Dtype = Field("float32", description="What the model computes in.")
    compat: Compat = Field(
        "none",
        description=(
            "Whose law the control LoRA follows: `none` is the exact one, `diffusers` that of "
            "diffusers, bugs included. See docs/fidelity.md."
        ),
    )
    master: Master = Field(
        "file",
        description=(
            "Where the unfused weights are read from when the control scale changes: the mapped "
            "`file`, a copy in `host` memory, or a second copy on the `device`."
        ),
    )
    loras_dir: Path = Field(
        Path("weights/loras"), description="Where a request's further LoRAs are looked for."
    )
    allow_lora_paths: bool = Field(
        False, description="Load further LoRAs from anywhere on this computer, too."
    )
    allow_lora_urls: bool = Field(
        False, description="Fetch further LoRAs from https addresses, too."
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile of the transformer's blocks; auto: on CUDA only.",
        json_schema_extra={"allowed": "true, false or auto"},
    )
    order: Order = Field(
        "hoisted",
        description=(
            "`hoisted` computes once what is constant over the steps; `diffusers` computes it in "
            "every step, operation for operation as diffusers does."
        ),
    )
    attention: Attention = Field(
        "auto",
        description="Which kernel computes attention; auto measures once per machine.",
    )
    quantize: Quantize = Field(
        "none",
        description=(
            "What the blocks' large linears are rounded to, an approximation: `fp8`, `int8`, or "
            "`auto`, which is fp8 where the GPU computes in it and int8 elsewhere."
        ),
    )
    skip_steps: float = Field(
        0.0,
        ge=0,
        le=0.6,
        description="Share of the steps that are extrapolated, by a fixed mask: an approximation.",
        json_schema_extra={"allowed": "a number from 0 to 0.6"},
    )
    max_batch: int = Field(
        1,
        ge=1,
        le=4,
        description=(
            "Most pictures of a request that are denoised together; with 1 a seed's picture does "
            "not depend on how many were asked for."
        ),
        json_schema_extra={"allowed": "a whole number from 1 to 4"},
    )
    modulation: Home = Field(
        "device",
        description=(
            "Where the modulation linears live, a quarter of FLUX: on the `device`; in `host` "
            "memory, from which they are streamed once a request; or in the `file` alone, from "
            "which each is read and fused anew then."
        ),
    )
    text_encoders: TextHome = Field(
        "device",
        description=(
            "Where the text encoders live: on the `device`, in `host` memory, from which they are "
            "streamed for a new prompt, or on the `cpu`, where they run, too."
        ),
    )
    vae_tiling: bool = Field(
        False,
        description="Decode in overlapping tiles: less memory, and other pixels at their seams.",
    )
    memory_limit_gb: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Device memory to plan with, in 1e9 bytes; without it, what is free.",
        json_schema_extra={"allowed": "a number of gigabytes, more than 0, at most 100000"},
    )
    remember: Remember = Field(
        "disk",
        description=(
            "Keep what a prompt and a control image were encoded to: `none`, in `memory`, or "
            "prompts on `disk`, too."
        ),
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of torch, in the whole process; without it, torch's own choice.",
        json_schema_extra={"allowed": "a whole number from 1 to 1024"},
    )
    safety_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Pictures that score it or more are withheld; without it, the checker's own.",
        json_schema_extra={"allowed": "a number from 0 to 1"},
    )
    embed_control_image: bool = Field(
        True, description="Put the control image into each picture's record, for --from-record."
    )
    allow_private_addresses: bool = Field(
        False, description="Fetch control images from private and loopback addresses, too."
    )
    max_image_bytes: int = Field(
        32 * 2**20,
        ge=1024,
        description="Largest control image accepted, in bytes.",
        json_schema_extra={"allowed": "a whole number from 1024"},
    )
    max_image_pixels: int = Field(
        2**26,
        ge=1,
        description="Largest control image accepted, in pixels.",
        json_schema_extra={"allowed": "a whole number from 1"},
    )
    fetch_timeout_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="Longest time that fetching a control image may take.",
        json_schema_extra={"allowed": "seconds, more than 0, at most 600"},
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take true for the number 1.
        if isinstance(value, bool) and bool not in _alternatives(cls, str(info.field_name)):
            raise ValueError
        return value

    @model_validator(mode="after")
    def _combination_is_possible(self) -> EngineSettings:
        # Said here, before any weight is read: the miniature's LoRA fits nothing else.
        if self.model == "demo" and self.control_lora is not None:
            message = "control_lora: the demo model has a control LoRA of its own; leave it out"
            raise ValueError(message)
        if problems := list(self._contradictions()):
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self) -> Iterator[str]:
        """Speed and memory settings that exclude each other."""
        if self.order == "diffusers":
            for name in ("attention", "quantize", "skip_steps", "max_batch", "modulation"):
                if getattr(self, name) != EngineSettings.model_fields[name].default:
                    yield (
                        f"{name}={getattr(self, name)}: order=diffusers computes as diffusers "
                        f"does; leave {name} out, or use order=hoisted"
                    )
        if self.quantize != "none" and self.compile is False:
            yield (
                f"quantize={self.quantize} with compile=false would be slower than bfloat16; use "
                "compile=true, or quantize=none"
            )


def _alternatives(model: type[BaseModel], name: str) -> tuple[Any, ...]:
    """What a setting's annotation is made of: its types, or a Literal's values."""
    annotation = model.model_fields[name].annotation
    return get_args(annotation) or (annotation,)


@dataclass(frozen=True)
class ResolvedSettings:
    """Effective settings and their sources.

    Attributes:
        values: the settings.
        sources: for each setting the layer it came from, such as `environment DEPTHFLUX_DEVICE`.
        profile: the profile's name, or `custom` where there was none.
    """

    values: EngineSettings
    sources: dict[str, str]
    profile: str


def resolve_settings(
    profile: str | Path | None,
    *,
    environment: Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ResolvedSettings:
    """Merge defaults, profile, environment and arguments, strongest last.

    Args:
        profile: a name in configs/, the path of a TOML file, or None for the defaults alone.
        environment: the process's variables; those with other prefixes are passed over.
        arguments: settings given by the caller; None takes back what weaker layers set.

    Raises:
        SettingsError: an unknown profile or setting, a value out of range, or a combination that
            cannot work; the message names all of them.
    """
    name, preset = ("custom", {}) if profile is None else _read_profile(profile)
    layers = [
        (f"profile {name}", preset),
        ("environment", _read_environment(environment or {})),
        ("argument", arguments or {}),
    ]
    values, sources = _merge(layers)
    try:
        return ResolvedSettings(EngineSettings(**values), sources, name)
    except ValidationError as error:
        raise _translate(error, values, sources) from None


def _merge(
    layers: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The strongest layer's value of each setting, and where it came from."""
    known = list(EngineSettings.model_fields)
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, "default")
    problems: list[str] = []
    for layer, entries in layers:
        for setting, value in entries.items():
            if setting not in known:
                problem = unknown_name_problem(setting, known, kind="setting")
                problems.append(f"{layer}: {problem}")
                continue
            if value is None:
                values.pop(setting, None)
                sources[setting] = "default"
                continue
            values[setting] = value
            suffix = f" {ENVIRONMENT_PREFIX}{setting.upper()}" if layer == "environment" else ""
            sources[setting] = layer + suffix
    if problems:
        raise SettingsError(" ".join(problems), fix="See: depthflux config show.")
    return values, sources


def profile_names() -> list[str]:
    """The profiles in configs/, sorted."""
    return sorted(path.stem for path in configs_folder().glob("*.toml"))


def describe_setting(name: str) -> str:
    """What a setting takes, in words."""
    field = EngineSettings.model_fields[name]
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["allowed"])
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(field.annotation)))
    return "true or false" if field.annotation is bool else "a path or a name"


def _read_profile(profile: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(profile)
    if path.suffix != ".toml":
        path = configs_folder() / f"{profile}.toml"
        if str(profile) not in profile_names():
            problem = unknown_name_problem(str(profile), profile_names(), kind="profile")
            raise SettingsError(
                f"profile {problem}",
                fix="Give a profile of your own by the path of its .toml file, and a model's "
                "folder with a slash in it, such as ./model.",
            )
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the profile {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"the profile {path} is no valid TOML: {first_line(error)}.") from error


def configs_folder() -> Path:
    """configs/ as installed beside the code, or at the root of the repository it runs from."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Settings among the variables, as text that is read when it is checked; `null` unsets."""
    names = {variable: variable.removeprefix(ENVIRONMENT_PREFIX) for variable in environment}
    return {
        name.lower(): None if environment[variable] == "null" else environment[variable]
        for variable, name in names.items()
        if name != variable
        and name not in OTHER_VARIABLES
        and not variable.startswith(SERVER_PREFIX)
    }


def _translate(
    error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str]
) -> SettingsError:
    problems: dict[str, str] = {}
    for finding in error.errors(include_url=False):
        if not finding["loc"]:  # a combination; its message is whole
            problems[""] = finding["msg"].removeprefix("Value error, ") + "."
            continue
        name = str(finding["loc"][0])
        problems[name] = (
            f"{name}={show(values.get(name))} ({sources[name]}) is not allowed; "
            f"allowed: {describe_setting(name)}."
        )
    return SettingsError(" ".join(problems.values()), fix="See: depthflux config show.")
