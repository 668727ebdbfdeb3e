"""The predictions of the store: in wholly or not, read by their owner, never going back."""

from __future__ import annotations

import dataclasses
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from store_fixtures import DONE, NO_CAPS, Store, at_once, new_prediction

from depthflux.errors import BusyError
from depthflux.server.errors import IdempotencyError
from depthflux.server.outbox import Outbox
from depthflux.server.rows import CANCELLED, Caps, Idempotency, output_names
from depthflux.server.schema import idempotency, uploads, webhooks
from depthflux.server.uploads import Picture, Uploads

HOOK = "https://receiver.example/hook"


def count(store: Store, table: Any) -> int:
    with store.database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def picture(name: str = "p") -> Picture:
    return Picture(name=f"{name * 32}.png", size=3, sha256="c" * 64, media_type="image/png")


def caps(queued: int = 1000, active: int = 0) -> Caps:
    return Caps(queued=queued, active=active, retry_after_s=lambda before: 10.0 + before)


# Taking in --------------------------------------------------------------------------------------


def test_what_is_accepted_is_read_as_it_was_given(store: Store) -> None:
    new = new_prediction(
        "an owner",
        "ein Zimmer, 部屋",
        num_images=2,
        output_format="webp",
        control_url="https://pictures.example/b.png",
        control_file="",
        base="http://here:1/api/v2",
        webhook_url=HOOK,
    )

    submitted, is_new = store.predictions.submit(new, NO_CAPS)

    assert is_new
    assert store.predictions.read(new.id) == submitted
    assert submitted.fields == new.fields
    assert submitted.fields["prompt"] == "ein Zimmer, 部屋"
    assert (submitted.id, submitted.owner) == (new.id, "an owner")
    assert submitted.control_url == "https://pictures.example/b.png"
    assert (submitted.base, submitted.webhook_url) == ("http://here:1/api/v2", HOOK)
    assert re.fullmatch(r"[A-Za-z0-9_]{32}", submitted.secret)


def test_what_is_accepted_has_neither_begun_nor_ended(store: Store) -> None:
    one = store.submit()

    assert (one.status, one.is_over, one.cancelled) == ("created", False, False)
    assert (one.started_at, one.finished_at, one.attempts, one.lease) == (None, None, 0, "")
    assert (one.outputs, one.flags, one.timings) == ([], [], {})
    assert (one.model, one.code, one.error) == ("", 0, "")


def test_numbers_count_up_in_the_order_of_acceptance_and_none_comes_twice(store: Store) -> None:
    ids = store.submit_several(3)
    numbers = [store.read(id).number for id in ids]
    store.predictions.remove(ids, "")

    next_one = store.submit()

    assert numbers == sorted(set(numbers))
    assert next_one.number > numbers[-1]


def test_a_picture_inside_the_request_is_taken_in_with_it(store: Store) -> None:
    one = store.submit("me", picture=picture(), control_file=picture().name, control_url="")

    assert Uploads(store.database).find(picture().name) == picture()
    assert store.read(one.id).control_file == picture().name


def test_of_a_submission_that_is_refused_nothing_is_left(store: Store) -> None:
    store.submit()
    new = new_prediction(picture=picture())
    once = Idempotency(key="k", fingerprint="f")

    with pytest.raises(BusyError, match="1 predictions are waiting"):
        store.predictions.submit(new, caps(queued=1), once)

    assert store.predictions.read(new.id) is None
    assert count(store, uploads) == 0
    assert count(store, idempotency) == 0


def test_an_owner_does_not_see_what_is_anothers_but_the_server_does(store: Store) -> None:
    one = store.submit("me")

    assert store.predictions.read(one.id, "me") == one
    assert store.predictions.read(one.id, "you") is None
    assert store.predictions.read(one.id, "") is None
    assert store.predictions.read(one.id) == one
    assert store.predictions.read("0" * 32, "me") is None


# The same submission again ----------------------------------------------------------------------


def submit_once(
    store: Store, key: str = "key", fingerprint: str = "f", owner: str = "me"
) -> tuple[str, bool]:
    once = Idempotency(key=key, fingerprint=fingerprint)
    one, is_new = store.predictions.submit(new_prediction(owner), NO_CAPS, once)
    return one.id, is_new


