"""A worker's side of the store: taken up once, ended once, whatever a dead worker still says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine import Connection
from store_fixtures import DONE, PostgresDatabase, PostgresServer, Store, at_once

from depthflux.server.database import Database
from depthflux.server.jobs import Done
from depthflux.server.outbox import Outbox
from depthflux.server.rows import CANCELLED
from depthflux.server.schema import predictions

HOOK = "https://receiver.example/hook"


# Taking up --------------------------------------------------------------------------------------


def test_predictions_are_taken_up_in_the_order_of_acceptance(store: Store) -> None:
    ids = store.submit_several(5)

    claimed = [store.jobs.claim("worker") for _ in range(6)]

    assert [one.id if one else None for one in claimed] == [*ids, None]


def test_one_that_waits_again_comes_before_what_was_accepted_later(store: Store) -> None:
    first, second = store.submit_several(2)
    store.jobs.claim("worker")
    store.jobs.release("worker", most_attempts=3)

    claimed = [store.jobs.claim("another"), store.jobs.claim("another")]

    assert [one.id for one in claimed if one] == [first, second]


def test_what_is_taken_up_carries_its_lease_its_beginning_and_its_attempt(store: Store) -> None:
    id = store.submit().id

    one = store.jobs.claim("a lease")

    assert one is not None
    assert one == store.read(id)
    assert (one.status, one.lease, one.attempts) == ("processing", "a lease", 1)
    assert one.started_at is not None
    assert one.started_at >= one.created_at


def test_the_first_beginning_stays_though_it_is_taken_up_again(store: Store) -> None:
    one = store.running()
    store.set(one.id, started_at=1234)
    store.jobs.release("worker", most_attempts=3)

    again = store.jobs.claim("another")

    assert again is not None
    assert (again.started_at, again.attempts) == (1234, 2)


def test_whether_something_waits_is_known_without_taking_it_up(store: Store) -> None:
    answers = [store.jobs.attempts_of_next()]
    id = store.submit().id
    answers += [store.jobs.attempts_of_next(), store.jobs.attempts_of_next()]
    store.jobs.claim("worker")
    answers.append(store.jobs.attempts_of_next())

    assert answers == [None, 0, 0, None]
    assert store.read(id).attempts == 1


def test_how_often_the_one_that_waits_longest_was_begun_is_known_before_it_is_taken_up(
    store: Store,
) -> None:
    answers = []
    first, _ = store.submit_several(2)

    for _ in range(2):
        store.jobs.claim("worker")
        # Alone behind the first, which runs.
        answers.append(store.jobs.attempts_of_next())
        store.jobs.release("worker", most_attempts=9)
        answers.append(store.jobs.attempts_of_next())
    store.predictions.remove([first], "")
    answers.append(store.jobs.attempts_of_next())

    assert answers == [0, 1, 0, 2, 0]


def test_whether_something_waits_is_known_while_another_process_writes(database: Database) -> None:
    store = Store(database)
    store.submit()

    with database.writing():
        attempts = at_once(lambda _: store.jobs.attempts_of_next(), 1)

    assert attempts == [0]


def take_all(store: Store, lease: str) -> list[str]:
    taken = []
    while (one := store.jobs.claim(lease)) is not None:
        taken.append(one.id)
    return taken


def test_several_threads_take_each_prediction_up_once(store: Store) -> None:
    ids = store.submit_several(200)

    taken = at_once(lambda number: take_all(store, f"worker {number}"), 4)

    assert sorted(id for part in taken for id in part) == sorted(ids)
    for number, part in enumerate(taken):
        assert part == [id for id in ids if store.read(id).lease == f"worker {number}"]


def test_several_transactions_at_the_same_time_take_each_prediction_up_once(
    postgres: PostgresServer,
) -> None:
    """With PostgreSQL writers need not take turns: one passes over what another is taking."""
    store = Store(PostgresDatabase(postgres.address, in_turns=False))
    ids = store.submit_several(200)

    taken = at_once(lambda number: take_all(store, f"worker {number}"), 4)

    assert sorted(id for part in taken for id in part) == sorted(ids)
    store.database.close()


def test_what_another_transaction_is_taking_is_passed_over_and_not_waited_for(
    postgres: PostgresServer,
) -> None:
    impatient = f"{postgres.address}&options=-c%20lock_timeout%3D2000"
    store = Store(PostgresDatabase(impatient, in_turns=False))
    first, second = store.submit_several(2)

    with store.database.writing() as connection:
        connection.execute(
            select(predictions.c.id).where(predictions.c.id == first).with_for_update()
        )
        one = store.jobs.claim("worker")
        nothing = store.jobs.claim("worker")

    assert one is not None
    assert (one.id, nothing) == (second, None)
    store.database.close()


TAKE = """
import sys
from pathlib import Path
from depthflux.server.database import Database
from depthflux.server.jobs import Jobs

jobs = Jobs(Database(Path(sys.argv[1])))
while (one := jobs.claim(sys.argv[2])) is not None:
    print(one.id)
