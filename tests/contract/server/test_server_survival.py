"""Nothing accepted is lost: whatever is killed, each prediction ends once.

Every test here has servers of its own, since it ends them; the store's own promises are in
tests/unit/server.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from stand_in.running import SUBMIT, StandInServer, grey_picture

Start = Callable[..., StandInServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server in a folder of the test's own."""
    with ExitStack() as stack:

        def begin(*, ready: bool = True, **settings: Any) -> StandInServer:
            server = StandInServer(tmp_path / "data", **settings)
            stack.push(server)
            server.start(ready=ready)
            return server

        yield begin


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def rows(server: StandInServer) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(server.data_dir / "depthflux.sqlite3")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM predictions")]


def files(server: StandInServer) -> list[str]:
    return sorted(os.listdir(server.data_dir / "outputs"))


def test_a_killed_server_s_predictions_all_end_once_it_is_back(start: Start) -> None:
    server = start()
    ids = [server.submit("slow 0.3")["id"] for _ in range(6)]
    server.until(lambda: server.read(ids[0]).get("progress"))

    server.kill()
    server.start()

    ended = [server.wait(id) for id in ids]
    assert {data["status"] for data in ended} == {"completed"}
    for data in ended:
        assert httpx.get(data["outputs"][0]).status_code == 200
    assert len([name for name in files(server) if name[0] != "."]) == 6


def test_a_killed_server_s_worker_ends_by_itself(start: Start) -> None:
    server = start()
    (worker,) = server.worker_pids()

    server.kill()

    server.until(lambda: not is_alive(worker) or None, timeout_s=5)


def test_a_worker_that_outlives_its_server_is_waited_for(start: Start) -> None:
    server = start()
    (worker,) = server.worker_pids()
    id = server.submit("slow 1")["id"]
    server.until(lambda: server.read(id).get("progress"))
    # It cannot notice anything now, and holds its place all the same.
    os.kill(worker, signal.SIGSTOP)
    server.kill()

    thread = threading.Timer(1.0, lambda: os.kill(worker, signal.SIGCONT))
    thread.start()
    before = time.monotonic()
    server.start()

    assert time.monotonic() - before > 0.9
    assert server.wait(id)["status"] == "completed"


def test_a_server_killed_while_a_model_loads_is_back_at_once(start: Start) -> None:
    server = start(ready=False, stand_in={"load_seconds": 60})
    (worker,) = server.until(lambda: server.worker_pids() or None)
    # Its worker holds its place by now, and loads.
    server.until(lambda: (server.data_dir / "worker-0.lock").exists() or None)

    server.kill()
    server.until(lambda: not is_alive(worker) or None, timeout_s=5)
    before = time.monotonic()
    server.start(ready=False)

    assert time.monotonic() - before < 10
    assert server.client.get("/readyz").json()["status"] == "loading"


def test_a_killed_worker_is_replaced_and_its_prediction_begun_again(start: Start) -> None:
    server = start()
    (worker,) = server.worker_pids()
    id = server.submit("slow 1")["id"]
    server.until(lambda: server.read(id).get("progress"))

    os.kill(worker, signal.SIGKILL)

    data = server.wait(id)
    assert data["status"] == "completed"
    assert server.worker_pids() != [worker]
    (row,) = rows(server)
    assert row["attempts"] == 2


def test_a_prediction_never_goes_back_from_processing(start: Start) -> None:
    server = start(stand_in={"load_seconds": 0.5})
    (worker,) = server.worker_pids()
    id = server.submit("slow 1")["id"]
    server.until(lambda: server.read(id).get("progress"))

    os.kill(worker, signal.SIGKILL)

    statuses = []
    while (data := server.read(id))["status"] != "completed":
        statuses.append(data["status"])
        time.sleep(0.02)
    assert set(statuses) == {"processing"}


def test_a_prediction_that_ends_every_worker_fails_at_the_cap(start: Start) -> None:
    server = start(max_attempts=2)

    data = server.wait(server.submit("crash")["id"])

    assert (data["status"], data["code"]) == ("failed", 1405)
    assert data["error"] == "The worker ended unexpectedly in each of 2 attempts."
    assert server.wait(server.submit()["id"])["status"] == "completed"


@pytest.mark.parametrize("prompt", ["crash-once", "cuda-once"])
def test_what_broke_a_worker_once_succeeds_in_the_next_one(
    start: Start, tmp_path: Path, prompt: str
) -> None:
    server = start()
    (worker,) = server.worker_pids()

    data = server.wait(server.submit(f"{prompt} {tmp_path / 'happened'}")["id"])

    assert data["status"] == "completed"
    assert server.worker_pids() != [worker]
    assert (tmp_path / "happened").exists()


