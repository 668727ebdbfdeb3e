"""A connection is waited for only so long, and only so much is taken from it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest
from wire_fixtures import (
    GET,
    HOST,
    SHORT,
    Served,
    one_answer,
    post,
    refusal_in,
    rest_of,
    trickle,
)

from depthflux.server.crowd import Patience


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """A wire with little patience."""
    with Served() as running:
        yield running


@pytest.fixture
def wire(shared: Served) -> Served:
    """The same, with nothing seen."""
    shared.app.seen.clear()
    shared.app.told.clear()
    return shared


@pytest.fixture(scope="module")
def patient() -> Iterator[Served]:
    """A wire with a server's own patience."""
    with Served(Patience()) as running:
        yield running


# Heads ------------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_ended_silently(wire: Served) -> None:
    begin = time.monotonic()

    assert wire.ask(b"") == b""

    assert time.monotonic() - begin >= SHORT.head_s


def test_headers_that_do_not_come_are_refused_with_408_however_they_trickle(wire: Served) -> None:
    connection = wire.connect(b"GET / HTTP/1.1\r\n")
    pieces = trickle(connection, b"X: a\r\n", 0.1)

    sent = sum(1 for _ in zip(range(8), pieces, strict=False))
    status, document = refusal_in(rest_of(connection))

    assert sent > 3
    assert status == 408
    assert "did not come within 0.4 s" in document["message"]
    assert wire.app.seen == []
    connection.close()


def test_a_further_request_is_waited_for_from_its_first_byte() -> None:
    # Of which the half must be enough for a busy machine's pause.
    with Served(dataclasses.replace(SHORT, head_s=1.5)) as wire:
        connection = wire.connect(GET)
        one_answer(connection)

        time.sleep(1.6)
        connection.sendall(b"G")
        time.sleep(0.1)
        connection.sendall(GET[1:])
        assert one_answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HT")

        assert refusal_in(rest_of(connection))[0] == 408
        connection.close()


def test_a_request_may_be_worked_on_for_as_long_as_it_takes(wire: Served) -> None:
    assert wire.ask(
        b"GET /work HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\nGET /half"
    ).endswith(b"worked")


# Refusals --------------------------------------------------------------------------------------


def test_a_bad_request_behind_a_good_one_does_not_take_its_answer(wire: Served) -> None:
    answer = wire.ask(GET.replace(b"/ ", b"/work ") + b"nonsense\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"worked")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_refusal_is_counted(wire: Served) -> None:
    def count() -> float:
        return wire.metrics.http_requests.labels("none", "other", "400")._value.get()

    before = count()
    wire.ask(b"nonsense\r\n\r\n")

    assert count() == before + 1


# Bodies -----------------------------------------------------------------------------------------


def test_a_body_that_stops_is_refused_and_the_application_told(wire: Served) -> None:
    answer = wire.ask(post(b"/stops", b"Content-Length: 100", body=b"abc"))

    status, document = refusal_in(answer)
    assert status == 408
    assert document["message"] == "nothing of the body came for 0.4 s."
    begin = time.monotonic()
    while "/stops" not in wire.app.told:
        assert time.monotonic() - begin < 10, "it was not told"
        time.sleep(0.01)


def test_a_body_that_trickles_is_refused_after_the_grace(wire: Served) -> None:
    begin = time.monotonic()
    connection = wire.connect(post(b"/", b"Content-Length: 1000000"))

    for _ in zip(range(12), trickle(connection, b"a", 0.1), strict=False):
        pass
    status, document = refusal_in(rest_of(connection))

    assert status == 408
    assert "less than 8192 bytes a second" in document["message"]
    assert time.monotonic() - begin >= SHORT.grace_s
    connection.close()


def test_a_body_as_fast_as_asked_for_may_take_its_time() -> None:
    """Longer than the grace; its first piece alone is what is asked for in eight seconds."""
    with Served(dataclasses.replace(SHORT, silence_s=8, bytes_per_s=1000)) as wire:
        connection = wire.connect(post(b"/", b"Content-Length: 80000"))

        for _ in range(10):
            connection.sendall(bytes(8000))
            time.sleep(0.1)

        assert one_answer(connection).endswith(b"80000")
        connection.close()


def test_the_time_that_the_application_does_not_read_is_not_the_clients() -> None:
    """Which begins to read after a second, longer than its silence or its slowness is borne."""
    with Served(dataclasses.replace(SHORT, silence_s=0.6, bytes_per_s=1_000_000)) as wire:
        connection = wire.connect(post(b"/lazily", b"Content-Length: 400001"))
        connection.sendall(bytes(400_000))
        time.sleep(1.2)
        connection.sendall(b"a")

        assert one_answer(connection).endswith(b"400001")
        connection.close()


def test_a_client_that_is_not_asked_to_go_on_yet_is_not_late(wire: Served) -> None:
    connection = wire.connect(post(b"/lazily", b"Content-Length: 5", b"Expect: 100-continue"))

    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"hello")

    assert one_answer(connection).endswith(b"\r\n\r\n5")
    connection.close()


