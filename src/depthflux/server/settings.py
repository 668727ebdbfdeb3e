"""Server settings: what `depthflux serve` is told, declared once.

Layers, weakest first: the defaults here, variables `DEPTHFLUX_SERVER_<NAME>`, arguments. How the
engine behind the server computes is the engine's settings (depthflux.settings); keys are read in
depthflux.server.keys and never stand in an object that is printed.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from depthflux.contract import GenerationRequest, describe_allowed, field_range
from depthflux.errors import InvalidParameterError, SettingsError, show, unknown_name_problem
from depthflux.server.hosts import read_host, read_origin
from depthflux.settings import SERVER_PREFIX

_MOST_IMAGES = int(field_range(GenerationRequest.model_fields["num_images"])[1] or 1)
_MOST_STEPS = int(field_range(GenerationRequest.model_fields["num_inference_steps"])[1] or 1)

#: In place of names: whoever is asked for by whatever name.
ANY_HOST = "*"

#: What is done with a request all of whose pictures were flagged.
Moderation = Literal["flag", "fail"]


def default_data_dir() -> Path:
    """The user's folder for data that must not be lost."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "depthflux" / "server"


class ServerSettings(BaseModel):
    """Everything that is fixed once the server listens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        "127.0.0.1",
        description="The address to listen on; any but loopback needs API keys.",
        json_schema_extra={"allowed": "an IP address, or localhost"},
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="The port to listen on; 0 takes a free one.",
        json_schema_extra={"allowed": "a whole number from 0 to 65535"},
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description=(
            "Where accepted requests, pictures and uploads are kept; without it, "
            "depthflux/server in the user's data folder (XDG_DATA_HOME)."
        ),
    )
    api_keys_file: Path | None = Field(
        None,
        description="A file of API keys, one a line; DEPTHFLUX_API_KEYS may hold further ones.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+$",
        description="What addresses in answers begin with, behind a proxy; else the Host header.",
        json_schema_extra={"allowed": "an address such as https://pictures.example.org"},
    )
    allowed_hosts: str | None = Field(
        None,
        description=(
            "Names that the server may be asked under, beside IP addresses, localhost, this "
            "machine's own and that of public_url; `*`: any, which lets web pages in by DNS "
            "rebinding."
        ),
        json_schema_extra={"allowed": "names such as gpu.example.org,depthflux; or *"},
    )
    devices: str = Field(
        "auto",
        pattern=r"^(auto|(cpu|cuda(:\d+)?)(,(cpu|cuda(:\d+)?))*)$",
        description="Where workers run, one each; auto: on every GPU, or on the CPU.",
        json_schema_extra={"allowed": "auto, or names such as cuda:0,cuda:1"},
    )
    max_queued: int = Field(
        256,
        ge=1,
        description="Most predictions that wait; a further one is refused with 429.",
        json_schema_extra={"allowed": "a whole number from 1"},
    )
    key_requests_per_minute: int = Field(
        600,
        ge=0,
        description="Most submissions and uploads of a key in a minute; 0: no limit.",
        json_schema_extra={"allowed": "a whole number from 0"},
    )
    key_max_active: int = Field(
        0,
        ge=0,
        description=(
            "Most predictions of a key that wait or run at a time; 0: no limit, but where there "
            "are several keys, one key's may be half of max_queued."
        ),
        json_schema_extra={"allowed": "a whole number from 0"},
    )
    max_images: int = Field(
        _MOST_IMAGES,
        ge=1,
        le=_MOST_IMAGES,
        description="Most pictures a request may ask for.",
        json_schema_extra={"allowed": f"a whole number from 1 to {_MOST_IMAGES}"},
    )
    max_steps: int = Field(
        _MOST_STEPS,
        ge=1,
        le=_MOST_STEPS,
        description="Most steps a request may ask for.",
        json_schema_extra={"allowed": f"a whole number from 1 to {_MOST_STEPS}"},
    )
    max_megapixels: float = Field(
        2.4,
        gt=0,
        description="Most pixels of a picture, in millions; the contract's largest has 2.36.",
        json_schema_extra={"allowed": "a number more than 0"},
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=10,
        description="How often a prediction is begun before its worker's death fails it.",
        json_schema_extra={"allowed": "a whole number from 1 to 10"},
    )
    moderation: Moderation = Field(
        "flag",
        description=(
            "Where every picture of a request was flagged: `flag` completes it with placeholders, "
            "`fail` fails it with code 1200."
        ),
        json_schema_extra={"allowed": "flag or fail"},
    )
    sync_timeout_s: float = Field(
        90.0,
        gt=0,
        le=3600,
        description="How long enable_sync_mode waits before it answers that it is still running.",
        json_schema_extra={"allowed": "seconds, more than 0, at most 3600"},
    )
    drain_timeout_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long a running prediction may go on after SIGTERM before it is requeued.",
        json_schema_extra={"allowed": "seconds from 0 to 3600"},
    )
    worker_silence_s: float = Field(
        60.0,
        # Three heartbeats: one alone may be late.
        ge=6,
        le=3600,
        description="A worker not heard of for so long loses its lease: it is killed and replaced.",
        json_schema_extra={"allowed": "seconds from 6 to 3600"},
    )
    prediction_timeout_s: float = Field(
        # A day: the largest request on a CPU must fit, and what hangs must end some day.
        86400.0,
        gt=0,
        le=7 * 86400,
        description=(
            "A prediction that has been read and painted for so long fails with code 1405; a net "
            "for what hangs, to be set to some times what the largest request takes."
        ),
        json_schema_extra={"allowed": "seconds, more than 0, at most 604800"},
    )
    retention_days: float = Field(
        7.0,
        gt=0,
        le=3650,
        description="How long predictions, pictures and uploads are kept.",
        json_schema_extra={"allowed": "days, more than 0, at most 3650"},
    )

    @field_validator("host")
    @classmethod
    def _host_is_an_address(cls, host: str) -> str:
        # A name could resolve to something else than the person thinks of.
        return host if host == "localhost" else str(ipaddress.ip_address(host))

    @field_validator("public_url")
    @classmethod
    def _public_url_names_a_host(cls, url: str | None) -> str | None:
        if url is not None and read_origin(url) is None:
            raise ValueError
        return url

    @field_validator("allowed_hosts")
    @classmethod
    def _allowed_hosts_are_names(cls, text: str | None) -> str | None:
        for name in [] if text is None else text.split(","):
            host = read_host(name.strip())
            if name.strip() != ANY_HOST and (host is None or host.port is not None):
                raise ValueError
        return text

    @property
    def allowed_host_names(self) -> set[str]:
        """The names of `allowed_hosts` as `read_host` has them, and `*` as it is."""
        texts = [] if self.allowed_hosts is None else self.allowed_hosts.split(",")
        hosts = {text.strip(): read_host(text.strip()) for text in texts}
        return {text if host is None else host.name for text, host in hosts.items()}

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the server."""
        if self.host == "localhost":
            return True
        address = ipaddress.ip_address(self.host)
        # An IPv4 address in IPv6's clothes is what it is; not every version of Python sees that.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    @property
    def device_names(self) -> list[str]:
        """The devices by name; empty for auto."""
        return [] if self.devices == "auto" else self.devices.split(",")

    def require_allowed(self, request: GenerationRequest) -> None:
        """See that a request is within this server's own caps.

        Raises:
            InvalidParameterError: it asks for more; the message names the first such field.
        """
        width, height = request.dimensions
        painting = (
            ("num_images", request.num_images, self.max_images, f"at most {self.max_images}"),
            (
                "num_inference_steps",
                request.num_inference_steps,
                self.max_steps,
                f"at most {self.max_steps}",
            ),
        )
        size = (
            "size",
            width * height / 1e6,
            self.max_megapixels,
            f"{describe_allowed('size')}, and at most {self.max_megapixels:g} million pixels",
        )
        # A depth map alone is one picture that takes no steps, whatever the fields say.
        caps = (size,) if request.only_depth_map else (*painting, size)
        for name, value, most, allowed in caps:
            if value > most:
                given = getattr(request, name)
                raise InvalidParameterError(
                    f"{name}={show(given)} is more than this server does; allowed: {allowed}.",
                    field=name,
                    value=given,
                    allowed=allowed,
                )