def test_a_silent_worker_loses_its_lease_and_is_killed(start: Start, tmp_path: Path) -> None:
    server = start(worker_silence_s=6)
    (worker,) = server.worker_pids()

    data = server.wait(server.submit(f"hang-once {tmp_path / 'happened'}")["id"])

    assert data["status"] == "completed"
    assert not is_alive(worker)


def test_a_prediction_that_never_ends_fails_and_costs_no_other(start: Start) -> None:
    server = start(prediction_timeout_s=1.5, stand_in={"grace_seconds": 1.5})
    (worker,) = server.worker_pids()

    stuck, waiting = server.submit("stuck 600")["id"], server.submit()["id"]
    slow = server.submit("slow 10", num_inference_steps=50)["id"]

    data = server.wait(stuck)
    assert (data["status"], data["code"]) == ("failed", 1405)
    assert "took longer than 1.5 s" in data["error"]
    assert server.wait(waiting)["status"] == "completed"
    assert not is_alive(worker)
    # One that takes too long, but heeds its stop, costs no worker.
    (second,) = server.worker_pids()
    assert server.wait(slow)["code"] == 1405
    assert is_alive(second)
    assert {row["attempts"] for row in rows(server)} == {1}


def test_a_submission_is_in_the_store_before_it_is_answered(start: Start) -> None:
    server = start()
    server.submit("slow 5")

    ids = []
    for _ in range(5):
        ids.append(server.submit()["id"])
        # What another process sees of the store, at the very moment of the answer.
        assert ids[-1] in {row["id"] for row in rows(server)}

    server.kill()
    server.start()
    assert {server.read(id)["status"] for id in ids} <= {"created", "processing", "completed"}


def test_sigterm_lets_what_runs_end_and_keeps_what_waits(start: Start) -> None:
    server = start()
    running = server.submit("slow 2")["id"]
    server.until(lambda: server.read(running).get("progress"))
    waiting = [server.submit("slow 0.2")["id"] for _ in range(3)]

    code = server.stop()

    by_id = {row["id"]: row["status"] for row in rows(server)}
    assert code == 0
    assert by_id[running] == "completed"
    assert "failed" not in by_id.values()
    server.start()
    assert {server.wait(id)["status"] for id in waiting} == {"completed"}


def test_sigterm_while_a_model_loads_ends_at_once_and_keeps_what_waits(start: Start) -> None:
    server = start(ready=False, stand_in={"load_seconds": 60})
    server.submit()

    before = time.monotonic()
    code = server.stop()

    assert code == 0
    assert time.monotonic() - before < 5
    assert [row["status"] for row in rows(server)] == ["created"]


def test_a_service_manager_that_signals_every_process_lets_what_runs_end(start: Start) -> None:
    server = start()
    (worker,) = server.worker_pids()
    id = server.submit("slow 1.5")["id"]
    server.until(lambda: server.read(id).get("progress"))

    os.kill(worker, signal.SIGTERM)
    code = server.stop()

    assert code == 0
    assert [row["status"] for row in rows(server)] == ["completed"]


def test_while_it_drains_it_answers_but_takes_nothing_new(start: Start) -> None:
    server = start()
    running = server.submit("slow 2")["id"]
    server.until(lambda: server.read(running).get("progress"))

    os.kill(server.pid, signal.SIGTERM)

    drained = server.until(
        lambda: server.client.get("/readyz").json()["status"] == "draining" or None
    )
    refused = server.client.post(SUBMIT, json={"prompt": "paint", "control_image": "x"})
    assert drained
    assert server.client.get("/readyz").status_code == 503
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert server.read(running)["status"] == "processing"


def test_what_does_not_end_before_the_deadline_is_requeued_without_losing_an_attempt(
    start: Start,
) -> None:
    server = start(drain_timeout_s=0.5, max_attempts=1)
    id = server.submit("slow 4")["id"]
    server.until(lambda: server.read(id).get("progress"))

    before = time.monotonic()
    code = server.stop()

    assert code == 0
    assert time.monotonic() - before < 3
    server.start()
    assert server.wait(id)["status"] == "completed"


