"""The webhooks that are to be sent, and the secrets that sign them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import update
from store_fixtures import Store, at_once

from depthflux.server.outbox import Letter, Outbox, host_of
from depthflux.server.schema import webhooks

HOOK = "https://receiver.example/hook"


def due_at(store: Store, id: str, next_at: int) -> None:
    with store.database.writing() as connection:
        connection.execute(
            update(webhooks).where(webhooks.c.prediction == id).values(next_at=next_at)
        )


def told(store: Store, **changes: Any) -> str:
    """The id of a prediction that has ended and has a webhook."""
    return store.completed(webhook_url=HOOK, **changes).id


def test_what_has_ended_is_due_at_once(store: Store) -> None:
    outbox = Outbox(store.database)
    nothing = (outbox.next_at(), outbox.due(2**53, 10))
    id = told(store)

    assert nothing == (None, [])
    assert outbox.next_at() == 0
    assert outbox.due(0, 10) == [
        Letter(prediction=store.read(id), attempts=0, host="receiver.example")
    ]


def test_the_longest_due_is_first_and_no_more_are_given_than_are_asked_for(store: Store) -> None:
    outbox = Outbox(store.database)
    ids = [told(store) for _ in range(4)]
    for id, next_at in zip(ids, (300, 100, 200, 100), strict=True):
        due_at(store, id, next_at)

    def due(now: int, most: int) -> list[int]:
        return [ids.index(letter.prediction.id) for letter in outbox.due(now, most)]

    assert due(300, 10) == [1, 3, 2, 0]
    assert due(300, 3) == [1, 3, 2]
    assert due(299, 10) == [1, 3, 2]
    assert due(99, 10) == []
    assert outbox.next_at() == 100


def test_letters_to_hosts_that_are_told_enough_are_passed_over(store: Store) -> None:
    outbox = Outbox(store.database)
    urls = [
        "https://a.example/x",
        "HTTPS://A.example:443/y",
        "https://a.example:444/",
        "http://b.example",
    ]
    ids = [store.completed(webhook_url=url).id for url in urls]

    def due(*but: str) -> list[int]:
        return [ids.index(letter.prediction.id) for letter in outbox.due(0, 10, but)]

    assert due() == [0, 1, 2, 3]
    assert due("a.example") == [2, 3]
    assert due("a.example", "a.example:444") == [3]
    assert due("a.example", "a.example:444", "b.example", "c.example") == []
    assert [letter.host for letter in outbox.due(0, 10)][1:3] == ["a.example", "a.example:444"]


def test_a_url_that_nobody_can_read_has_a_host_all_the_same() -> None:
    assert host_of("no url") == host_of("https://user@a.example/")


def test_what_became_of_an_attempt_is_noted_and_counted(store: Store) -> None:
    outbox = Outbox(store.database)
    id = told(store)

    states = [outbox.state(id)]
    outbox.note(id, state="waiting", next_at=5000, problem="the receiver answered 500")
    states.append(outbox.state(id))
    later = [(letter.prediction.id, letter.attempts) for letter in outbox.due(5000, 10)]
    too_early = outbox.due(4999, 10)
    outbox.note(id, state="delivered")
    states.append(outbox.state(id))

    assert states == [
        ("waiting", 0, ""),
        ("waiting", 1, "the receiver answered 500"),
        ("delivered", 2, ""),
    ]
    assert later == [(id, 1)]
    assert too_early == []


def test_what_is_due_later_than_its_own_pause_can_last_is_due_now(store: Store) -> None:
    outbox = Outbox(store.database)
    early, late, second, ended = (told(store) for _ in range(4))
    outbox.note(early, state="waiting", next_at=107_000)
    outbox.note(late, state="waiting", next_at=107_001)
    outbox.note(second, state="waiting")
    outbox.note(second, state="waiting", next_at=115_000)
    outbox.note(ended, state="given_up", next_at=900_000)

    counts = [outbox.bring_forward((2.0, 10.0), lambda: 100_000) for _ in range(2)]

    assert counts == [1, 0]
    assert [letter.prediction.id for letter in outbox.due(100_000, 10)] == [late]


def test_what_fails_while_the_clock_is_looked_at_waits_for_its_whole_pause(store: Store) -> None:
    outbox, pauses_s = Outbox(store.database), (2.0,)
    id = told(store)

    def clock() -> int:
        """Read before another thread notes a failure, which is half a second later."""
        outbox.note(id, state="waiting", next_at=100_500 + 2_000)
        return 100_000

    count = outbox.bring_forward(pauses_s, clock)

    assert count == 0
    assert outbox.due(102_499, 10) == []


def test_the_time_that_the_turn_at_writing_was_waited_for_does_not_count(store: Store) -> None:
    outbox, pauses_s = Outbox(store.database), (2.0,)
    id = told(store)
    outbox.note(id, state="waiting", next_at=110_000)
    # As late as that, the letter's pause is no longer too long.
    times = iter([100_000, 109_000])

    count = outbox.bring_forward(pauses_s, lambda: next(times))

    assert count == 0
    assert outbox.due(109_999, 10) == []


@pytest.mark.parametrize("state", ["delivered", "given_up"])
def test_what_was_received_or_given_up_is_not_due_any_more(store: Store, state: Any) -> None:
    outbox = Outbox(store.database)
    id, other = told(store), told(store)

    outbox.note(id, state=state, problem="why")

    assert [letter.prediction.id for letter in outbox.due(2**53, 10)] == [other]
    outbox.note(other, state=state)
    assert outbox.next_at() is None


def test_a_prediction_without_a_webhook_has_no_state(store: Store) -> None:
    outbox = Outbox(store.database)

    assert outbox.state(store.completed().id) is None
    assert outbox.state("0" * 32) is None


def test_noting_what_became_of_one_that_was_deleted_meanwhile_is_no_error(store: Store) -> None:
    outbox = Outbox(store.database)
    id = told(store)
    store.predictions.remove([id], "")

    outbox.note(id, state="delivered")

    assert outbox.state(id) is None
    assert outbox.due(2**53, 10) == []


# Secrets ----------------------------------------------------------------------------------------


def test_a_secret_has_the_hosted_prefix_and_32_bytes_of_randomness(store: Store) -> None:
    secret = Outbox(store.database).secret("me")

    assert re.fullmatch(r"whsec_[0-9a-f]{64}", secret)


def test_an_owner_keeps_the_secret_and_no_other_has_it(store: Store) -> None:
    first = Outbox(store.database)
    mine, yours, nobodys = (first.secret(owner) for owner in ("me", "you", ""))

    again = Outbox(store.database)

    assert [again.secret(owner) for owner in ("me", "you", "")] == [mine, yours, nobodys]
    assert len({mine, yours, nobodys}) == 3


def test_eight_threads_that_ask_first_are_given_one_secret(store: Store) -> None:
    outbox = Outbox(store.database)

    secrets = at_once(lambda _: outbox.secret("me"), 8)

    assert len(set(secrets)) == 1
    assert outbox.secret("me") == secrets[0]