def test_where_the_answer_has_begun_a_body_that_stops_just_ends_it(wire: Served) -> None:
    answer = wire.ask(post(b"/begun", b"Content-Length: 100", body=b"abc"))

    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"begun\r\n")


def test_the_rest_of_a_body_that_was_refused_is_taken_only_for_a_while(wire: Served) -> None:
    begin = time.monotonic()
    connection = wire.connect(post(b"/early", b"Content-Length: 1000000000"))
    answer = one_answer(connection)

    for _ in trickle(connection, bytes(10_000), 0.02):
        assert time.monotonic() - begin < 10, "it is taken for ever"

    assert answer.endswith(b"early")
    connection.close()


def test_an_answer_that_comes_before_the_body_arrives_although_it_is_the_last(
    wire: Served,
) -> None:
    """As for every program that asks for an end of the connection and sends a large file."""
    request = post(b"/early", b"Connection: close", b"Content-Length: 20000000")
    connection = wire.connect(request)

    connection.sendall(bytes(20_000_000))

    assert rest_of(connection).endswith(b"early")
    connection.close()


# Answers and further requests -------------------------------------------------------------------


def test_who_does_not_take_an_answer_is_ended() -> None:
    with Served() as wire:
        connection = wire.connect(GET.replace(b"/ ", b"/large "), taken_bytes=10_000)
        begin = time.monotonic()

        while not wire.app.seen or wire.members:
            assert time.monotonic() - begin < 15, "it waits for ever"
            time.sleep(0.02)

        assert time.monotonic() - begin >= SHORT.unread_s
        assert len(rest_of(connection)) < 40_000_000
        connection.close()


def test_who_takes_an_answer_slowly_but_steadily_gets_all_of_it(wire: Served) -> None:
    connection = wire.connect(GET.replace(b"/ ", b"/large "), taken_bytes=100_000)
    received, begin = 0, time.monotonic()

    while received < 40_000_000:
        piece = connection.recv(200_000)
        assert piece
        received += len(piece)
        # Slow at first, for longer than the server's patience.
        time.sleep(0.01 if time.monotonic() - begin < 1 else 0)

    connection.close()


def test_a_head_is_answered_without_a_body(wire: Served) -> None:
    connection = wire.connect(GET.replace(b"GET", b"HEAD"))
    answer = connection.recv(65536)
    refused = wire.ask(b"HEAD nonsense HTTP/1.1\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")
    assert refused.startswith(b"HTTP/1.1 400")
    assert answer.endswith(b"\r\n\r\n")
    assert refused.endswith(b"\r\n\r\n")
    connection.close()


def test_requests_that_come_together_are_answered_in_order_and_only_so_many(
    patient: Served,
) -> None:
    patient.app.seen.clear()
    paths = [f"/{number}" for number in range(2000)]

    answer = patient.ask(b"".join(GET.replace(b"/ ", f"{path} ".encode()) for path in paths))

    count = 1 + Patience.pipelined
    assert patient.app.seen == paths[:count]
    assert answer.count(b"HTTP/1.1 200") == count
    assert answer.lower().count(b"connection: close") == 1


def test_a_body_behind_a_request_that_is_worked_on_waits_outside(wire: Served) -> None:
    body = bytes(20_000_000)
    connection = wire.connect(GET.replace(b"/ ", b"/watch "))
    connection.settimeout(0.6)

    with pytest.raises(TimeoutError):
        connection.sendall(post(b"/", b"Content-Length: 20000000", body=body))

    connection.close()