def test_who_waits_in_sync_mode_is_answered_before_the_server_ends(start: Start) -> None:
    server = start(drain_timeout_s=0.5)
    answers: list[httpx.Response] = []
    body = {
        "prompt": "slow 30",
        "control_image": grey_picture(1),
        "size": "512*512",
        "num_inference_steps": 50,
        "enable_sync_mode": True,
    }
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(server.address + SUBMIT, json=body, timeout=60))
    )
    thread.start()
    server.until(lambda: rows(server) or None)

    server.stop()
    thread.join(timeout=10)

    data = answers[0].json()["data"]
    assert answers[0].status_code == 200
    assert (data["status"], data["code"]) == ("processing", 5004)


def test_a_second_signal_does_not_wait(start: Start) -> None:
    server = start()
    id = server.submit("slow 20")["id"]
    server.until(lambda: server.read(id).get("progress"))

    os.kill(server.pid, signal.SIGINT)
    server.until(lambda: server.client.get("/readyz").json()["status"] == "draining" or None)
    before = time.monotonic()
    code = server.stop()

    assert code == 0
    assert time.monotonic() - before < 5
    (row,) = rows(server)
    assert row["status"] == "created"


def test_random_kills_lose_nothing_and_end_nothing_twice(start: Start) -> None:
    """A short version of the failure test: 40 predictions, the worker and the server killed."""
    seed = 20261129
    chance, server = random.Random(seed), start(max_attempts=10)
    accepted: list[str] = []
    for number in range(40):
        accepted.append(server.submit("slow 0.1", control_image=grey_picture(number))["id"])
        if number in (9, 19, 29):
            time.sleep(chance.random() * 0.5)
            for worker in server.worker_pids():
                os.kill(worker, signal.SIGKILL)
        if number in (14, 34):
            time.sleep(chance.random() * 0.5)
            server.kill()
            server.start()

    ended = [server.wait(id, timeout_s=60) for id in accepted]

    assert {data["status"] for data in ended} == {"completed"}, seed
    found = rows(server)
    assert sorted(row["id"] for row in found) == sorted(accepted)
    for data in ended:
        assert httpx.get(data["outputs"][0]).status_code == 200
    # What a killed worker has left half written is nobody's, and gone with the next start.
    server.stop()
    server.start()
    assert len(files(server)) == len(accepted)


def test_a_worker_is_started_on_every_gpu_that_the_first_one_sees(start: Start) -> None:
    server = start(stand_in={"devices": 3})

    workers = server.until(
        lambda: (
            found
            if (found := server.client.get("/readyz").json()["workers"]) == ["ready"] * 3
            else None
        )
    )
    ids = [server.submit("slow 1.5")["id"] for _ in range(3)]
    before = time.monotonic()
    ended = [server.wait(id) for id in ids]

    assert workers == ["ready"] * 3
    assert {data["status"] for data in ended} == {"completed"}
    # One after another they would take four and a half seconds.
    assert time.monotonic() - before < 3.5
    log = server.log.read_text()
    assert all(f"on cuda:{index}" in log for index in range(3))


def test_readiness_says_loading_then_ready_then_degraded(start: Start) -> None:
    server = start(ready=False, stand_in={"load_seconds": 1.5})
    loading = server.client.get("/readyz")
    accepted = server.submit()
    server.until(lambda: server.client.get("/readyz").status_code == 200 or None)
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    degraded = server.until(
        lambda: found if (found := server.client.get("/readyz")).status_code == 503 else None
    )

    assert (loading.status_code, loading.json()["status"]) == (503, "loading")
    assert degraded.json()["status"] == "degraded"
    assert degraded.json()["workers"] == ["restarting"]
    assert server.wait(accepted["id"])["status"] == "completed"