"""


def test_several_processes_take_each_prediction_up_once(database: Database, tmp_path: Path) -> None:
    store = Store(database)
    ids = store.submit_several(200)

    def take(number: int) -> list[str]:
        command = [sys.executable, "-c", TAKE, str(tmp_path), f"worker {number}"]
        return subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, timeout=60
        ).stdout.split()

    taken = at_once(take, 2)

    assert sorted(id for part in taken for id in part) == sorted(ids)


# Ending -----------------------------------------------------------------------------------------


def test_a_completed_prediction_has_its_pictures_and_its_times(store: Store) -> None:
    one = store.running()
    done = Done(
        model="a-model",
        outputs=["a-0.png", "a-1.png"],
        flags=[False, True],
        timings={"inference": 1234, "decode": 5},
    )

    assert store.jobs.complete(one.id, "worker", done)

    ended = store.read(one.id)
    assert (ended.status, ended.model, ended.lease) == ("completed", "a-model", "")
    assert (ended.outputs, ended.flags) == (["a-0.png", "a-1.png"], [False, True])
    assert ended.timings == {"inference": 1234, "decode": 5}
    assert (ended.code, ended.error) == (0, "")
    assert ended.finished_at is not None
    assert ended.is_over


def test_a_failed_prediction_says_why(store: Store) -> None:
    one = store.running()

    assert store.jobs.fail(one.id, "worker", 1402, "no picture there", "a-model")

    ended = store.read(one.id)
    assert (ended.status, ended.code, ended.error) == ("failed", 1402, "no picture there")
    assert (ended.model, ended.outputs, ended.lease) == ("a-model", [], "")
    assert ended.finished_at is not None


def end(store: Store, how: str, id: str, lease: str) -> bool:
    if how == "complete":
        return store.jobs.complete(id, lease, DONE)
    return store.jobs.fail(id, lease, 5000, "another error")


@pytest.mark.parametrize("second", ["complete", "fail"])
@pytest.mark.parametrize("first", ["complete", "fail"])
def test_a_prediction_ends_once(store: Store, first: str, second: str) -> None:
    one = store.running(webhook_url=HOOK)
    assert end(store, first, one.id, "worker")
    ended = store.read(one.id)

    again = end(store, second, one.id, "worker")

    assert not again
    assert store.read(one.id) == ended


@pytest.mark.parametrize("how", ["complete", "fail"])
@pytest.mark.parametrize("lease", ["another", "", "worker%", "WORKER"])
def test_only_who_holds_the_lease_ends_a_prediction(store: Store, how: str, lease: str) -> None:
    one = store.running()

    assert not end(store, how, one.id, lease)
    assert store.read(one.id) == one


@pytest.mark.parametrize("how", ["complete", "fail"])
def test_a_prediction_ends_once_whatever_an_earlier_worker_says(store: Store, how: str) -> None:
    one = store.running(lease="dead")
    store.jobs.release("dead", most_attempts=3)

    said_while_it_waits = end(store, how, one.id, "dead")
    store.jobs.claim("living")
    said_while_another_works = end(store, how, one.id, "dead")
    ended = store.jobs.complete(one.id, "living", DONE)
    said_after_its_end = end(store, how, one.id, "dead")

    assert [said_while_it_waits, said_while_another_works, said_after_its_end] == [False] * 3
    assert ended
    assert store.read(one.id).outputs == DONE.outputs


def test_of_several_threads_that_end_a_prediction_one_does(store: Store) -> None:
    one = store.running(webhook_url=HOOK)

    ended = at_once(lambda n: end(store, ("complete", "fail")[n % 2], one.id, "worker"), 8)

    assert sum(ended) == 1
    assert len(Outbox(store.database).due(0, 10)) == 1


@pytest.mark.parametrize("how", ["complete", "fail"])
def test_one_that_waits_cannot_be_ended_without_having_been_taken_up(
    store: Store, how: str
) -> None:
    one = store.submit()

    assert not end(store, how, one.id, "")
    assert store.read(one.id) == one


# The webhook ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["complete", "fail"])
def test_who_is_to_be_told_is_put_into_the_outbox_when_it_ends(store: Store, how: str) -> None:
    silent, told = store.running(), store.running(webhook_url=HOOK)
    outbox = Outbox(store.database)
    before = outbox.due(0, 10)

    for one in (silent, told):
        assert end(store, how, one.id, "worker")

    assert before == []
    assert [letter.prediction for letter in outbox.due(0, 10)] == [store.read(told.id)]
    assert outbox.state(silent.id) is None


class DiskFullError(Exception):
    """What the database says in the middle of a transaction."""


@pytest.mark.parametrize("how", ["complete", "fail", "release", "cancel"])
def test_a_prediction_ends_and_is_told_of_in_one_transaction_or_not_at_all(
    store: Store, how: str
) -> None:
    one = store.submit(webhook_url=HOOK)
    if how != "cancel":
        store.jobs.claim("worker")
    before = store.read(one.id)

    def refuse(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO webhooks"):
            raise DiskFullError

    def end_it() -> None:
        if how == "release":
            store.jobs.release("worker", most_attempts=1)
        elif how == "cancel":
            store.predictions.cancel(one.id, "")
        else:
            end(store, how, one.id, "worker")

    event.listen(store.database.engine, "before_cursor_execute", refuse)
    with pytest.raises(DiskFullError):
        end_it()
    event.remove(store.database.engine, "before_cursor_execute", refuse)
    after_the_failure = store.read(one.id)
    end_it()

    assert after_the_failure == before
    assert store.read(one.id).is_over
    assert Outbox(store.database).state(one.id) == ("waiting", 0, "")


# Taking leases back -----------------------------------------------------------------------------


def test_what_a_dead_worker_held_waits_again_and_its_attempt_counts(store: Store) -> None:
    one = store.running()

    failed = store.jobs.release("worker", most_attempts=3)

    assert failed == []
    waiting = store.read(one.id)
    assert (waiting.lease, waiting.attempts, waiting.finished_at) == ("", 1, None)
    assert store.jobs.attempts_of_next() == 1


def test_what_kills_its_workers_fails_after_so_many_attempts_and_says_so(store: Store) -> None:
    one = store.submit(webhook_url=HOOK)
    failed = []

    for _ in range(3):
        assert store.jobs.claim("worker") is not None
        failed.append(store.jobs.release("worker", most_attempts=3))

    ended = store.read(one.id)
    assert failed == [[], [], [one.id]]
    assert (ended.status, ended.code, ended.attempts) == ("failed", 1405, 3)
    assert ended.error == "The worker ended unexpectedly in each of 3 attempts."
    assert (ended.lease, store.jobs.claim("worker")) == ("", None)
    assert ended.finished_at is not None
    assert Outbox(store.database).state(one.id) == ("waiting", 0, "")


def test_the_errors_of_failed_predictions_do_not_make_old_clients_try_again() -> None:
    """They look for these words in `data.error`, as the hosted service's clients do."""
    texts = [CANCELLED, "The worker ended unexpectedly in each of 3 attempts."]

    for word in ("http 5", "429", "timeout", "connection"):
        assert not any(word in text.lower() for text in texts)


