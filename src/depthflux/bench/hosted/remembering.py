"""Whether a measured local side remembers prompts and control images: only where the user says so.

A picture whose prompt was met before takes less time than the first one with it, so repetitions
would not be measured alike, nor a second run on the same machine, nor a profile after another.
Knows nothing of what is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from depthflux.settings import resolve_settings

_REMEMBER, _AUTO = "remember", "auto"


def measured_settings(
    profile: str, *, environment: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of a side that is measured: `remember=none` unless something sets it.

    Args:
        profile: a name in configs/, a TOML file's path, or `auto`, which chooses one in configs/;
            none of these sets it.
        environment: the process's variables.
        settings: that were given for all local profiles.

    Raises:
        SettingsError: the profile or a setting is unknown, or they cannot work together.
    """
    named = None if profile == _AUTO else profile
    resolved = resolve_settings(named, environment=environment, arguments=settings)
    if resolved.sources[_REMEMBER] != "default":
        return dict(settings)
    return {**settings, _REMEMBER: "none"}