# All of them ------------------------------------------------------------------------------------


def crowded(count: int) -> Served:
    return Served(dataclasses.replace(SHORT, head_s=60, silence_s=60, connections=count))


@pytest.mark.parametrize(
    "idle",
    [b"", b"GET / HTTP/1.1\r\n", post(b"/", b"Content-Length: 100", body=b"abc")],
    ids=["silent", "half a head", "half a body"],
)
def test_who_only_waits_makes_way_the_longest_waiting_first(idle: bytes) -> None:
    with crowded(3) as wire:
        waiting = []
        for _ in range(3):
            waiting.append(wire.connect(idle))
            time.sleep(0.05)

        answer = wire.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

        assert answer.startswith(b"HTTP/1.1 200")
        assert rest_of(waiting[0]) == b""
        for connection in waiting[1:]:
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        for connection in waiting:
            connection.close()


def test_who_takes_an_answer_makes_way_for_nobody() -> None:
    with Served(dataclasses.replace(SHORT, unread_s=60, reader_s=60, connections=1)) as wire:
        reader = wire.connect(
            GET.replace(b"/ ", b"/large ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        received = reader.recv(1)

        answer = wire.ask(GET)

        assert refusal_in(answer)[0] == 503
        assert (received + rest_of(reader)).endswith(bytes(40_000_000))
        reader.close()


def test_the_end_of_an_answer_that_waits_here_makes_way_for_nobody() -> None:
    with Served(dataclasses.replace(SHORT, unread_s=60, reader_s=60, connections=1)) as wire:
        wire.let_the_system_keep_little()
        reader = wire.connect(GET.replace(b"/ ", b"/some "), taken_bytes=1)
        begin = time.monotonic()
        while not wire.app.seen:
            assert time.monotonic() - begin < 10, "it is not answered"
            time.sleep(0.01)
        time.sleep(0.1)

        answer = wire.ask(GET)

        assert refusal_in(answer)[0] == 503
        assert one_answer(reader).endswith(bytes(10_000))
        reader.close()


def test_who_has_not_taken_an_answer_for_long_makes_way_after_all_others() -> None:
    with Served(dataclasses.replace(SHORT, unread_s=60, reader_s=0.5, connections=2)) as wire:
        reader = wire.connect(GET.replace(b"/ ", b"/large "), taken_bytes=10_000)
        time.sleep(1)
        idle = wire.connect(GET)
        one_answer(idle)

        working = wire.connect(GET.replace(b"/ ", b"/work "))
        rest_of_idle = rest_of(idle)
        was_there = wire.members
        answer = wire.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

        assert (rest_of_idle, was_there) == (b"", 2)
        assert answer.startswith(b"HTTP/1.1 200")
        assert one_answer(working).endswith(b"worked")
        assert len(rest_of(reader)) < 40_000_000
        for connection in (reader, idle, working):
            connection.close()


def test_where_all_are_busy_a_further_one_is_told_to_come_again(wire: Served) -> None:
    with crowded(2) as busy:
        working = [busy.connect(GET.replace(b"/ ", b"/work ")) for _ in range(2)]
        time.sleep(0.3)

        answer = busy.ask(GET)

        assert refusal_in(answer)[0] == 503
        assert b"retry-after: 1\r\n" in answer.lower()
        assert [one_answer(one)[-6:] for one in working] == [b"worked", b"worked"]
        for connection in working:
            connection.close()


def test_hundreds_of_connections_that_come_and_go_leave_nothing_behind() -> None:
    with crowded(5) as wire:
        for number in range(200):
            wire.connect([b"", b"GET", b"nonsense\r\n\r\n", GET][number % 4]).close()

        assert wire.ask(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert wire.members <= 5


def test_the_patience_of_a_server_is_what_the_page_says() -> None:
    assert Patience() == Patience(
        head_s=10,
        head_bytes=32 * 1024,
        target_bytes=8 * 1024,
        headers=100,
        pipelined=16,
        silence_s=10,
        grace_s=20,
        bytes_per_s=8 * 1024,
        rest_s=30,
        unread_s=30,
        reader_s=5,
        leaving_s=2,
        connections=1024,
        look_s=1,
    )