def test_what_was_to_be_stopped_is_not_begun_again(store: Store) -> None:
    one = store.running(webhook_url=HOOK)
    store.predictions.cancel(one.id, "")

    failed = store.jobs.release("worker", most_attempts=3)

    ended = store.read(one.id)
    assert failed == [one.id]
    assert (ended.status, ended.code, ended.error) == ("failed", 1405, CANCELLED)
    assert Outbox(store.database).state(one.id) == ("waiting", 0, "")


def test_an_attempt_that_the_server_itself_broke_off_does_not_count(store: Store) -> None:
    one = store.submit()

    for _ in range(5):
        assert store.jobs.claim("worker") is not None
        assert store.jobs.release("worker", most_attempts=1, counted=False) == []

    assert store.read(one.id).attempts == 0
    assert store.jobs.attempts_of_next() == 0


def test_a_lease_is_taken_back_from_its_worker_alone(store: Store) -> None:
    mine = store.running(lease="mine")
    others = store.running(lease="others")
    waiting = store.submit()

    store.jobs.release("mine", most_attempts=3)

    assert store.read(mine.id).lease == ""
    assert store.read(others.id) == others
    assert store.read(waiting.id) == waiting


def test_taking_back_a_lease_that_holds_nothing_changes_nothing(store: Store) -> None:
    ended, waiting = store.completed(), store.submit()

    assert store.jobs.release("worker", most_attempts=1) == []
    assert store.jobs.release("", most_attempts=1) == []
    assert store.jobs.release_all_but((), most_attempts=1) == []
    assert (store.read(ended.id), store.read(waiting.id)) == (ended, waiting)


def test_every_lease_but_those_of_living_workers_is_taken_back(store: Store) -> None:
    dead = [store.running(lease=f"dead {number}") for number in range(2)]
    stopped = store.running(lease="dead 0")
    store.predictions.cancel(stopped.id, "")
    living = store.running(lease="living")

    failed = store.jobs.release_all_but(["living"], most_attempts=2)

    assert failed == [stopped.id]
    assert [store.read(one.id).lease for one in dead] == ["", ""]
    assert store.read(living.id) == living
    assert store.jobs.release_all_but([], most_attempts=1) == [living.id]


def test_one_is_gone_when_it_was_deleted_and_not_when_it_was_cancelled(store: Store) -> None:
    one = store.running()
    gone = [store.jobs.is_gone(one.id)]
    store.predictions.cancel(one.id, "")
    gone.append(store.jobs.is_gone(one.id))
    store.predictions.remove([one.id], "")
    gone.append(store.jobs.is_gone(one.id))

    assert gone == [False, False, True]