def test_the_same_key_and_request_give_the_first_prediction(store: Store) -> None:
    first, first_is_new = submit_once(store)
    again, again_is_new = submit_once(store)

    assert first == again
    assert (first_is_new, again_is_new) == (True, False)
    assert store.predictions.counts() == {"created": 1}


def test_a_repeat_shows_how_far_the_first_one_has_come(store: Store) -> None:
    id, _ = submit_once(store)
    store.jobs.claim("worker")
    store.jobs.complete(id, "worker", DONE)

    again, is_new = store.predictions.submit(
        new_prediction("me"), caps(queued=1), Idempotency(key="key", fingerprint="f")
    )

    assert (again.id, again.status, is_new) == (id, "completed", False)


def test_the_same_key_with_another_request_is_refused_and_leaves_nothing(store: Store) -> None:
    submit_once(store, fingerprint="one request")

    with pytest.raises(IdempotencyError, match="Idempotency-Key='key' came with another") as caught:
        submit_once(store, fingerprint="another request")

    assert caught.value.http_status == 422
    assert store.predictions.counts() == {"created": 1}


def test_the_same_key_of_another_owner_is_another_key(store: Store) -> None:
    mine, _ = submit_once(store, owner="me")
    yours, is_new = submit_once(store, owner="you", fingerprint="another request")

    assert is_new
    assert mine != yours


def test_a_key_can_be_used_again_once_its_prediction_was_deleted(store: Store) -> None:
    first, _ = submit_once(store)
    store.predictions.remove([first], "me")

    again, is_new = submit_once(store, fingerprint="another request")

    assert is_new
    assert again != first


def test_a_repeat_is_answered_although_nothing_new_is_taken(store: Store) -> None:
    id, _ = submit_once(store)
    once = Idempotency(key="key", fingerprint="f")

    again, is_new = store.predictions.submit(new_prediction("me"), caps(queued=1), once)

    assert (again.id, is_new) == (id, False)


def test_eight_threads_with_the_same_key_make_one_prediction(store: Store) -> None:
    found = at_once(lambda _: submit_once(store), 8)

    assert len({id for id, _ in found}) == 1
    assert sorted(is_new for _, is_new in found) == [False] * 7 + [True]
    assert store.predictions.counts() == {"created": 1}


# How much may wait ------------------------------------------------------------------------------


def test_a_repeat_while_its_prediction_is_deleted_finds_it_or_not(store: Store) -> None:
    once, stop = Idempotency(key="key", fingerprint="f"), threading.Event()

    def repeat() -> int:
        count = 0
        while not stop.is_set():
            found = store.predictions.find_repeat("me", once)
            assert found is None or found.owner == "me"
            count += 1
        return count

    with ThreadPoolExecutor(2) as threads:
        repeating = [threads.submit(repeat) for _ in range(2)]
        for _ in range(150):
            id, _is_new = submit_once(store)
            store.predictions.remove([id], "me")
        stop.set()
        counts = [future.result() for future in repeating]

    assert min(counts) > 0


def test_no_more_wait_than_are_allowed_and_the_refusal_says_when_to_ask_again(
    store: Store,
) -> None:
    store.submit_several(2)

    with pytest.raises(BusyError, match="2 predictions are waiting, the most") as caught:
        store.predictions.submit(new_prediction(), caps(queued=2))

    assert caught.value.retry_after_s == 12.0
    assert store.predictions.counts() == {"created": 2}


def test_what_runs_or_has_ended_takes_no_room_among_what_waits(store: Store) -> None:
    store.completed()
    store.failed()
    store.running()

    _, is_new = store.predictions.submit(new_prediction(), caps(queued=1))

    assert is_new


def test_what_waits_again_takes_room(store: Store) -> None:
    store.running()
    store.jobs.release("worker", most_attempts=3)

    with pytest.raises(BusyError, match="1 predictions are waiting"):
        store.predictions.submit(new_prediction(), caps(queued=1))


def test_of_one_key_no_more_wait_or_run_than_are_allowed(store: Store) -> None:
    store.completed("me")
    store.running("me")
    store.submit("me")
    store.submit("you")

    with pytest.raises(BusyError, match="2 predictions of this key wait or run") as caught:
        store.predictions.submit(new_prediction("me"), caps(active=2))
    _, is_new = store.predictions.submit(new_prediction("you"), caps(active=2))

    assert caught.value.retry_after_s == 12.0
    assert is_new


