"""What `depthflux bench hosted` asks for: which sides, what, how often, how, and for how much.

Everything that can be refused is refused here, before a key is used, a model is loaded or torch is
imported. Knows nothing of how sides answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from depthflux.bench.hosted.money import estimate, exact, usd
from depthflux.bench.hosted.suites import Case, Suite, load_suite
from depthflux.contract import SEED_COUNT
from depthflux.errors import InvalidParameterError, show
from depthflux.settings import ENVIRONMENT_PREFIX, EngineSettings, resolve_settings

HOSTED_URL = "https://api.wavespeed.ai"
Version = Literal["v2", "v3"]
DEFAULT_VERSION: Version = "v2"
#: What the official clients wait between two polls, and so what a person gets of their times.
DEFAULT_POLL_INTERVAL_S = 0.5
AUTO = "auto"

MAX_REPEAT, MAX_CONCURRENCY = 100, 32
POLL_INTERVAL_S = (0.1, 60.0)
#: More of any of these is a typing error.
MAX_USD, MAX_WATTS = 1_000_000.0, 100_000.0

#: What answers the first side's tasks.
FirstSide = Literal["hosted", "against", "replay"]


@dataclass(frozen=True)
class Task:
    """One request of one case in one repetition.

    Attributes:
        key: the case's name and the repetition, such as `red-cube-0`; no two tasks' are equal.
        case: which.
        repeat: which repetition, from 0.
        fields: what is sent less the control image, as JSON values.
    """

    key: str
    case: Case
    repeat: int
    fields: dict[str, Any]

    @property
    def pictures(self) -> int:
        """How many pictures are asked for."""
        return int(self.fields["num_images"])


@dataclass(frozen=True)
class ContestPlan:
    """A comparison, checked.

    Attributes:
        suite: what is asked for.
        profile: of the local side: a profile's name, a TOML file's path, or `auto`.
        against_profile: likewise of the first side where that is a local profile; else empty.
        base_url: of the hosted API; not asked where the first side is replayed or local.
        version: of the hosted API.
        repeat: repetitions of each case, 1 to 100, each with seeds of its own.
        concurrency: tasks under way at a time, 1 to 32.
        sync_mode: whether answers are awaited in the submission itself.
        poll_interval_s: seconds between two polls of a task, 0.1 to 60.
        price_usd: of a picture of the hosted side; None where not known.
        max_cost_usd: of all hosted pictures together; None for no limit.
        electricity_usd: price of a kWh; None where not known.
        watts: drawn by the local side while it works, where it cannot be measured; None: measured.
        settings: engine settings that win over the profiles', on both local sides.
        replay: an earlier run's folder, whose first side's answers are taken; None: asked anew.
        estimator: a Depth Anything folder that judges structure; None: the one beside the model.
        clip: a CLIP folder that judges agreement with the prompt; None: looked for.
        effective: by local profile what it resolved to, as JSON values; of `auto` all but what it
            decides itself, which needs torch.
    """

    suite: Suite
    profile: str
    against_profile: str
    base_url: str
    version: Version
    repeat: int
    concurrency: int
    sync_mode: bool
    poll_interval_s: float
    price_usd: float | None
    max_cost_usd: float | None
    electricity_usd: float | None
    watts: float | None
    settings: dict[str, Any] = field(default_factory=dict)
    replay: Path | None = None
    estimator: Path | None = None
    clip: Path | None = None
    effective: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def first_side(self) -> FirstSide:
        """What answers the first side's tasks."""
        if self.replay is not None:
            return "replay"
        return "against" if self.against_profile else "hosted"

    @property
    def profiles(self) -> tuple[str, ...]:
        """The local profiles, in the order they run."""
        return (self.against_profile, self.profile) if self.against_profile else (self.profile,)

    @property
    def needs_key(self) -> bool:
        """Whether the hosted API is asked."""
        return self.first_side == "hosted"


