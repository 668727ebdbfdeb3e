"""Which engine a graph asks for: in this process, or behind an address.

Knows nothing of requests.
"""

from __future__ import annotations

from typing import NamedTuple

from .addresses import USUAL_ADDRESS, configured_address, read_address
from .declared import declaration
from .errors import NodeError, show
from .in_process import LocalEngine, is_installed
from .served import ServedEngine


class EngineChoice(NamedTuple):
    """What the node Depthflux Engine hands on.

    Attributes:
        profile: a profile's name, for an engine in this process.
        address: of a server; empty for an engine in this process.
    """

    profile: str
    address: str


def check_choice(profile: str, address: str) -> EngineChoice:
    """What was chosen, judged.

    Raises:
        NodeError: the profile is none of depthflux's, or the address may not be asked.
    """
    if address.strip():
        read_address(address)
    elif profile not in declaration()["profiles"]:
        # A path would load settings of a stranger's graph.
        names = ", ".join(declaration()["profiles"])
        raise NodeError(f"profile={show(profile)} is not allowed; allowed: one of {names}.")
    return EngineChoice(profile, address)


def engine_for(choice: EngineChoice | None) -> LocalEngine | ServedEngine:
    """The engine that was chosen; without a choice, the first of these that there is.

    The server that the environment names, an engine in this process, a server at the usual address.

    Raises:
        NodeError: the address may not be asked, or the environment's is none.
    """
    if choice is None:
        configured = configured_address()
        if configured is None and is_installed():
            return LocalEngine("auto")
        return ServedEngine(configured or read_address(USUAL_ADDRESS))
    profile, address = check_choice(choice.profile, choice.address)
    return ServedEngine(read_address(address)) if address.strip() else LocalEngine(profile)