def resolve_server_settings(
    *, environment: Mapping[str, str], arguments: Mapping[str, Any]
) -> ServerSettings:
    """Merge defaults, environment and arguments, strongest last.

    Args:
        environment: the process's variables; those with other prefixes are passed over.
        arguments: settings given by the caller.

    Raises:
        SettingsError: an unknown setting or a value out of range; the message names all of them.
    """
    known = list(ServerSettings.model_fields)
    values = {
        variable.removeprefix(SERVER_PREFIX).lower(): text
        for variable, text in environment.items()
        if variable.startswith(SERVER_PREFIX)
    } | dict(arguments)
    unknown = [
        unknown_name_problem(name, known, kind="setting") for name in values if name not in known
    ]
    if unknown:
        raise SettingsError(" ".join(unknown), fix="See: depthflux serve --help.")
    try:
        return ServerSettings(**values)
    except ValidationError as error:
        names = dict.fromkeys(str(found["loc"][0]) for found in error.errors(include_url=False))
        problems = [
            f"{name}={show(values.get(name))} is not allowed; allowed: {describe_setting(name)}."
            for name in names
        ]
        raise SettingsError(" ".join(problems), fix="See: depthflux serve --help.") from None


def describe_setting(name: str) -> str:
    """What a setting takes, in words."""
    extra = ServerSettings.model_fields[name].json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else "a path"
