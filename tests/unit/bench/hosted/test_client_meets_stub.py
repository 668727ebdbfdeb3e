"""The real client and side against the stand-in that was written from the documentation alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosted_stub import Behaviour, Failure, HostedStub
from run_fixtures import facts, make_suite, tasks_of_suite

from depthflux.bench.document import Side
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.errors import UnusableOutputError
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.measures import Prices, describe_side, read_side
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.outcomes import Outcome
from depthflux.bench.hosted.sides import ServedSide

KEY = "a-key-of-these-tests-0123456789"
OPTIONAL = ("timings", "has_nsfw_contents", "executionTime", "created_at", "urls")
VERSIONS = ("v2", "v3")


class Met:
    """A side that asks a stub for one case, as a run does."""

    def __init__(self, side: ServedSide, folder: RunFolder, path: Path, fields: Any) -> None:
        self.folder, self.side = folder, side
        self.tasks = tasks_of_suite(make_suite(path, ["ant"], **fields), repeat=2)
        side.prepare(self.tasks)

    def ask(self, number: int = 0) -> Outcome:
        outcome = self.side.ask(self.tasks[number])
        self.folder.task("hosted", outcome.task).end(outcome)
        return outcome

    def follow(self, number: int = 0) -> Outcome:
        """As a later run does."""
        return self.side.follow(self.tasks[number])

    def described(self) -> Side:
        recorded = read_side(self.folder, "hosted", self.tasks)
        assert recorded is not None
        return describe_side(recorded, Prices(None, None, None), is_recorded=False)


@contextmanager
def met(
    stub: HostedStub, path: Path, *, version: Any = "v3", sync_mode: bool = False, **fields: Any
) -> Iterator[Met]:
    """The stub must be started; waits before another attempt are real ones, of a second at most."""
    run, stop, log = RunFolder(path / "run"), threading.Event(), ExchangeLog()
    run.path.mkdir()
    asking = Asking(poll_interval_s=0.01, sync_mode=sync_mode, longest_s=30, is_paid=True)
    client = HostedClient(
        stub.base_url,
        KEY,
        version=version,
        allow_private=True,
        on_exchange=log.add,
        sleep=lambda seconds: (stop.wait(min(seconds, 1.0)), None)[1],
    )
    with client:
        side = ServedSide(client, log, facts(), run, asking, stop=stop)
        try:
            yield Met(side, run, path, fields)
        finally:
            side.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "missing",
    [*[{name} for name in OPTIONAL], set(OPTIONAL)],
    ids=lambda missing: "-".join(sorted(missing)),
)
def test_a_field_that_is_not_always_there_is_missed_by_nobody(
    tmp_path: Path, version: str, missing: set[str]
) -> None:
    behaviour = Behaviour(missing=missing, inference_ms=2, null_error=True)

    with HostedStub(KEY, behaviour) as stub, met(stub, tmp_path, version=version) as asked:
        outcome = asked.ask()

    assert (outcome.status, outcome.error) == ("completed", "")
    assert outcome.times is not None
    has_inference = not {"timings", "executionTime"} <= missing
    assert outcome.times.inference_seconds == (0.002 if has_inference else None)
    flagged = None if "has_nsfw_contents" in missing else False
    assert [picture.flagged for picture in outcome.pictures] == [flagged]


def test_where_the_service_s_patience_in_sync_mode_ends_the_task_is_polled_on(
    tmp_path: Path,
) -> None:
    with (
        HostedStub(KEY, Behaviour(sync_expires=True)) as stub,
        met(stub, tmp_path, sync_mode=True) as asked,
    ):
        outcome = asked.ask()
        charged = stub.charged

    assert (outcome.status, charged) == ("completed", 1)
    assert outcome.polls > 0
    assert outcome.times is not None
    assert outcome.times.submit_seconds is None


@pytest.mark.parametrize(
    ("floored", "size", "exact"), [(False, (864, 1636), 1), (True, (864, 1632), 0)]
)
def test_a_picture_of_another_size_than_asked_is_counted(
    tmp_path: Path, floored: bool, size: tuple[int, int], exact: int
) -> None:
    with (
        HostedStub(KEY, Behaviour(floor_to_16=floored)) as stub,
        met(stub, tmp_path, size="864*1636") as asked,
    ):
        (picture,) = asked.ask().pictures
        counts = asked.described().counts

    assert (picture.width, picture.height) == size
    assert (counts.pictures, counts.exact_size) == (1, exact)


def test_beyond_the_service_s_rate_it_is_waited_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    behaviour = Behaviour(images_per_minute=1, minute_s=1.0, retry_after=1)

    with HostedStub(KEY, behaviour) as stub, met(stub, tmp_path) as asked:
        first, second = asked.ask(0), asked.ask(1)
        charged = stub.charged

    assert [first.status, second.status] == ["completed"] * 2
    assert (first.retries, charged) == (0, 2)
    assert second.retries >= 1


SHAPES = ("both", "message", "error", "html", "empty")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_poll_that_fails_for_a_while_costs_no_picture_whatever_the_error_looks_like(
    tmp_path: Path, shape: str
) -> None:
    behaviour = Behaviour(error_shape=shape, poll_errors={0: 503, 1: 429, 2: 500})

    with HostedStub(KEY, behaviour) as stub, met(stub, tmp_path) as asked:
        outcome = asked.ask()

    assert (outcome.status, outcome.retries) == ("completed", 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refused_parameter_fails_its_task_unpaid_in_one_line_whatever_the_error_looks_like(
    tmp_path: Path, shape: str
) -> None:
    with (
        HostedStub(KEY, Behaviour(error_shape=shape)) as stub,
        met(stub, tmp_path, num_inference_steps=4000) as asked,
    ):
        outcome = asked.ask()
        charged = stub.charged

    assert (outcome.status, outcome.code, outcome.is_charged) == ("failed", 400, False)
    assert charged == 0
    assert outcome.error
    assert outcome.error.isprintable()


def test_a_task_that_the_service_fails_is_paid_and_says_what_the_service_said(
    tmp_path: Path,
) -> None:
    failing = {0: Failure("Content moderation.", 1200)}.get

    with HostedStub(KEY, Behaviour(failing=failing)) as stub, met(stub, tmp_path) as asked:
        outcome = asked.ask()

    assert (outcome.status, outcome.code, outcome.is_charged) == ("failed", 1200, True)
    assert outcome.error == "Content moderation"


def test_where_the_service_says_that_states_lie_elsewhere_nobody_follows(tmp_path: Path) -> None:
    with (
        HostedStub("another-key") as elsewhere,
        HostedStub(KEY, Behaviour(urls_elsewhere=elsewhere.base_url)) as stub,
        met(stub, tmp_path) as asked,
    ):
        outcome = asked.ask()
        seen = elsewhere.requests

    assert outcome.status == "completed"
    assert seen == []


def test_outputs_that_lie_elsewhere_are_asked_for_without_the_key(tmp_path: Path) -> None:
    with (
        HostedStub("another-key") as elsewhere,
        HostedStub(KEY, Behaviour(outputs_elsewhere=elsewhere.cdn_url)) as stub,
        met(stub, tmp_path) as asked,
    ):
        with pytest.raises(UnusableOutputError, match="404"):
            asked.ask()
        outcome = asked.follow()
        seen = elsewhere.requests

    # The other one has no such picture.
    assert (outcome.status, outcome.code, outcome.is_charged) == ("failed", 404, True)
    assert len(seen) >= 1
    assert KEY not in repr(seen)
