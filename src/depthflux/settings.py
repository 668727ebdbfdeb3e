"""Engine settings: what is fixed when a model is loaded, and where each value came from.

Layers, weakest first: the defaults in this file, a profile's TOML file in configs/, environment
variables `DEPTHFLUX_<NAME>`, arguments. `resolve_settings` merges them and remembers the layer
each value came from, which `depthflux config show` prints. A request's own fields are not
settings; they are declared in depthflux.contract.

Knows nothing of torch: whether a device can be had is found out when the model is loaded.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from depthflux.contract import unknown_field_problem
from depthflux.errors import SettingsError, show

ENVIRONMENT_PREFIX = "DEPTHFLUX_"
#: Variables with the prefix that are no settings of the engine.
OTHER_VARIABLES = frozenset({"PROFILE"})

Dtype = Literal["float32", "bfloat16"]


class EngineSettings(BaseModel):
    """Everything that is fixed once a model is loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "flux",
        description=(
            "What to load: `flux` (FLUX.1-dev, looked for under weights_dir), `demo` (the packaged "
            "miniature), or the path of a folder laid out like FLUX.1-dev's."
        ),
    )
    weights_dir: Path = Field(
        Path("weights"), description="Where FLUX.1-dev, the control LoRA and the estimator lie."
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
        description="Where the model runs: auto, cpu, cuda or cuda:N; auto prefers CUDA.",
    )
    dtype: Dtype = Field("float32", description="What the model computes in.")
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile of the transformer's blocks; auto: on CUDA only."
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of torch; without it, torch's own choice."
    )
    safety_threshold: float | None = Field(
        None, ge=0, le=1, description="Scores above it are withheld; without it, the checker's own."
    )
    embed_control_image: bool = Field(
        True, description="Put the control image into each picture's record, for --from-record."
    )
    allow_private_addresses: bool = Field(
        False, description="Fetch control images from private and loopback addresses, too."
    )
    max_image_bytes: int = Field(
        32 * 2**20, ge=1024, description="Largest control image accepted, in bytes."
    )
    max_image_pixels: int = Field(
        2**26, ge=1, description="Largest control image accepted, in pixels."
    )
    fetch_timeout_s: float = Field(
        30.0, gt=0, le=600, description="Longest time that fetching a control image may take."
    )

    @model_validator(mode="after")
    def _combination_is_possible(self) -> EngineSettings:
        # Said here, before any weight is read: the miniature's LoRA fits nothing else.
        if self.model == "demo" and self.control_lora is not None:
            message = "control_lora: the demo model has a control LoRA of its own; leave it out"
            raise ValueError(message)
        return self


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
        arguments: settings given by the caller; None values count as not given.

    Raises:
        SettingsError: an unknown profile or setting, a value out of range, or a combination that
            cannot work; the message names all of them.
    """
    name, preset = ("custom", {}) if profile is None else _read_profile(profile)
    layers = [
        (f"profile {name}", preset),
        ("environment", _read_environment(environment or {})),
        ("argument", {k: v for k, v in (arguments or {}).items() if v is not None}),
    ]
    known = list(EngineSettings.model_fields)
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, "default")
    problems: list[str] = []
    for layer, entries in layers:
        for setting, value in entries.items():
            if setting not in known:
                problems.append(f"{layer}: {unknown_field_problem(setting, known)}")
                continue
            values[setting] = value
            suffix = f" {ENVIRONMENT_PREFIX}{setting.upper()}" if layer == "environment" else ""
            sources[setting] = layer + suffix
    if problems:
        raise SettingsError(" ".join(problems), fix="See: depthflux config show.")
    try:
        return ResolvedSettings(EngineSettings(**values), sources, name)
    except ValidationError as error:
        raise _translate(error, values, sources) from None


def profile_names() -> list[str]:
    """The profiles in configs/, sorted."""
    return sorted(path.stem for path in _configs_folder().glob("*.toml"))


def describe_setting(name: str) -> str:
    """What a setting takes, in words."""
    field = EngineSettings.model_fields[name]
    annotation = field.annotation
    options = get_args(annotation) if get_origin(annotation) is Literal else ()
    if options:
        return "one of " + ", ".join(map(str, options))
    return field.description or ""


def _read_profile(profile: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(profile)
    if path.suffix != ".toml":
        path = _configs_folder() / f"{profile}.toml"
        if str(profile) not in profile_names():
            problem = unknown_field_problem(str(profile), profile_names())
            raise SettingsError(
                f"profile {problem}".replace("such field", "such profile"),
                fix="Profiles of your own are given by the path of a .toml file.",
            )
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the profile {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the profile {path} is no valid TOML: {error}.") from error


def _configs_folder() -> Path:
    """configs/ as installed beside the code, or at the root of the repository it runs from."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Settings among the variables: `true`, numbers and `null` read as JSON, the rest as text."""
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or name in OTHER_VARIABLES:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name.lower()] = value if isinstance(value, bool | int | float | None) else text
    return found


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
            f"{name}={show(values.get(name))} ({sources[name]}): "
            f"{finding['msg'][0].lower()}{finding['msg'][1:]}; {describe_setting(name)}"
        )
    return SettingsError(" ".join(problems.values()), fix="See: depthflux config show.")
