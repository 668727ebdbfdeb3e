"""The webhooks that are to be sent, and the secrets that sign them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import update
from store_fixtures import Store, at_once

from depthflux.server.outbox import Letter, Outbox
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
    assert outbox.due(0, 10) == [Letter(prediction=store.read(id), attempts=0)]


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