def make_plan(
    *,
    suite: str | Path,
    profile: str | None = None,
    against_profile: str | None = None,
    base_url: str | None = None,
    version: str = DEFAULT_VERSION,
    repeat: int = 1,
    concurrency: int = 1,
    sync_mode: bool = False,
    poll_interval_s: float = DEFAULT_POLL_INTERVAL_S,
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
    the hosted endpoint's own. `environment` are the process's variables, from which profiles take
    settings, too. `max_cost_usd` needs a price, and a first side that is paid.

    Raises:
        InvalidParameterError: a value is out of range, or two of them exclude each other.
        SettingsError: a profile or setting is unknown, or they cannot work together; or the base
            URL is none that a key may go to.
    """
    if against_profile is not None:
        _check_one_first_side(base_url, replay)
    names = _profiles(profile, against_profile, environment or {})
    plan = ContestPlan(
        suite=load_suite(suite),
        profile=names[-1],
        against_profile="" if against_profile is None else names[0],
        base_url=HOSTED_URL if base_url is None else _base_url(base_url),
        version=_known_version(version),
        repeat=repeat,
        concurrency=concurrency,
        sync_mode=sync_mode,
        poll_interval_s=poll_interval_s,
        price_usd=price_usd,
        max_cost_usd=max_cost_usd,
        electricity_usd=electricity_usd,
        watts=watts,
        settings=dict(settings or {}),
        replay=_folder("replay", replay),
        estimator=_folder("estimator", estimator),
        clip=_folder("clip", clip),
        effective=_resolve(names, environment or {}, settings or {}),
    )
    _check_numbers(plan)
    _check_limit(plan)
    return plan


def tasks_of(plan: ContestPlan) -> list[Task]:
    """Every task in the order it is sent: all cases, then all of them again.

    So a service that slows down or fails half-way leaves whole repetitions of all cases. Seeds go
    on from one repetition to the next by as many as a task has pictures: no picture is asked for
    twice, nor is a cache of whole answers measured.
    """
    return [
        Task(f"{case.name}-{repeat}", case, repeat, {**case.fields, "seed": _seed(case, repeat)})
        for repeat in range(plan.repeat)
        for case in plan.suite.cases
    ]


def fingerprint(plan: ContestPlan) -> str:
    """A sum of everything that decides what is sent to the first side and how, 64 hex digits.

    A run goes on only with a plan of the same. What only judges or counts is not in it, such as
    prices, limits and estimators: a limit may be raised, and then the run goes on. Nor is the
    local side, which costs nothing to be asked again.
    """
    decides: dict[str, Any] = {
        "suite": plan.suite.sha256,
        "repeat": plan.repeat,
        "concurrency": plan.concurrency,
        "poll_interval_s": float(plan.poll_interval_s),
        "sync_mode": plan.sync_mode,
        "first_side": plan.first_side,
    }
    if plan.first_side == "hosted":
        decides |= {"base_url": plan.base_url, "version": plan.version}
    if plan.first_side == "against":
        profile = plan.against_profile
        decides |= {"profile": profile, "settings": plan.effective[profile]}
    text = json.dumps(decides, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _seed(case: Case, repeat: int) -> int:
    return int((case.fields["seed"] + repeat * case.pictures) % SEED_COUNT)


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
        if amount is not None and not (math.isfinite(amount) and 0 < amount <= most):
            raise _refused(name, amount, f"{unit}, more than 0, at most {most:.0f}")


def _base_url(text: str) -> str:
    """The address in one form, so that a slash at its end makes no other plan."""
    # What reads addresses imports Pillow and NumPy, 0.2 s that the usual address need not pay.
    from depthflux.bench.hosted.base_url import parse_base_url

    return parse_base_url(text).text


def _known_version(version: str) -> Version:
    for known in get_args(Version):
        if version == known:
            found: Version = known
            return found
    raise _refused("api_version", version, " or ".join(get_args(Version)))


def _check_one_first_side(base_url: str | None, replay: Path | None) -> None:
    for name, given in (("replay", replay), ("base_url", base_url)):
        if given is not None:
            raise _excluded(name, "against_profile", "each says what the first side is; leave one")


def _check_limit(plan: ContestPlan) -> None:
    """See that a limit can be kept, is one on something, and lets anything be sent."""
    if plan.max_cost_usd is None:
        return
    if plan.first_side != "hosted":
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
) -> dict[str, dict[str, Any]]:
    """Each profile's effective settings; two sides must not turn out to be the same one."""
    effective: dict[str, dict[str, Any]] = {}
    for name in names:
        # What `auto` is needs torch, but a setting that is wrong is wrong with every profile.
        target = None if name == AUTO else name
        resolved = resolve_settings(target, environment=environment, arguments=settings)
        effective[name] = _plain(resolved.values)
    if len(names) > 1 and AUTO not in names and effective[names[0]] == effective[names[1]]:
        raise InvalidParameterError(
            f"against_profile={show(names[0])} and profile={show(names[1])} come out as the same "
            "settings: those of the environment and the command line win over both; name two that "
            "differ.",
            field="against_profile",
            value=names[0],
        )
    return effective


def _plain(settings: EngineSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


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
