"""`plan.json`: what a run was asked for, so that it is gone on with and replayed as just that.

A run goes on only with what decides which answers stand in its folder. What only judges or counts
may be another, such as prices, limits and estimators: a limit may be raised, and pictures may be
judged anew.

Knows nothing of how a run is run.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from depthflux.bench.document import Strict
from depthflux.bench.hosted.run_files import AGAINST, HOSTED, RECORDING_SCHEMA
from depthflux.errors import InvalidParameterError, show
from depthflux.settings import EngineSettings

if TYPE_CHECKING:
    from depthflux.bench.hosted.plan import ContestPlan

#: Models that a setting names by a word; any other is a folder's path.
_NAMED_MODELS = ("demo", "flux")


class AskedProfile(Strict):
    """A local profile as a run was asked for it.

    Attributes:
        name: a profile's name, `auto`, or a TOML file's name.
        settings: its effective settings as JSON values, without paths; of `auto` all but what it
            decides itself.
        sha256: of all of them, paths too, 64 hexadecimal digits.
    """

    name: str
    settings: dict[str, Any]
    sha256: str


class PlanFile(Strict):
    """What a run was asked for.

    Attributes:
        schema_version: of the whole folder.
        begun_at: RFC 3339.
        command: as it was called, of paths the names only.
        first_side: name of the first side, also where that is replayed.
        replayed_sha256: of the replayed recording's manifest.json; empty where none is.
        base_url: of the hosted API; empty where that is not asked.
        api_version: likewise.
        against: the first side's profile; None where that is none, or is replayed.
        local: the second side's profile.
        suite: its name.
        suite_sha256: of its file and pictures.
        repeat: of each case.
        concurrency: tasks under way at a time.
        poll_interval_seconds: between two polls of a task.
        sync_mode: whether answers were awaited in the submission.
        price_usd_per_picture: of the hosted side; None where it was not given.
    """

    schema_version: int = Field(ge=1, le=RECORDING_SCHEMA)
    begun_at: str
    command: str
    first_side: Literal["hosted", "against"]
    replayed_sha256: str
    base_url: str
    api_version: str
    against: AskedProfile | None
    local: AskedProfile
    suite: str
    suite_sha256: str
    repeat: int
    concurrency: int
    poll_interval_seconds: float
    sync_mode: bool
    price_usd_per_picture: float | None


#: What a run cannot be gone on with otherwise, beside its profiles; and how a person calls it.
_DECIDES = {
    "suite_sha256": "the suite's sha256",
    "replayed_sha256": "the recording's sha256",
    "first_side": "the first side",
    "base_url": "--base-url",
    "api_version": "--api-version",
    "repeat": "--repeat",
    "concurrency": "--concurrency",
    "poll_interval_seconds": "--poll-interval",
    "sync_mode": "--sync-mode",
}


def describe_plan(plan: ContestPlan) -> PlanFile:
    """A plan as it is written."""
    is_hosted = plan.first_side == HOSTED
    replayed = plan.replay
    return PlanFile(
        schema_version=RECORDING_SCHEMA,
        begun_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_here(),
        first_side=plan.first_name,
        replayed_sha256="" if replayed is None else replayed.sha256,
        base_url=plan.base_url if is_hosted else "",
        api_version=plan.version if is_hosted else "",
        against=_profile(plan, plan.against_profile) if plan.first_side == AGAINST else None,
        local=_profile(plan, plan.profile),
        suite=plan.suite.name,
        suite_sha256=plan.suite.sha256,
        repeat=plan.repeat,
        concurrency=plan.concurrency,
        poll_interval_seconds=plan.poll_interval_s,
        sync_mode=plan.sync_mode,
        price_usd_per_picture=plan.price_usd,
    )


def require_same(folder: Path, begun: PlanFile, asked: PlanFile) -> None:
    """See that a run is gone on with as it was begun.

    Args:
        folder: the run's.
        begun: what it was asked for then.
        asked: what it is asked for now.

    Raises:
        InvalidParameterError: something that decides its answers is another; all of it is named.
    """
    told = [
        f"{name} was {show(getattr(begun, key))} and is {show(getattr(asked, key))} now"
        for key, name in _DECIDES.items()
        if getattr(begun, key) != getattr(asked, key)
    ]
    told += _profile_differences("--against-profile", begun.against, asked.against)
    told += _profile_differences("--profile", begun.local, asked.local)
    if told:
        raise InvalidParameterError(
            f"{folder}: this run was begun with other options: {'; '.join(told)}; give the same "
            "ones with --resume, or name another folder.",
            field="resume",
            allowed="the options that the run was begun with",
        )


def command_here() -> str:
    """The command line of this process, of paths the names only: others may read it.

    It holds no secret, since no option takes one.
    """
    return shlex.join(["depthflux", *map(_without_folders, sys.argv[1:])])


def shown_settings(settings: EngineSettings) -> dict[str, Any]:
    """Settings as JSON values without paths, which are this machine's business."""
    shown = settings.model_dump(mode="json")
    kept = {
        name: value
        for name, value in shown.items()
        if not isinstance(getattr(settings, name), Path)
    }
    if settings.model not in _NAMED_MODELS:
        kept["model"] = "folder"
    return kept


def _profile(plan: ContestPlan, target: str) -> AskedProfile:
    settings = plan.effective[target]
    text = json.dumps(settings.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
    return AskedProfile(
        name=PurePath(target).name,
        settings=shown_settings(settings),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def _profile_differences(
    option: str, begun: AskedProfile | None, asked: AskedProfile | None
) -> Iterator[str]:
    if begun is None or asked is None:
        return  # then the first side is another, which is told
    if begun.name != asked.name:
        yield f"{option} was {show(begun.name)} and is {show(asked.name)} now"
    if begun.sha256 == asked.sha256:
        return
    names = sorted(
        name
        for name in begun.settings.keys() | asked.settings.keys()
        if begun.settings.get(name) != asked.settings.get(name)
    )
    for name in names:
        was, now = begun.settings.get(name), asked.settings.get(name)
        yield f"{name} of {option} was {show(was)} and is {show(now)} now"
    if not names:
        yield f"a path among the settings of {option} is another now"


def _without_folders(word: str) -> str:
    """A word of a command line, of a path the name only, also behind `--out=`."""
    option, equals, value = word.rpartition("=")
    if "://" in value or "/" not in value:
        return word
    return f"{option}{equals}{PurePath(value).name}"