def test_sigterm_ends_the_server_though_the_store_is_locked(start: Start) -> None:
    server = start(drain_timeout_s=1)
    id = server.submit("slow 30")["id"]
    server.until(lambda: server.read(id).get("progress"))

    with closing(
        sqlite3.connect(server.data_dir / "depthflux.sqlite3", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        before = time.monotonic()
        code = server.stop()
        took_s = time.monotonic() - before
        other.execute("COMMIT")

    assert code == 0
    assert took_s < 12
    server.start()
    assert server.read(id)["status"] == "processing"


def test_nothing_is_accepted_into_a_folder_that_is_gone(start: Start) -> None:
    server = start()
    server.wait(server.submit()["id"])
    for path in server.data_dir.glob("depthflux.sqlite3*"):
        path.unlink()

    refused = server.client.post(
        SUBMIT, json={"prompt": "paint", "control_image": "https://example.org/a.png"}
    )

    assert refused.status_code == 503
    assert "not certain" in refused.json()["message"]


def test_a_full_queue_is_refused_with_a_time_to_come_back(start: Start) -> None:
    server = start(max_queued=3)
    server.submit("slow 5")
    server.until(lambda: server.client.get("/readyz").json()["queued"] == 0 or None)
    kept = [server.submit()["id"] for _ in range(3)]

    refused = server.client.post(
        SUBMIT, json={"prompt": "paint", "control_image": grey_picture(1), "size": "512*512"}
    )

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "waiting" in refused.json()["message"]
    assert len(rows(server)) == 1 + len(kept)
    # The refused one's picture is not left behind.
    assert len(os.listdir(server.data_dir / "uploads")) == 1 + len(kept)


def test_a_key_may_not_ask_too_often_or_for_too_much_at_a_time(start: Start) -> None:
    keys = ("first-key-0123456789", "second-key-0123456789")
    server = start(keys=keys, key_requests_per_minute=5, key_max_active=2)
    other = {"Authorization": f"Bearer {keys[1]}"}
    body = {"prompt": "slow 3", "control_image": grey_picture(1), "size": "512*512"}

    statuses = [server.client.post(SUBMIT, json=body).status_code for _ in range(3)]
    others = [
        server.client.post(SUBMIT, json={"prompt": ""}, headers=other).status_code for _ in range(6)
    ]
    refused = server.client.post(SUBMIT, json=body, headers=other)

    assert statuses == [200, 200, 429]
    assert others == [400] * 5 + [429]
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_an_operator_s_caps_are_refused_at_submit(start: Start) -> None:
    server = start(max_images=2, max_steps=10, max_megapixels=0.5)

    for fields, name in (
        ({"num_images": 3}, "num_images=3"),
        ({"num_inference_steps": 11}, "num_inference_steps=11"),
        ({"size": "1024*1024"}, "size='1024*1024'"),
    ):
        body = {
            "prompt": "paint",
            "control_image": grey_picture(1),
            "num_inference_steps": 4,
            "size": "512*512",
            **fields,
        }
        response = server.client.post(SUBMIT, json=body)

        assert response.status_code == 400
        assert name in response.json()["message"]


def test_moderation_may_fail_a_request_all_of_whose_pictures_were_flagged(start: Start) -> None:
    server = start(moderation="fail")

    data = server.wait(server.submit("flagged", num_images=2)["id"])

    assert (data["status"], data["code"]) == ("failed", 1200)
    assert data["outputs"] == []
    assert files(server) == []


def test_what_is_older_than_it_is_kept_is_removed_with_its_files(start: Start) -> None:
    # A second, so that the restart, which looks at once, finds it.
    server = start(retention_days=1 / 86400)
    data = server.wait(server.submit()["id"])
    uploaded = server.client.post(
        "/api/v3/media/upload/binary",
        files={"file": ("a.png", Path("examples/one-object.png").read_bytes())},
    ).json()["data"]["download_url"]
    assert httpx.get(uploaded).status_code == 200
    time.sleep(1.2)

    server.stop()
    server.start()

    server.until(lambda: not rows(server) or None)
    assert server.client.get(f"/api/v3/predictions/{data['id']}").status_code == 404
    server.until(
        lambda: (not files(server) and not os.listdir(server.data_dir / "uploads")) or None
    )


def test_the_store_locked_for_seconds_delays_submissions_and_nothing_else(start: Start) -> None:
    server = start()
    done = server.wait(server.submit()["id"])
    answers: list[dict[str, Any]] = []
    # More than the server has threads for.
    cancel = f"{server.address}/api/v3/predictions/{done['id']}/cancel"
    threads = [threading.Thread(target=lambda: answers.append(server.submit())) for _ in range(60)]
    threads += [threading.Thread(target=lambda: httpx.post(cancel, timeout=60)) for _ in range(60)]

    with closing(
        sqlite3.connect(server.data_dir / "depthflux.sqlite3", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        before = time.monotonic()
        listed = httpx.get(f"{server.address}/api/v3/predictions", timeout=30)
        took_s = time.monotonic() - before
        assert answers == []
        other.execute("COMMIT")
    for thread in threads:
        thread.join()

    assert listed.status_code == 200
    assert took_s < 1
    assert {server.wait(data["id"])["status"] for data in answers} == {"completed"}
    assert len(answers) == 60
