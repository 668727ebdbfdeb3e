"""Owners take turns: many waiting predictions of one keep no other's from being next."""

from __future__ import annotations

import pytest
from store_fixtures import PostgresDatabase, PostgresServer, Store, at_once, new_prediction

from depthflux.errors import BusyError
from depthflux.server.rows import Caps


def claim(store: Store) -> str:
    """Whose prediction is taken up, and which of theirs; empty where none waits."""
    one = store.jobs.claim("worker")
    return "" if one is None else f"{one.owner}{one.fields['prompt']}"


def submit(store: Store, owner: str, count: int) -> None:
    for number in range(count):
        store.submit(owner, prompt=str(number))


def test_a_key_with_many_waiting_does_not_keep_another_from_being_next(store: Store) -> None:
    submit(store, "a", 5)
    first = claim(store)
    submit(store, "b", 2)

    order = [claim(store) for _ in range(7)]

    assert [first, *order] == ["a0", "b0", "a1", "b1", "a2", "a3", "a4", ""]


def test_of_those_that_were_never_served_what_came_first_is_first(store: Store) -> None:
    for owner in "cab":
        submit(store, owner, 2)

    assert [claim(store) for _ in range(6)] == ["c0", "a0", "b0", "c1", "a1", "b1"]


def test_who_deletes_what_has_ended_is_not_served_first_for_it(store: Store) -> None:
    submit(store, "greedy", 4)
    submit(store, "other", 4)
    order = []

    for _ in range(4):
        one = store.jobs.claim("worker")
        assert one is not None
        order.append(one.owner)
        store.predictions.remove([one.id], one.owner)

    assert order == ["greedy", "other"] * 2


def test_what_is_known_before_is_of_the_one_that_is_taken_up(store: Store) -> None:
    submit(store, "a", 1)
    claim(store)
    store.jobs.release("worker", most_attempts=9)
    submit(store, "b", 1)

    before = [store.jobs.attempts_of_next()]
    order = [claim(store)]
    before.append(store.jobs.attempts_of_next())
    order.append(claim(store))

    assert order == ["b0", "a0"]
    assert before == [0, 1]


def test_of_some_owners_only_what_is_here_is_taken_up_and_the_rest_keeps_its_turn(
    store: Store,
) -> None:
    submit(store, "a", 2)
    store.submit("a", prompt="here", control_url="", control_file="a.png")
    submit(store, "b", 1)

    before = store.jobs.attempts_of_next(here_only_of=["a", "c"])
    taken = [store.jobs.claim("worker", here_only_of=["a", "c"]) for _ in range(3)]
    nothing = store.jobs.attempts_of_next(here_only_of=["a", "c"])

    found = [one and (one.owner, one.fields["prompt"]) for one in taken]
    assert found == [("a", "here"), ("b", "0"), None]
    assert (before, nothing) == (0, None)
    assert [claim(store) for _ in range(3)] == ["a0", "a1", ""]


def test_of_all_owners_only_what_is_here_is_taken_up(store: Store) -> None:
    submit(store, "a", 1)
    store.submit("b", prompt="here", control_url="", control_file="a.png")

    before = store.jobs.attempts_of_next(here_only_of=None)
    taken = [store.jobs.claim("worker", here_only_of=None) for _ in range(2)]
    nothing = store.jobs.attempts_of_next(here_only_of=None)

    assert [one and one.owner for one in taken] == ["b", None]
    assert (before, nothing) == (0, None)
    assert claim(store) == "a0"


def test_several_at_the_same_time_take_each_up_once_and_serve_both_owners_alike(
    postgres: PostgresServer,
) -> None:
    """With PostgreSQL writers need not take turns."""
    store = Store(PostgresDatabase(postgres.address, in_turns=False))
    submit(store, "a", 60)
    submit(store, "b", 20)

    taken = at_once(lambda _: [claim(store) for _ in range(12)], 4)

    found = [one for part in taken for one in part]
    assert len(set(found)) == 48
    assert abs(sum(one.startswith("b") for one in found) - 20) <= 4
    store.database.close()


# The queue --------------------------------------------------------------------------------------


def test_one_of_several_keys_has_at_most_its_share_of_the_queue(store: Store) -> None:
    caps = Caps(queued=6, active=0, share=3, retry_after_s=lambda before: float(before))

    def take(owner: str) -> None:
        store.predictions.submit(new_prediction(owner), caps)

    for _ in range(3):
        take("a")
    with pytest.raises(BusyError, match="3 predictions of this key are waiting") as caught:
        take("a")
    for _ in range(3):
        take("b")
    with pytest.raises(BusyError, match="6 predictions are waiting, the most that this server"):
        take("c")
    claim(store)
    take("a")

    assert caught.value.retry_after_s == 3
    assert store.predictions.page("a", page=1, size=10).total == 4


def test_of_many_that_submit_at_the_same_time_no_more_than_the_caps_get_in(store: Store) -> None:
    caps = Caps(queued=10, active=0, share=6, retry_after_s=lambda before: 1.0)

    def take(number: int) -> bool:
        try:
            store.predictions.submit(new_prediction("ab"[number % 2]), caps)
        except BusyError:
            return False
        return True

    taken = at_once(take, 32)

    assert sum(taken) == 10
    assert max(store.predictions.page(owner, page=1, size=1).total for owner in "ab") <= 6
