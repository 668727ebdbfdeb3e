"""What a local profile comes to on this machine, for the document and for its server.

Imports torch, once it is asked. Knows nothing of servers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from depthflux.bench.hosted.plan import ContestPlan
from depthflux.bench.hosted.plan_file import shown_settings
from depthflux.bench.hosted.remembering import measured_settings
from depthflux.settings import EngineSettings


@dataclass(frozen=True)
class LocalProfile:
    """A profile with everything decided that `auto` leaves open.

    Attributes:
        name: of the profile.
        target: what the server is told to load.
        values: the effective settings.
        device: where it runs, such as `cuda:0`.
        arguments: settings that its server is given beside the profile.
    """

    name: str
    target: str
    values: EngineSettings
    device: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def shown_settings(self) -> dict[str, Any]:
        """The settings as JSON values, without paths: a report may be shown to strangers."""
        return shown_settings(self.values)


def find_profile(target: str, plan: ContestPlan) -> LocalProfile:
    """See what a profile is on this machine.

    Raises:
        SettingsError: it is unknown, or its settings cannot work.
        WeightsMissingError: `auto` on a machine with CUDA but without FLUX's weights.
        DeviceError: its device cannot be had.
    """
    from depthflux.engine.selection import select_settings
    from depthflux.model.placement import place

    arguments = measured_settings(target, environment=os.environ, settings=plan.settings)
    resolved = select_settings(target, environment=os.environ, arguments=arguments)
    return LocalProfile(
        name=resolved.profile,
        target=target,
        values=resolved.values,
        device=str(place(resolved.values).device),
        arguments=arguments,
    )