def test_several_threads_do_not_get_past_the_cap_together(store: Store) -> None:
    def submit(_: int) -> bool:
        try:
            store.predictions.submit(new_prediction(), caps(queued=3))
        except BusyError:
            return False
        return True

    accepted = at_once(submit, 8)

    assert sum(accepted) == 3
    assert store.predictions.counts() == {"created": 3}


# What is shown ----------------------------------------------------------------------------------


def test_what_is_shown_never_goes_back_though_a_worker_dies(store: Store) -> None:
    id = store.submit().id
    shown = [store.read(id).status]

    for _ in range(2):
        store.jobs.claim("worker")
        shown.append(store.read(id).status)
        store.jobs.release("worker", most_attempts=9)
        shown.append(store.read(id).status)
    store.jobs.claim("worker")
    store.jobs.complete(id, "worker", DONE)
    shown.append(store.read(id).status)

    assert shown == ["created"] + ["processing"] * 4 + ["completed"]


def test_lists_agree_with_what_is_shown_of_one_that_waits_again(store: Store) -> None:
    again = store.running()
    store.jobs.release("worker", most_attempts=9)
    waiting = store.submit()

    def listed(status: Any) -> list[str]:
        page = store.predictions.page("", page=1, size=10, status=status)
        assert page.total == len(page.items)
        assert {one.status for one in page.items} <= {status}
        return [one.id for one in page.items]

    assert listed("created") == [waiting.id]
    assert listed("processing") == [again.id]
    assert listed("completed") == []


def test_a_page_is_part_of_an_owners_predictions_newest_first(store: Store) -> None:
    store.submit("you")
    ids = store.submit_several(5, owner="me")

    pages = [store.predictions.page("me", page=number, size=2) for number in (1, 2, 3, 4)]

    assert [[one.id for one in page.items] for page in pages] == [
        [ids[4], ids[3]],
        [ids[2], ids[1]],
        [ids[0]],
        [],
    ]
    assert [page.total for page in pages] == [5] * 4


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"status": "created"}, "w"),
        ({"status": "processing"}, "r"),
        ({"status": "completed"}, "c"),
        ({"status": "failed"}, "f"),
        ({"model": "a-model"}, "c"),
        ({"model": "another"}, ""),
        ({"created_after": 2000}, "frw"),
        ({"created_before": 2000}, "c"),
        ({"created_after": 2000, "created_before": 3001}, "fr"),
        ({"status": "failed", "created_after": 3000}, ""),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else value or "none",
)
def test_a_list_is_narrowed_by_state_model_and_time(
    store: Store, asked: dict[str, Any], found: str
) -> None:
    made = {"c": store.completed(), "f": store.failed(), "r": store.running(), "w": store.submit()}
    for letter, created_at in zip("cfrw", (1000, 2000, 3000, 4000), strict=True):
        store.set(made[letter].id, created_at=created_at)

    page = store.predictions.page("", page=1, size=10, **asked)

    letters = {one.id: letter for letter, one in made.items()}
    assert "".join(letters[one.id] for one in reversed(page.items)) == found
    assert page.total == len(found)


def test_counts_say_how_many_are_in_which_state(store: Store) -> None:
    assert store.predictions.counts() == {}

    store.completed()
    store.failed()
    store.failed()
    store.running()
    store.submit()

    assert store.predictions.counts() == {
        "completed": 1,
        "failed": 2,
        "processing": 1,
        "created": 1,
    }


def test_pictures_have_the_same_names_in_every_attempt(store: Store) -> None:
    one = store.running(num_images=3, output_format="jpeg")
    before = output_names(one)
    store.jobs.release("worker", most_attempts=3)
    again = store.jobs.claim("another")

    assert again is not None
    assert output_names(again) == before
    assert before == [f"{one.secret}-{index}.jpeg" for index in range(3)]
    assert len({one.secret, store.submit().secret}) == 2


def test_a_depth_map_alone_has_one_name_whatever_num_images_is(store: Store) -> None:
    one = store.running(num_images=3, only_depth_map=True)
    fields = {name: value for name, value in one.fields.items() if name != "only_depth_map"}

    accepted_before_there_was_the_field = dataclasses.replace(one, fields=fields)

    assert output_names(one) == [f"{one.secret}-0.png"]
    assert len(output_names(accepted_before_there_was_the_field)) == 3


