"""Where the hosted API is: the one place that the key may go to.

Every address that gets the key is made here, from the base address and words of ours. Knows no
network; whether a name leads to this machine's own networks is asked of a resolver.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from depthflux.bench.hosted.errors import UnreadableAnswerError
from depthflux.contract.prediction import HOSTED_MODEL
from depthflux.errors import SettingsError, show
from depthflux.images.addresses import Resolver, approved_addresses, is_public
from depthflux.images.container import PictureProblemError
from depthflux.images.url import Target, parse_url

Version = Literal["v2", "v3"]

#: Ids of predictions: 32 hexadecimal digits have been seen; a wider set that still is one plain
#: segment of a path.
PREDICTION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
#: Segments of a prefix, such as a gateway's: none that could be read as another path.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+)*", re.ASCII)
_VERSIONED = re.compile(r".*/api(?:/v[0-9]+)?", re.ASCII)
#: Longest wait for a name, in seconds.
_RESOLVE_S = 10.0

_FORM = "such as https://api.wavespeed.ai or http://127.0.0.1:8000"


@dataclass(frozen=True, kw_only=True)
class BaseUrl:
    """The hosted API's base address.

    Attributes:
        scheme: `https`, or `http` within private networks.
        host: name or address, IPv6 without brackets, in lower case.
        port: 1 to 65535.
        prefix: before `/api`; empty, or beginning with a slash and not ending with one.
    """

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What two addresses share that are of one server."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port: how messages name the side."""
        return self.target("/").authority

    @property
    def text(self) -> str:
        """The base address in full, without a slash at its end."""
        return f"{self.scheme}://{self.authority}{self.prefix}"

    def target(self, path: str) -> Target:
        """A path below the base address."""
        return Target(scheme=self.scheme, host=self.host, port=self.port, path=self.prefix + path)


def submission_path(version: Version) -> str:
    """Where predictions are asked for, below the base address."""
    return f"/api/{version}/{HOSTED_MODEL}"


def result_path(version: Version, prediction_id: str) -> str:
    """Where a prediction is read, below the base address.

    Raises:
        UnreadableAnswerError: what is called an id could lead to another place.
    """
    if not PREDICTION_ID.fullmatch(prediction_id):
        raise UnreadableAnswerError(
            f"prediction_id={show(prediction_id)}: an id has 1 to 128 letters, digits, _ and -; "
            "nothing else is asked for.",
        )
    return f"/api/{version}/predictions/{prediction_id}/result"


def upload_path(version: Version) -> str:
    """Where pictures are uploaded, or in v3 tickets for them asked for, below the base address."""
    return f"/api/{version}/media/" + ("upload/binary" if version == "v2" else "uploads")


def parse_base_url(text: str) -> BaseUrl:
    """Read the base address of the hosted API; nobody is asked.

    Raises:
        SettingsError: it is no such address, or an http one that is surely public.
    """
    try:
        target = parse_url(text)
    except PictureProblemError as problem:
        raise _refused(text, f"{problem}; {problem.advice}") from None
    if "?" in text or "#" in text:
        raise _refused(text, "a base address has no query and no fragment")
    prefix = target.path.removesuffix("/")
    if _VERSIONED.fullmatch(prefix):
        raise _refused(text, "end it before /api; the version is given by itself (--api-version)")
    if not _PREFIX.fullmatch(prefix):
        raise _refused(text, "its path has other characters than letters, digits and . _ ~ -")
    base = BaseUrl(scheme=target.scheme, host=target.host, port=target.port, prefix=prefix)
    if base.scheme == "http" and _is_literal(base.host) and is_public(base.host):
        raise in_the_clear(base)
    return base


def check_private(base: BaseUrl, resolver: Resolver) -> None:
    """See that a base address of http leads nowhere but to this machine or its own networks.

    Raises:
        SettingsError: one of its addresses is public, or it has none.
    """
    if base.scheme != "http":
        return
    try:
        addresses = approved_addresses(
            base.host, base.port, resolver=resolver, allow_private=True, timeout_s=_RESOLVE_S
        )
    except PictureProblemError as problem:
        raise _refused(base.text, f"{problem}; {problem.advice}") from None
    if any(is_public(address) for address in addresses):
        raise in_the_clear(base)


def in_the_clear(base: BaseUrl) -> SettingsError:
    """The error for a key that would cross the internet unencrypted."""
    return SettingsError(
        f"base_url={show(base.text)}: the API key would cross the internet unencrypted; http is "
        "for this machine and private networks only.",
        fix=f"Use https://{base.host}.",
    )


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(text: str, why: str) -> SettingsError:
    return SettingsError(f"base_url={show(text)}: {why}.", fix=f"Give one {_FORM}.")
