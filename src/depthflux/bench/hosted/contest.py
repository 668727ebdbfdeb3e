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

from depthflux.bench.document import Document
from depthflux.bench.hosted.base_url import parse_base_url
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.comparing import compare
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.local_side import LocalSide
from depthflux.bench.hosted.manifest import write_manifest
from depthflux.bench.hosted.measures import Recorded, read_side
from depthflux.bench.hosted.money import Budget
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.plan import ContestPlan, Task, tasks_of
from depthflux.bench.hosted.plan_file import PlanFile, describe_plan, require_same
from depthflux.bench.hosted.profiles import LocalProfile, find_profile
from depthflux.bench.hosted.replaying import Replayed, recorded_tasks, replay
from depthflux.bench.hosted.reporting import describe_contest
from depthflux.bench.hosted.run_files import (
    AGAINST,
    HOSTED,
    LOCAL,
    PAGE,
    PLAN,
    REPORT,
    SIDE,
    SideFacts,
    SideName,
    read_part,
)
from depthflux.bench.hosted.running import GO_ON, Runner, Say, charged_pictures, pause
from depthflux.bench.hosted.sides import HOSTED_LONGEST_S, ServedSide
from depthflux.bench.hosted.suite_copy import write_suite
from depthflux.bench.hosted.untouched import require_untouched, restore_files
from depthflux.bench.quality.libraries import require_torchmetrics
from depthflux.bench.report.page import page
from depthflux.bench.wording import count
from depthflux.errors import (
    CancelledError,
    DepthFluxError,
    GenerationError,
    InvalidParameterError,
    OutputError,
    show,
)


def run_contest(plan: ContestPlan, *, key: str, out: Path, resume: bool, say: Say) -> Document:
    """Run a comparison in a folder, or go on with it.

    Args:
        plan: what is asked for.
        key: of the hosted API; not looked at where that is not asked, see `planning.needs_key`.
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
        GenerationError: a side cannot be reached or is broken; the run can be gone on with. Or it
            gave no picture at all; then the report says so, too.
        CancelledError: Ctrl-C; likewise.
    """
    if plan.replay is not None:
        _require_apart(out, plan.replay.path)
    contest = _Contest(plan, RunFolder(out), key, say)
    with contest.folder.held():
        contest.open(resume=resume)
        try:
            document = contest.run()
        except BaseException as error:
            contest.break_off(error)
            if isinstance(error, KeyboardInterrupt):
                told = f"cancelled; all that was answered is kept. {GO_ON}"
                raise CancelledError(told) from error
            raise
        write_manifest(contest.folder)
    _require_pictures(document)
    return document


