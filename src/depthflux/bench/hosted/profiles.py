"""What a local profile comes to on this machine, for the document and for its server.

Imports torch, once it is asked. Knows nothing of servers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflux.bench.hosted.plan import ContestPlan
from depthflux.settings import EngineSettings

#: Models that a setting names by a word; any other is a folder's path.
_NAMED_MODELS = ("demo", "flux")


@dataclass(frozen=True)
class LocalProfile:
    """A profile with everything decided that `auto` leaves open.

    Attributes:
        name: of the profile.
        target: what the server is told to load.
        values: the effective settings.
        device: where it runs, such as `cuda:0`.
    """

    name: str
    target: str
    values: EngineSettings
    device: str

    @property
    def shown_settings(self) -> dict[str, Any]:
        """The settings as JSON values, without paths: a report may be shown to strangers."""
        shown = self.values.model_dump(mode="json")
        paths = [name for name in shown if isinstance(getattr(self.values, name), Path)]
        kept = {name: value for name, value in shown.items() if name not in paths}
        if self.values.model not in _NAMED_MODELS:
            kept["model"] = "folder"
        return kept


def find_profile(target: str, plan: ContestPlan) -> LocalProfile:
    """See what a profile is on this machine.

    Raises:
        SettingsError: it is unknown, or its settings cannot work.
        WeightsMissingError: `auto` on a machine with CUDA but without FLUX's weights.
        DeviceError: its device cannot be had.
    """
    from depthflux.engine.selection import select_settings
    from depthflux.model.placement import place

    resolved = select_settings(target, environment=os.environ, arguments=plan.settings)
    return LocalProfile(
        name=resolved.profile,
        target=target,
        values=resolved.values,
        device=str(place(resolved.values).device),
    )
