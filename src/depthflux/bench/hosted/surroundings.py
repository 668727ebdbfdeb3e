"""What the client finds around it: clocks, names, certificates; tests bring their own.

Knows nothing of what is asked.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from depthflux.images.addresses import Resolver, resolve


def _usual_certificates() -> ssl.SSLContext:
    """certifi's, whatever the environment says."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the client does not decide itself.

    Attributes:
        clock: seconds that only go forward.
        wall: seconds since 1970.
        resolver: turns names into addresses.
        tls: what certificates are trusted.
    """

    clock: Callable[[], float] = time.perf_counter
    wall: Callable[[], float] = time.time
    resolver: Resolver = resolve
    tls: ssl.SSLContext = field(default_factory=_usual_certificates)