def test_what_pictures_names_begin_with_is_known_of_all_predictions(store: Store) -> None:
    finished, waiting = store.completed(), store.submit(num_images=2)

    secrets = store.predictions.secrets()

    names = [*output_names(finished), *output_names(waiting)]
    assert len(names) == 3
    assert {name.partition("-")[0] for name in names} == secrets
    assert len(secrets) == 2


def test_pictures_of_one_that_failed_in_the_end_are_needed_by_nobody(store: Store) -> None:
    one = store.submit()
    store.jobs.claim("worker")
    before = store.predictions.secrets()

    # The worker has written them, and died; the next one failed.
    store.jobs.fail(one.id, "worker", 5000, "why")

    assert before == {one.secret}
    assert store.predictions.secrets() == set()


# Cancelling -------------------------------------------------------------------------------------


def test_one_that_waits_ends_at_once_when_it_is_cancelled(store: Store) -> None:
    one = store.submit("me", webhook_url=HOOK)

    found = store.predictions.cancel(one.id, "me")

    cancelled = store.read(one.id)
    assert found == (cancelled, True)
    assert (cancelled.status, cancelled.code, cancelled.error) == ("failed", 1405, CANCELLED)
    assert cancelled.finished_at is not None
    assert store.jobs.claim("worker") is None
    assert Outbox(store.database).state(one.id) == ("waiting", 0, "")


def test_one_that_runs_is_asked_to_stop_and_ends_when_its_worker_does(store: Store) -> None:
    one = store.running()

    found = store.predictions.cancel(one.id, "")

    asked = store.read(one.id)
    assert found == (asked, False)
    assert (asked.status, asked.cancelled) == ("processing", True)
    assert not store.jobs.is_gone(one.id)
    assert store.jobs.fail(one.id, "worker", 1405, CANCELLED)
    assert store.read(one.id).status == "failed"


def test_one_that_waits_again_ends_at_once_when_it_is_cancelled(store: Store) -> None:
    one = store.running()
    store.jobs.release("worker", most_attempts=3)

    found = store.predictions.cancel(one.id, "")

    cancelled = store.read(one.id)
    assert found == (cancelled, True)
    assert (cancelled.status, cancelled.error) == ("failed", CANCELLED)
    assert store.jobs.claim("another") is None


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_one_that_has_ended_stays_as_it_is_when_it_is_cancelled(store: Store, state: str) -> None:
    one = store.completed() if state == "completed" else store.failed()

    found = store.predictions.cancel(one.id, "")

    assert found == (one, False)
    assert store.read(one.id) == one


def test_cancelling_twice_changes_nothing_and_tells_once(store: Store) -> None:
    waiting = store.submit(webhook_url=HOOK)

    store.predictions.cancel(waiting.id, "")
    cancelled = store.read(waiting.id)
    again = store.predictions.cancel(waiting.id, "")

    assert again == (cancelled, False)
    assert store.read(waiting.id) == cancelled
    assert count(store, webhooks) == 1


def test_stopping_twice_what_runs_changes_nothing(store: Store) -> None:
    running = store.running(webhook_url=HOOK)

    first = store.predictions.cancel(running.id, "")
    second = store.predictions.cancel(running.id, "")

    assert first == second == (store.read(running.id), False)
    assert count(store, webhooks) == 0


def test_nobody_cancels_what_is_anothers(store: Store) -> None:
    one = store.submit("me")

    assert store.predictions.cancel(one.id, "you") is None
    assert store.predictions.cancel("0" * 32, "me") is None
    assert store.read(one.id) == one


def test_cancelled_at_the_moment_it_is_taken_up_it_is_stopped_one_way_or_the_other(
    store: Store,
) -> None:
    ids = store.submit_several(20)

    def race(number: int) -> None:
        if number == 0:
            while store.jobs.claim("worker") is not None:
                pass
        else:
            for id in reversed(ids):
                store.predictions.cancel(id, "")

    at_once(race, 2)

    for id in ids:
        one = store.read(id)
        assert one.cancelled
        assert (one.status == "failed") is (one.lease == "")


# Deleting ---------------------------------------------------------------------------------------


