"""What `depthflux bench hosted` is asked for: which sides, what, how often, how, and for how much.

Knows nothing of how sides answer, nor of what is refused, see `planning`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from depthflux.bench.hosted.replaying import Recording
from depthflux.bench.hosted.run_files import AGAINST, HOSTED
from depthflux.bench.hosted.suites import Case, Suite
from depthflux.contract import SEED_COUNT
from depthflux.settings import EngineSettings

if TYPE_CHECKING:
    from depthflux.bench.hosted.base_url import Version

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
        price_usd: of a picture of the hosted side, of a replayed one as it was then where it is not
            given now; None where not known.
        max_cost_usd: of all hosted pictures together; None for no limit.
        electricity_usd: price of a kWh; None where not known.
        watts: drawn by the local side while it works, where it cannot be measured; None: measured.
        settings: engine settings that win over the profiles', on both local sides.
        replay: an earlier run, whose first side's answers are taken; None: asked anew.
        estimator: a Depth Anything folder that judges structure; None: the one beside the model.
        clip: a CLIP folder that judges agreement with the prompt; None: looked for.
        effective: by local profile what it resolved to; of `auto` all but what it decides itself,
            which needs torch.
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
    replay: Recording | None = None
    estimator: Path | None = None
    clip: Path | None = None
    effective: dict[str, EngineSettings] = field(default_factory=dict)

    @property
    def first_side(self) -> FirstSide:
        """What answers the first side's tasks."""
        if self.replay is not None:
            return "replay"
        return AGAINST if self.against_profile else HOSTED

    @property
    def first_name(self) -> Literal["hosted", "against"]:
        """The first side's name, of a replayed one as it was then."""
        if self.replay is not None:
            return self.replay.plan.first_side
        return AGAINST if self.against_profile else HOSTED

    @property
    def profiles(self) -> tuple[str, ...]:
        """The local profiles, in the order they run."""
        return (self.against_profile, self.profile) if self.against_profile else (self.profile,)


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


def _seed(case: Case, repeat: int) -> int:
    return int((case.fields["seed"] + repeat * case.pictures) % SEED_COUNT)
