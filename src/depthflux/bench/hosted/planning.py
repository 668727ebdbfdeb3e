"""A comparison as it is asked for, checked.

Everything that can be refused is refused here, before a key is used, a model is loaded or torch is
imported. Knows nothing of how sides answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, get_args

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.money import estimate, exact, usd
from depthflux.bench.hosted.plan import ContestPlan, tasks_of
from depthflux.bench.hosted.remembering import measured_settings
from depthflux.bench.hosted.replaying import Recording, open_recording
from depthflux.bench.hosted.run_files import HOSTED
from depthflux.bench.hosted.suites import Suite, load_suite
from depthflux.errors import InvalidParameterError, show
from depthflux.settings import ENVIRONMENT_PREFIX, EngineSettings, resolve_settings

if TYPE_CHECKING:
    from depthflux.bench.hosted.base_url import Version

HOSTED_URL = "https://api.wavespeed.ai"
DEFAULT_VERSION: Version = "v2"
#: As the official Python client waited for long; the newer ones wait 1 s, so what a person gets of
#: a service is up to that much slower.
DEFAULT_POLL_INTERVAL_S = 0.5
AUTO = "auto"

MAX_REPEAT, MAX_CONCURRENCY = 100, 32
POLL_INTERVAL_S = (0.1, 60.0)
#: Less or more of any of these is a typing error.
LEAST_AMOUNT = 0.000001
MAX_USD, MAX_WATTS = 1_000_000.0, 100_000.0


def make_plan(
    *,
    suite: str | Path | None = None,
    profile: str | None = None,
    against_profile: str | None = None,
    base_url: str | None = None,
    version: str | None = None,
    repeat: int | None = None,
    concurrency: int | None = None,
    sync_mode: bool | None = None,
    poll_interval_s: float | None = None,
    price_usd: float | None = None,
    max_cost_usd: float | None = None,
    electricity_usd: float | None = None,
    watts: float | None = None,
    settings: Mapping[str, Any] | None = None,
    replay: Path | None = None,
    estimator: Path | None = None,
    clip: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> ContestPlan:
    """Check what was asked for; each argument is the plan's attribute of its name.

    `suite` is a name in configs/suites/ or a TOML file's path; no profile is `auto`, no base URL
    the hosted endpoint's own. `replay` is the folder of an earlier run, which is compared with its
    manifest; where it is given, how often and how sides are asked, the suite and the price are the
    recording's where they are not given. `environment` are the process's variables, from which
    profiles take settings, too. `max_cost_usd` needs a price, and a first side that is paid.

    Raises:
        InvalidParameterError: a value is out of range, or two of them exclude each other, or the
            recording is not what its manifest says.
        SettingsError: a profile or setting is unknown, or they cannot work together; or the base
            URL is none that a key may go to.
    """
    texts = {"suite": suite, "profile": profile, "against_profile": against_profile}
    places = {"replay": replay, "estimator": estimator, "clip": clip, "base_url": base_url}
    for name, given in {**texts, **places, **(settings or {})}.items():
        require_utf8(name, given)
    _check_what_is_heeded(
        {"replay": replay, "against_profile": against_profile},
        {"base_url": base_url, "api_version": version, "price_per_picture": price_usd},
    )
    names = _profiles(profile, against_profile, environment or {})
    replayed = _recording(replay, price_usd)
    usual = _Usual() if replayed is None else _Usual.of(replayed)
    plan = ContestPlan(
        suite=_suite(suite, replayed),
        profile=names[-1],
        against_profile="" if against_profile is None else names[0],
        base_url=HOSTED_URL if base_url is None else _base_url(base_url),
        version=DEFAULT_VERSION if version is None else _known_version(version),
        repeat=usual.repeat if repeat is None else repeat,
        concurrency=usual.concurrency if concurrency is None else concurrency,
        sync_mode=usual.sync_mode if sync_mode is None else sync_mode,
        poll_interval_s=usual.poll_interval_s if poll_interval_s is None else poll_interval_s,
        price_usd=usual.price_usd if price_usd is None else price_usd,
        max_cost_usd=max_cost_usd,
        electricity_usd=electricity_usd,
        watts=watts,
        settings=dict(settings or {}),
        replay=replayed,
        estimator=_folder("estimator", estimator),
        clip=_folder("clip", clip),
        effective=_resolve(names, environment or {}, settings or {}),
    )
    _check_numbers(plan)
    _check_limit(plan)
    return plan


def require_utf8(name: str, given: object) -> None:
    """See that a text or path can stand in a document; file names may hold any bytes.

    Raises:
        InvalidParameterError: it cannot.
    """
    for part in PurePath(given).parts if isinstance(given, str | Path) else ():
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise InvalidParameterError(
                f"{name}: {show(part)} holds bytes that are no UTF-8; rename it, or name another.",
                field=name,
                allowed="a name in UTF-8",
            ) from error


def needs_key(plan: ContestPlan, out: Path, *, resume: bool) -> bool:
    """Whether the hosted API is asked; a run of which all is answered can be judged anew without.

    Args:
        plan: what is asked for.
        out: the run's folder.
        resume: whether what is there is gone on with.

    Raises:
        OutputError: the folder may not be looked into.
        InvalidParameterError: a file of it is not what a run writes.
    """
    if plan.first_side != HOSTED:
        return False
    keys = [task.key for task in tasks_of(plan)]
    return not (resume and RunFolder(out).is_settled(HOSTED, keys))


@dataclass(frozen=True)
class _Usual:
    """What is taken where nothing is said."""

    repeat: int = 1
    concurrency: int = 1
    sync_mode: bool = False
    poll_interval_s: float = DEFAULT_POLL_INTERVAL_S
    price_usd: float | None = None

    @classmethod
    def of(cls, recording: Recording) -> _Usual:
        """As a recording was made, so that times of both sides can be compared."""
        plan = recording.plan
        return cls(
            plan.repeat,
            plan.concurrency,
            plan.sync_mode,
            plan.poll_interval_seconds,
            plan.price_usd_per_picture,
        )


def _suite(suite: str | Path | None, replayed: Recording | None) -> Suite:
    if suite is not None:
        return load_suite(suite)
    if replayed is not None:
        return replayed.suite()
    raise InvalidParameterError(
        "suite: is required; give --suite, a name or the path of a .toml file.",
        field="suite",
        allowed="a suite's name, or the path of a .toml file",
    )


def _recording(place: Path | None, price_usd: float | None) -> Recording | None:
    folder = _folder("replay", place)
    if folder is None:
        return None
    recording = open_recording(folder)
    if recording.plan.first_side != HOSTED and price_usd is not None:
        raise _excluded(
            "price_per_picture",
            "replay",
            "its first side is a profile, whose pictures have no price; leave price_per_picture",
        )
    return recording


# Checks ----------------------------------------------------------------------------------------


def _check_numbers(plan: ContestPlan) -> None:
    for name, count, high in (
        ("repeat", plan.repeat, MAX_REPEAT),
        ("concurrency", plan.concurrency, MAX_CONCURRENCY),
    ):
        if not 1 <= count <= high:
            raise _refused(name, count, f"a whole number from 1 to {high}")
    low, high_s = POLL_INTERVAL_S
    if not low <= plan.poll_interval_s <= high_s:
        raise _refused("poll_interval", plan.poll_interval_s, f"seconds from {low} to {high_s:g}")
    for name, amount, unit, most in (
        ("price_per_picture", plan.price_usd, "USD", MAX_USD),
        ("max_cost", plan.max_cost_usd, "USD", MAX_USD),
        ("electricity_per_kwh", plan.electricity_usd, "USD", MAX_USD),
        ("watts", plan.watts, "watts", MAX_WATTS),
    ):
        # Not a number is neither more nor less than anything.
        if amount is not None and not (math.isfinite(amount) and LEAST_AMOUNT <= amount <= most):
            raise _refused(name, amount, f"{unit}, from {LEAST_AMOUNT:f} to {most:.0f}")


def _base_url(text: str) -> str:
    """The address in one form, so that a slash at its end makes no other plan."""
    # What reads addresses imports Pillow and NumPy, 0.2 s that the usual address need not pay.
    from depthflux.bench.hosted.base_url import parse_base_url

    return parse_base_url(text).text


def _known_version(version: str) -> Version:
    from depthflux.bench.hosted.base_url import Version

    for known in get_args(Version):
        if version == known:
            found: Version = known
            return found
    raise _refused("api_version", version, " or ".join(get_args(Version)))


def _check_what_is_heeded(
    first_sides: Mapping[str, object], of_the_hosted: Mapping[str, object]
) -> None:
    """See that one first side is named, and nothing that it would pass over."""
    given = [name for name, value in first_sides.items() if value is not None]
    if len(given) > 1:
        raise _excluded(given[0], given[1], "each says what the first side is; leave one")
    for name, value in of_the_hosted.items():
        # A recording's price can be told afterwards.
        if not given or value is None or (given, name) == (["replay"], "price_per_picture"):
            continue
        raise _excluded(
            name,
            given[0],
            f"the hosted endpoint is not asked, so it would be passed over; leave {name}",
        )


def _check_limit(plan: ContestPlan) -> None:
    """See that a limit can be kept, is one on something, and lets anything be sent."""
    if plan.max_cost_usd is None:
        return
    if plan.first_side != HOSTED:
        other = "replay" if plan.first_side == "replay" else "against_profile"
        raise _excluded("max_cost", other, "nothing is paid for there; leave max_cost")
    if plan.price_usd is None:
        raise _refused(
            "max_cost",
            plan.max_cost_usd,
            "only together with the price of a picture, price_per_picture",
        )
    first = estimate(tasks_of(plan)[:1], plan.price_usd).usd
    if first is not None and first > exact(plan.max_cost_usd):
        raise _refused("max_cost", plan.max_cost_usd, f"{usd(first)}, what a task costs, or more")


def _folder(name: str, folder: Path | None) -> Path | None:
    """A folder that is there, its `~` replaced."""
    if folder is None:
        return None
    place = folder.expanduser()
    if place.is_dir():
        return place
    problem = "is no folder" if place.exists() else "is not there"
    raise InvalidParameterError(
        f"{name}={show(str(folder))} {problem}; allowed: the path of a folder.",
        field=name,
        value=str(folder),
        allowed="the path of a folder",
    )


def _profiles(
    profile: str | None, against_profile: str | None, environment: Mapping[str, str]
) -> list[str]:
    """The local profiles in the order they run, `auto` as the environment says."""
    usual = environment.get(f"{ENVIRONMENT_PREFIX}PROFILE") or AUTO
    given = [profile or AUTO] if against_profile is None else [against_profile, profile or AUTO]
    names = [usual if name == AUTO else name for name in given]
    if len(names) > 1 and names[0] == names[1]:
        raise InvalidParameterError(
            f"against_profile={show(names[0])} is the other side's profile, too; name two that "
            "differ with --profile and --against-profile.",
            field="against_profile",
            value=names[0],
        )
    return names


def _resolve(
    names: list[str], environment: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, EngineSettings]:
    """Each profile's effective settings; two sides must not turn out to be the same one."""
    effective: dict[str, EngineSettings] = {}
    for name in names:
        # What `auto` is needs torch, but a setting that is wrong is wrong with every profile.
        target = None if name == AUTO else name
        measured = measured_settings(name, environment=environment, settings=settings)
        effective[name] = resolve_settings(
            target, environment=environment, arguments=measured
        ).values
    if len(names) > 1 and AUTO not in names and effective[names[0]] == effective[names[1]]:
        raise InvalidParameterError(
            f"against_profile={show(names[0])} and profile={show(names[1])} come out as the same "
            "settings: those of the environment and the command line win over both; name two that "
            "differ.",
            field="against_profile",
            value=names[0],
        )
    return effective


def _refused(name: str, value: object, allowed: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{name}={show(value)} is refused; allowed: {allowed}.",
        field=name,
        value=value,
        allowed=allowed,
    )


def _excluded(name: str, other: str, reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{name} and {other} exclude each other: {reason} out.", field=name
    )
