"""What the store knows of uploaded pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update
from store_fixtures import DONE, Store, at_once

from depthflux.errors import BusyError
from depthflux.server.schema import uploads
from depthflux.server.uploads import Picture, Ticket, Uploads


def picture(letter: str = "a") -> Picture:
    return Picture(name=f"{letter * 32}.png", size=9, sha256=letter * 64, media_type="image/png")


def ticket(letter: str = "t") -> Ticket:
    return Ticket(name=f"{letter * 32}.webp", size=77, secret=f"{letter}-secret", owner="me")


def bytes_of(ticket_letter: str, letter: str) -> Picture:
    """What came for a ticket; other letters are other bytes."""
    name = ticket(ticket_letter).name
    return Picture(name=name, size=77, sha256=letter * 64, media_type="image/webp")


def age(store: Store, created_at: int) -> None:
    """Say that all uploads came then."""
    with store.database.writing() as connection:
        connection.execute(update(uploads).values(created_at=created_at))


def test_an_upload_is_found_by_its_name_and_no_other(store: Store) -> None:
    room = Uploads(store.database)

    room.add(picture(), "me")

    assert room.find(picture().name) == picture()
    assert room.find(picture("b").name) is None
    assert room.find("") is None
    assert room.file_names() == {picture().name}


def test_an_upload_has_no_ticket_that_could_be_found_by_an_empty_secret(store: Store) -> None:
    room = Uploads(store.database)

    room.add(picture(), "me")

    assert room.find_ticket("no-such-ticket") is None


def test_a_ticket_is_found_by_its_secret_until_and_after_the_bytes_have_come(store: Store) -> None:
    room = Uploads(store.database)
    room.add_ticket(ticket())
    promised = room.find_ticket(ticket().secret)
    before = room.find(ticket().name)
    kept = Picture(name=ticket().name, size=77, sha256="d" * 64, media_type="image/webp")

    assert room.keep(kept)

    assert promised == ticket()
    assert before is None
    assert room.find(ticket().name) == kept
    redeemed = room.find_ticket(ticket().secret)
    assert redeemed is not None
    assert (redeemed.sha256, redeemed.name, redeemed.owner) == ("d" * 64, ticket().name, "me")


def test_the_bytes_of_one_ticket_change_no_other_one(store: Store) -> None:
    room = Uploads(store.database)
    room.add_ticket(ticket("t"))
    room.add_ticket(ticket("u"))

    room.keep(bytes_of("t", "d"))

    assert room.find_ticket(ticket("u").secret) == ticket("u")
    assert room.find_ticket("x-secret") is None


def test_a_tickets_first_bytes_stay_and_may_be_kept_again_but_no_others(store: Store) -> None:
    room = Uploads(store.database)
    room.add_ticket(ticket())
    first, other = bytes_of("t", "d"), bytes_of("t", "e")

    kept = [room.keep(one) for one in (first, other, first)]

    assert kept == [True, False, True]
    assert room.find(ticket().name) == first


def test_of_several_that_use_a_ticket_at_the_same_time_one_is_first(store: Store) -> None:
    room = Uploads(store.database)
    room.add_ticket(ticket())
    brought = [bytes_of("t", letter) for letter in "abcdef"]

    kept = at_once(lambda number: room.keep(brought[number]), len(brought))

    assert sum(kept) == 1
    assert room.find(ticket().name) == brought[kept.index(True)]


def test_bytes_of_a_ticket_that_there_is_none_of_are_not_kept(store: Store) -> None:
    """It may have been removed for its age while they came."""
    room = Uploads(store.database)

    assert not room.keep(bytes_of("t", "d"))
    assert room.file_names() == set()


def test_names_of_tickets_whose_bytes_have_not_come_are_known_too(store: Store) -> None:
    """Else a file that is just being put would be swept away."""
    room = Uploads(store.database)
    room.add(picture(), "me")
    room.add_ticket(ticket())

    assert room.file_names() == {picture().name, ticket().name}


def test_old_uploads_are_removed_and_young_ones_are_not(store: Store) -> None:
    room = Uploads(store.database)
    room.add(picture("a"), "me")
    room.add_ticket(ticket())
    age(store, 999)
    room.add(picture("b"), "me")

    removed = room.remove_older(1000)

    assert sorted(removed) == sorted([picture("a").name, ticket().name])
    assert room.file_names() == {picture("b").name}
    assert room.remove_older(1000) == []


def test_tickets_whose_bytes_have_not_come_end_sooner_and_others_do_not(store: Store) -> None:
    room = Uploads(store.database)
    room.add(picture(), "me")
    room.add_ticket(ticket("t"))
    room.add_ticket(ticket("u"))
    assert room.keep(bytes_of("u", "d"))
    age(store, 999)

    removed = room.remove_older(500, 1000)

    assert removed == [ticket("t").name]


def test_of_an_owner_no_more_tickets_are_open_than_allowed_whoever_asks_at_a_time(
    store: Store,
) -> None:
    room = Uploads(store.database)

    def ask(number: int) -> bool:
        try:
            room.add_ticket(ticket(f"t{number:02}"), most_open=3)
        except BusyError:
            return False
        return True

    answers = at_once(ask, 16)
    room.add_ticket(replace(ticket("o"), owner="another"), most_open=3)
    used = f"t{answers.index(True):02}"
    assert room.keep(bytes_of(used, "d"))
    room.add_ticket(ticket("n"), most_open=3)

    assert sum(answers) == 3
    with pytest.raises(BusyError, match="3 upload tickets of this key are open"):
        room.add_ticket(ticket("x"), most_open=3)


@pytest.mark.parametrize("state", ["waits", "runs", "waits again"])
def test_an_old_upload_that_something_unfinished_needs_stays_until_that_has_ended(
    store: Store, state: str
) -> None:
    room = Uploads(store.database)
    room.add(picture(), "me")
    age(store, 1)
    one = store.submit("me", control_file=picture().name)
    if state != "waits":
        store.jobs.claim("worker")
    if state == "waits again":
        store.jobs.release("worker", most_attempts=3)

    while_it_is_needed = room.remove_older(1000)
    store.jobs.claim("worker")
    store.jobs.complete(one.id, "worker", DONE)
    afterwards = room.remove_older(1000)

    assert while_it_is_needed == []
    assert afterwards == [picture().name]


def test_a_picture_inside_a_request_ages_with_its_prediction_and_not_by_itself(
    store: Store,
) -> None:
    room = Uploads(store.database)
    one = store.completed("me", picture=picture(), control_file=picture().name)
    age(store, 1)

    by_itself = room.remove_older(1000)
    store.set(one.id, finished_at=1)
    with_it = store.predictions.remove_older(1000, 100)

    assert by_itself == []
    assert [gone.upload for gone in with_it] == [picture().name]
    assert room.file_names() == set()
