"""The whole run: first side, local side, judging, document, page, manifest.

    begin or go on ─▶ first side ─▶ local side ─▶ judge and compare ─▶ report.json, report.html
                      └────────── whatever ends it: manifest.json, last ──────────┘

A hosted side is paid, so whatever can go wrong for free goes wrong first: control images are
uploaded, which tries the key, and judges and the local server are loaded, before anything is
submitted.

Knows the parts and their order; what each does is its own room's business.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from depthflux.bench.hosted.base_url import parse_base_url
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.comparing import compare
from depthflux.bench.hosted.controls import write_controls
from depthflux.bench.hosted.document import Document
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.folder import PAGE, PLAN, REPORT, RunFolder, SideFacts, read_part
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.local_side import LocalSide
from depthflux.bench.hosted.manifest import verify, write_manifest
from depthflux.bench.hosted.measures import Recorded, read_side
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.plan import ContestPlan, Task, fingerprint, tasks_of
from depthflux.bench.hosted.profiles import LocalProfile, find_profile
from depthflux.bench.hosted.replaying import PlanFile, Replayed, replay
from depthflux.bench.hosted.reporting import command_here, describe_contest
from depthflux.bench.hosted.running import GO_ON, Runner, Say, charged_pictures, pause
from depthflux.bench.hosted.sides import HOSTED_LONGEST_S, ServedSide
from depthflux.bench.quality.libraries import require_torchmetrics
from depthflux.bench.report.page import page
from depthflux.errors import CancelledError, InvalidParameterError, show

LOCAL, AGAINST, HOSTED = "local", "against", "hosted"


def run_contest(plan: ContestPlan, *, key: str, out: Path, resume: bool, say: Say) -> Document:
    """Run a comparison in a folder, or go on with it.

    Args:
        plan: what is asked for.
        key: of the hosted API; not looked at where that is not asked.
        out: the run's folder: new or empty, or with `resume` that of an earlier run.
        resume: go on with what the folder holds; nothing is sent again that may have been paid.
        say: told what is being done, line by line.

    Returns:
        The document, which is written into the folder together with its page.

    Raises:
        OutputError: the folder cannot be used.
        InvalidParameterError: the folder or the replayed one is not what it should be, or
            `resume` was given with another plan.
        SetupError: the key or the base address is refused, or a model cannot be loaded.
        GenerationError: a side cannot be reached or is broken; the run can be gone on with.
        CancelledError: Ctrl-C; likewise.
    """
    contest = _Contest(plan, RunFolder(out), say)
    with ExitStack() as stack:
        client = None
        if plan.first_side == "hosted":
            client = stack.enter_context(contest.make_client(key))
        stack.enter_context(contest.folder.held())
        contest.open(resume=resume)
        try:
            return contest.run(client)
        except KeyboardInterrupt as error:
            raise CancelledError(f"cancelled; all that was answered is kept. {GO_ON}") from error
        finally:
            write_manifest(contest.folder)


class _Contest:
    """One run, with what its parts share."""

    def __init__(self, plan: ContestPlan, folder: RunFolder, say: Say) -> None:
        self.plan, self.folder, self._say = plan, folder, say
        self._tasks: Sequence[Task] = tasks_of(plan)
        self._stop = threading.Event()
        self._log = ExchangeLog()
        self._first_name = HOSTED if plan.first_side == "hosted" else AGAINST
        if plan.replay is not None:
            # Seen before anything is written: a recording that was changed starts no run.
            verify(plan.replay)
            self._first_name = read_part(plan.replay, PLAN, PlanFile).first_side

    def make_client(self, key: str) -> HostedClient:
        """The client of the hosted side; nobody is asked yet."""
        base = parse_base_url(self.plan.base_url)
        return HostedClient(
            self.plan.base_url,
            key,
            version=self.plan.version,
            # An http address is this machine's or a private network's, and so are its pictures.
            allow_private=base.scheme == "http",
            on_exchange=self._log.add,
            sleep=lambda seconds: pause(seconds, self._stop),
        )

    def open(self, *, resume: bool) -> None:
        """Begin the run in its folder, or see that it is the same one that is gone on with."""
        asked = self._plan_file()
        if not resume:
            self.folder.begin(asked.model_dump(mode="json"))
            return
        self.folder.require_run()
        begun = read_part(self.folder.path, PLAN, PlanFile)
        if begun.fingerprint != asked.fingerprint:
            raise _other_plan(self.folder.path, begun, asked)
        self.folder.go_on()

    def run(self, client: HostedClient | None) -> Document:
        """Ask both sides, judge, and write the report."""
        write_controls(self.plan.suite, self.folder)
        replayed = None
        if client is not None:
            profile = self._run_hosted(client)
        else:
            replayed = self._run_first()
            profile = find_profile(self.plan.profile, self.plan)
            self._run_local(LOCAL, profile)
        sides = self._read(self._first_name), self._read(LOCAL)
        return self._report(sides, profile, replayed)

    def _run_hosted(self, client: HostedClient) -> LocalProfile:
        """The hosted side, paid for once the local one stands ready; then that."""
        charged = charged_pictures(HOSTED, self._tasks, self.folder)
        facts = SideFacts(
            name=HOSTED,
            label=client.authority,
            address=client.base_url,
            recorded_at=_now(),
        )
        asking = Asking(
            poll_interval_s=self.plan.poll_interval_s,
            sync_mode=self.plan.sync_mode,
            longest_s=HOSTED_LONGEST_S,
            is_paid=True,
        )
        with ExitStack() as stack:
            side = ServedSide(client, self._log, facts, self.folder, asking, stop=self._stop)
            stack.callback(side.close)
            runner = Runner(
                side,
                self._tasks,
                self.folder,
                concurrency=self.plan.concurrency,
                budget=Budget(
                    self.plan.price_usd, self.plan.max_cost_usd, charged_pictures=charged
                ),
                stop=self._stop,
                say=self._say,
            )
            runner.prepare()
            profile = find_profile(self.plan.profile, self.plan)
            self._check_judges(profile)
            local = stack.enter_context(self._local_side(LOCAL, profile))
            runner.run()
            local.run()
        return profile

    def _check_judges(self, profile: LocalProfile) -> None:
        """See that everybody who judges can be loaded; kept are they only when memory is free."""
        require_torchmetrics()
        Judges.load(self.folder, self.plan, profile.values)

    def _run_first(self) -> Replayed | None:
        """A first side that is not paid: an earlier recording, or another profile."""
        if self.plan.replay is None:
            self._run_local(AGAINST, find_profile(self.plan.against_profile, self.plan))
            return None
        replayed = replay(
            self.plan.replay, self.folder, self._tasks, suite_sha256=self.plan.suite.sha256
        )
        there = len(self._tasks) - replayed.missing
        self._say(f"{replayed.side}: {there} of {len(self._tasks)} tasks are replayed")
        return replayed

    def _run_local(self, name: str, profile: LocalProfile) -> None:
        with self._local_side(name, profile) as side:
            side.run()

    def _local_side(self, name: str, profile: LocalProfile) -> LocalSide:
        return LocalSide(
            name, profile, self.plan, self._tasks, self.folder, stop=self._stop, say=self._say
        )

    def _report(
        self,
        sides: tuple[Recorded, Recorded],
        profile: LocalProfile,
        replayed: Replayed | None,
    ) -> Document:
        judges = Judges.load(self.folder, self.plan, profile.values)
        try:
            comparison = compare(
                self.plan.suite,
                sides,
                self.folder,
                judges,
                # Profiles of this machine draw alike; of another stack nobody knows.
                same_noise=bool(sides[0].facts.profile),
                say=self._say,
            )
        finally:
            judges.close()
        document = describe_contest(self.plan, sides, comparison, judges, replayed)
        self.folder.write_json(REPORT, document.model_dump(mode="json"))
        self.folder.write(PAGE, page(document, self.folder.path))
        return document

    def _read(self, name: str) -> Recorded:
        recorded = read_side(self.folder, name, self._tasks)
        if recorded is None:
            raise InvalidParameterError(
                f"{self.folder.path}: there is nothing of the side {name} in it; run it anew.",
                field="out",
            )
        return recorded

    def _plan_file(self) -> PlanFile:
        plan = self.plan
        return PlanFile(
            fingerprint=fingerprint(plan),
            first_side=self._first_name,
            suite=plan.suite.name,
            suite_sha256=plan.suite.sha256,
            repeat=plan.repeat,
            concurrency=plan.concurrency,
            poll_interval_s=plan.poll_interval_s,
            sync_mode=plan.sync_mode,
            price_usd=plan.price_usd,
            begun_at=_now(),
            command=command_here(),
        )


def _other_plan(folder: Path, begun: PlanFile, asked: PlanFile) -> InvalidParameterError:
    """The error of a run that is gone on with otherwise than it was begun."""
    names = ("suite", "suite_sha256", "repeat", "concurrency", "poll_interval_s", "sync_mode")
    told = [
        f"{name} was {show(getattr(begun, name))} and is {show(getattr(asked, name))} now"
        for name in names
        if getattr(begun, name) != getattr(asked, name)
    ]
    what = "; ".join(told) or "the sides, profiles or settings are others"
    return InvalidParameterError(
        f"{folder}: this run was begun with other options: {what}; give the same ones with "
        "--resume, or name another folder.",
        field="resume",
        allowed="the options that the run was begun with",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