def test_what_is_removed_is_gone_and_says_what_is_left_to_be_done(store: Store) -> None:
    running = store.running("me", num_images=2)
    waiting = store.submit("me", picture=picture(), control_file=picture().name)

    removed = store.predictions.remove([running.id, waiting.id], "me")

    found = {one.id: one for one in removed}
    assert set(found) == {running.id, waiting.id}
    assert found[running.id].was_running
    assert not found[waiting.id].was_running
    assert found[running.id].files == output_names(running)
    assert (found[running.id].upload, found[waiting.id].upload) == ("", picture().name)
    assert store.predictions.counts() == {}


def test_the_picture_of_a_request_is_removed_with_it_and_an_uploaded_one_is_not(
    store: Store,
) -> None:
    own, uploaded = picture("a"), picture("b")
    Uploads(store.database).add(uploaded, "me")
    first = store.submit("me", picture=own, control_file=own.name)
    second = store.submit("me", control_file=uploaded.name)

    removed = store.predictions.remove([first.id, second.id], "me")

    assert sorted(one.upload for one in removed) == ["", own.name]
    assert Uploads(store.database).file_names() == {uploaded.name}


def test_ids_of_others_and_unknown_ones_are_passed_over(store: Store) -> None:
    mine, yours = store.submit("me"), store.submit("you")

    removed = store.predictions.remove([mine.id, yours.id, "0" * 32, "' OR 1=1"], "me")

    assert [one.id for one in removed] == [mine.id]
    assert store.read(yours.id) == yours
    assert store.predictions.remove([], "you") == []


def test_an_id_that_is_named_twice_is_removed_once(store: Store) -> None:
    one = store.submit()

    assert len(store.predictions.remove([one.id, one.id], "")) == 1


def test_its_webhook_and_its_key_go_with_a_prediction(store: Store) -> None:
    one = store.completed(webhook_url=HOOK, key="key")
    assert (count(store, webhooks), count(store, idempotency)) == (1, 1)

    store.predictions.remove([one.id], "")

    assert (count(store, webhooks), count(store, idempotency)) == (0, 0)


def test_removing_one_that_runs_leaves_its_worker_nothing_to_end(store: Store) -> None:
    one = store.running(webhook_url=HOOK)

    store.predictions.remove([one.id], "")

    assert store.jobs.is_gone(one.id)
    assert not store.jobs.complete(one.id, "worker", DONE)
    assert count(store, webhooks) == 0


def test_what_ended_before_a_time_is_removed_and_what_has_not_ended_never(store: Store) -> None:
    old, young, failed = store.completed(), store.completed(), store.failed()
    running, waiting = store.running(), store.submit()
    store.set(old.id, finished_at=999)
    store.set(failed.id, finished_at=1)
    store.set(young.id, finished_at=1000)
    for one in (running, waiting):
        store.set(one.id, created_at=1)

    removed = store.predictions.remove_older(1000, 100)

    assert {one.id for one in removed} == {old.id, failed.id}
    assert not any(one.was_running for one in removed)
    for one in (young, running, waiting):
        assert store.predictions.read(one.id) is not None


def test_what_is_old_is_removed_in_portions_the_oldest_first(store: Store) -> None:
    ids = [store.completed().id for _ in range(5)]
    for id in ids:
        store.set(id, finished_at=1)

    portions = []
    while removed := store.predictions.remove_older(1000, 2):
        portions.append({one.id for one in removed})

    assert portions == [set(ids[:2]), set(ids[2:4]), set(ids[4:])]


@pytest.mark.parametrize("how", ["deleted", "aged"])
@pytest.mark.parametrize("state", ["waits", "runs", "waits again"])
def test_a_picture_that_another_prediction_still_needs_stays_when_its_own_one_goes(
    store: Store, how: str, state: str
) -> None:
    """Its address stands in the list of predictions, and is good as control_image."""
    first = store.completed("me", picture=picture(), control_file=picture().name)
    second = store.submit("me", control_file=picture().name)
    if state != "waits":
        store.jobs.claim("worker")
    if state == "waits again":
        store.jobs.release("worker", most_attempts=3)
    store.set(first.id, finished_at=1)

    if how == "aged":
        removed = store.predictions.remove_older(1000, 100)
    else:
        removed = store.predictions.remove([first.id], "me")

    rooms = Uploads(store.database)
    assert [(one.id, one.upload) for one in removed] == [(first.id, "")]
    assert rooms.file_names() == {picture().name}
    # Once that one has ended, it ages like any upload.
    store.predictions.remove([second.id], "me")
    assert rooms.remove_older(2**53) == [picture().name]