class _Contest:
    """One run, with what its parts share."""

    def __init__(self, plan: ContestPlan, folder: RunFolder, key: str, say: Say) -> None:
        self.plan, self.folder, self._key, self._say = plan, folder, key, say
        self._tasks: Sequence[Task] = tasks_of(plan)
        self._stop = threading.Event()

    def open(self, *, resume: bool) -> None:
        """Begin the run in its folder, or see that it is the same one that is gone on with."""
        if self.plan.replay is not None:
            # Before anything is written: a recording of something else starts no run.
            recorded_tasks(self.plan.replay, self._tasks)
        asked = describe_plan(self.plan)
        if not resume:
            self.folder.begin(asked.model_dump(mode="json"))
            return
        self.folder.require_run()
        begun = read_part(self.folder.path, PLAN, PlanFile)
        require_same(self.folder.path, begun, asked)
        require_untouched(
            self.folder,
            self._tasks,
            sides=(self.plan.first_name, LOCAL),
            paid=HOSTED if self.plan.first_side == HOSTED else None,
        )
        self.folder.go_on()

    def run(self) -> Document:
        """Ask both sides, judge, and write the report."""
        if self.plan.first_side == HOSTED:
            for name in restore_files(self.folder, HOSTED, self._tasks):
                self._say(f"{name} was gone, and is written again: its id is known")
        write_suite(self.plan.suite, self.folder)
        # Before anything is asked for: a profile or a judge that cannot be had costs nothing yet.
        profiles = [find_profile(target, self.plan) for target in self.plan.profiles]
        names: tuple[SideName, ...] = (LOCAL, AGAINST)
        for name, profile in zip(names, reversed(profiles), strict=False):
            self._require_same_profile(name, profile)
        require_torchmetrics()
        with Judges.load(self.folder, self.plan, profiles[-1].values):
            pass  # kept are they only when the memory is free
        replayed = None
        if self.plan.first_side == HOSTED:
            self._run_hosted(profiles[-1])
        else:
            replayed = self._run_first(profiles[0])
            self._run_local(LOCAL, profiles[-1], self._answered())
        return self._report(profiles[-1], replayed)

    def break_off(self, reason: BaseException) -> None:
        """Leave the folder as what it is; that this fails, too, hides no error.

        Args:
            reason: what has ended the run. Of what cannot be written it says how to go on.
        """
        self._stop.set()
        is_full = isinstance(reason, OutputError)
        if is_full and GO_ON not in str(reason):
            reason.args = (f"{str(reason).removesuffix('.')}. {GO_ON}",)
        try:
            write_manifest(self.folder)
        except DepthFluxError as error:
            # A disk that is full is told once.
            if not is_full:
                self._say(f"the run's manifest is not written: {error}")

    def _require_same_profile(self, name: SideName, profile: LocalProfile) -> None:
        """See that a local side is gone on with as what it was: `auto` may come to another now.

        Raises:
            InvalidParameterError: its first tasks ran with another profile or other settings.
        """
        facts = self.folder.side(name)
        if facts is None or not facts.profile:
            return
        now = {"profile": profile.name, **profile.shown_settings}
        then = {"profile": facts.profile, **facts.settings}
        told = [
            f"{key} was {show(then.get(key))} and is {show(now.get(key))} now"
            for key in sorted(now.keys() | then.keys())
            if now.get(key) != then.get(key)
        ]
        if told:
            raise InvalidParameterError(
                f"{self.folder.path}: its side {name} was begun otherwise: {'; '.join(told)}; name "
                "another folder.",
                field="resume",
                allowed="the profile and settings that the side was begun with",
            )

    def _run_hosted(self, profile: LocalProfile) -> None:
        """The hosted side, paid for once the local one stands ready; then that."""
        with ExitStack() as stack:
            runner = None
            if not self.folder.is_settled(HOSTED, [task.key for task in self._tasks]):
                runner = self._hosted_runner(stack)
                runner.prepare()
            local = stack.enter_context(self._local_side(LOCAL, profile, self._tasks))
            if runner is not None:
                runner.run()
            local.run(self._answered())

    def _hosted_runner(self, stack: ExitStack) -> Runner:
        log = ExchangeLog()
        client = stack.enter_context(self._client(log))
        facts = SideFacts(
            name=HOSTED,
            label=client.authority,
            address=client.base_url,
            recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
            concurrency=self.plan.concurrency,
            poll_interval_seconds=self.plan.poll_interval_s,
            sync_mode=self.plan.sync_mode,
        )
        asking = Asking(
            poll_interval_s=self.plan.poll_interval_s,
            sync_mode=self.plan.sync_mode,
            longest_s=HOSTED_LONGEST_S,
            is_paid=True,
        )
        charged = charged_pictures(HOSTED, self._tasks, self.folder)
        side = ServedSide(client, log, facts, self.folder, asking, stop=self._stop)
        stack.callback(side.close)
        return Runner(
            side,
            self._tasks,
            self.folder,
            concurrency=self.plan.concurrency,
            budget=Budget(self.plan.price_usd, self.plan.max_cost_usd, charged_pictures=charged),
            stop=self._stop,
            say=self._say,
        )

    def _client(self, log: ExchangeLog) -> HostedClient:
        """The client of the hosted side; nobody is asked yet."""
        base = parse_base_url(self.plan.base_url)
        return HostedClient(
            self.plan.base_url,
            self._key,
            version=self.plan.version,
            # An http address is this machine's or a private network's, and so are its pictures.
            allow_private=base.scheme == "http",
            on_exchange=log.add,
            sleep=lambda seconds: pause(seconds, self._stop),
        )

    def _run_first(self, profile: LocalProfile) -> Replayed | None:
        """A first side that is not paid: an earlier recording, or another profile."""
        if self.plan.replay is None:
            self._run_local(AGAINST, profile, self._tasks)
            return None
        replayed = replay(self.plan.replay, self.folder, self._tasks)
        there = len(self._tasks) - replayed.missing
        self._say(f"{replayed.side}: {there} of {count(len(self._tasks), 'task')} replayed")
        return replayed

    def _answered(self) -> list[Task]:
        """The tasks that the first side was asked; the others have nothing to be compared with."""
        name = self.plan.first_name
        return [task for task in self._tasks if self.folder.is_done(name, [task.key])]

    def _run_local(self, name: SideName, profile: LocalProfile, tasks: Sequence[Task]) -> None:
        with self._local_side(name, profile, tasks) as side:
            side.run(tasks)

    def _local_side(
        self, name: SideName, profile: LocalProfile, tasks: Sequence[Task]
    ) -> LocalSide:
        return LocalSide(
            name, profile, self.plan, tasks, self.folder, stop=self._stop, say=self._say
        )

    def _report(self, profile: LocalProfile, replayed: Replayed | None) -> Document:
        sides = self._read(self.plan.first_name), self._read(LOCAL)
        with Judges.load(self.folder, self.plan, profile.values) as judges:
            comparison = compare(
                self.plan.suite,
                sides,
                self.folder,
                judges,
                say=self._say,
            )
            document = describe_contest(self.plan, sides, comparison, judges, replayed)
        self.folder.write_json(REPORT, document.model_dump(mode="json"))
        self.folder.write(PAGE, page(document, self.folder.path))
        return document

    def _read(self, name: SideName) -> Recorded:
        recorded = read_side(self.folder, name, self._tasks)
        if recorded is None:
            raise InvalidParameterError(
                f"{self.folder.path}: {name}/{SIDE} is gone, which says how the side was asked; "
                "put it back.",
                field="out",
            )
        return recorded


def _require_apart(out: Path, replayed: Path) -> None:
    """See that a run is not written into the recording that it replays, nor around it.

    Raises:
        InvalidParameterError: it would be.
    """
    ours, theirs = out.resolve(), replayed.resolve()
    if ours == theirs or ours in theirs.parents or theirs in ours.parents:
        raise InvalidParameterError(
            f"out={out} and replay={replayed} lie in each other, and a recording must stay as it "
            "is; name a folder beside it with --out.",
            field="out",
            value=str(out),
            allowed="a folder that neither holds the recording nor lies in it",
        )


def _require_pictures(document: Document) -> None:
    """See that each side gave a picture.

    Raises:
        GenerationError: one gave none, so that nothing is compared.
    """
    for side in document.sides:
        if side.counts.completed == 0:
            why = f"; the first: {side.failures[0].error}" if side.failures else ""
            raise GenerationError(
                f"{side.name} completed none of {count(side.counts.tasks, 'task')}, so nothing is "
                f"compared{why}. The report is written, and says of each task why."
            )
