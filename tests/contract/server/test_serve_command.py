"""`depthflux serve` as a person starts it: on the packaged miniature, and what it refuses."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from PIL import Image

from stand_in.running import SUBMIT

Call = Callable[..., Result]


@contextmanager
def serving(folder: Path, *words: str, **variables: str) -> Iterator[tuple[str, Any]]:
    """A server started on the command line: its address and its process."""
    command = [
        sys.executable,
        "-m",
        "depthflux",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(folder / "data"),
        *words,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **variables}, text=True
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()
            process.wait()


def wait_until_ready(address: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            response = httpx.get(f"{address}/readyz")
        except httpx.ConnectError:  # it does not listen yet
            time.sleep(0.2)
            continue
        if response.status_code == 200:
            found: dict[str, Any] = response.json()
            return found
        time.sleep(0.2)
    raise TimeoutError(address)


def test_the_miniature_answers_like_the_hosted_endpoint_and_says_what_it_is(tmp_path: Path) -> None:
    source = base64.b64encode(Path("examples/two-objects.png").read_bytes()).decode()
    body = {
        "prompt": "a red cube on a green floor, white sky",
        "control_image": source,
        "size": "512*512",
        "num_inference_steps": 2,
        "seed": 5,
        "enable_sync_mode": True,
    }
    with serving(tmp_path, "--profile", "demo") as (address, process):
        ready = wait_until_ready(address)
        first, again = (
            httpx.post(address + SUBMIT, json=body, timeout=120).json()["data"] for _ in range(2)
        )
        pictures = [httpx.get(data["outputs"][0]).content for data in (first, again)]
        modules = Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)

    assert address.startswith("http://127.0.0.1:")
    assert ready["model"] == first["model"] == "depthflux/demo"
    assert first["status"] == "completed"
    assert Image.open(io.BytesIO(pictures[0])).size == (512, 512)
    # The same seed and request: the same pixels, each with its own record.
    pixels = [Image.open(io.BytesIO(data)).tobytes() for data in pictures]
    assert pixels[0] == pixels[1]
    assert "libtorch" not in modules
    assert code == 0
    assert "listening on" in (tmp_path / "log").read_text()


def test_a_picture_made_by_the_server_is_made_again_from_its_record(
    tmp_path: Path, cli: Call
) -> None:
    source = base64.b64encode(Path("examples/one-object.png").read_bytes()).decode()
    body = {
        "prompt": "a blue cone",
        "control_image": source,
        "size": "512*512",
        "num_inference_steps": 2,
        "enable_sync_mode": True,
    }
    with serving(tmp_path, "--profile", "demo") as (address, _):
        wait_until_ready(address)
        data = httpx.post(address + SUBMIT, json=body, timeout=120).json()["data"]
        (tmp_path / "picture.png").write_bytes(httpx.get(data["outputs"][0]).content)

    made = cli("generate", "--from-record", tmp_path / "picture.png", "--out", tmp_path / "again")

    assert made.exit_code == 0, made.stderr
    pictures = [tmp_path / "picture.png", Path(made.stdout.strip())]
    before, after = (Image.open(path).tobytes() for path in pictures)
    assert before == after


def test_a_depth_map_alone_is_the_one_that_pictures_are_guided_by(
    tmp_path: Path, cli: Call, demo_engine: Any
) -> None:
    source = Path("examples/one-object.png").read_bytes()
    body = {
        "prompt": "depth map",
        "size": "864*1636",
        "fit": "contain",
        "depth_normalization": "percentile",
        "only_depth_map": True,
        "num_images": 4,
        "enable_base64_output": True,
        "enable_sync_mode": True,
    }
    with serving(tmp_path, "--profile", "demo") as (address, _):
        wait_until_ready(address)
        data = httpx.post(
            address + SUBMIT,
            json={**body, "control_image": base64.b64encode(source).decode()},
            timeout=120,
        ).json()["data"]
    path = tmp_path / "depth.png"
    path.write_bytes(base64.b64decode(data["outputs"][0], validate=True))

    made = cli("generate", "--from-record", path, "--out", tmp_path / "again")

    painted = demo_engine.generate(
        prompt="a blue cone",
        control_image=source,
        num_inference_steps=1,
        **{name: body[name] for name in ("size", "fit", "depth_normalization")},
    )
    served = Image.open(path)
    assert (data["status"], data["has_nsfw_contents"], len(data["outputs"])) == (
        "completed",
        [False],
        1,
    )
    assert 0 < data["executionTime"] == data["timings"]["inference"]
    assert "denoise" not in data["timings"]
    assert (served.mode, served.size) == ("L", (864, 1636))
    assert served.tobytes() == painted.depth_map.tobytes()
    assert made.exit_code == 0, made.stderr
    assert "the same pixels as" in made.stderr
    assert Image.open(made.stdout.strip()).tobytes() == served.tobytes()


def test_an_engine_that_cannot_load_ends_the_server_with_its_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, "--profile", "demo", "--device", "cuda:7") as (_, process):
        code = process.wait(120)

    log = (tmp_path / "log").read_text()
    assert code == 3
    assert "error: " in log
    assert "cuda:7" in log
    assert "Traceback" not in log


#: What a stranger may send, in whole connections: no HTTP, two readings of a length, no path, a
#: protocol that is not spoken, forms whose every part is broken.
STRANGE = [
    b"\x16\x03\x01\x1b[2J\r\nerror: forged\r\n\r\n",
    b"GET /\x1b[2J\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\n"
    b"Upgrade: websocket\r\n\r\n",
    *(
        b"POST /api/v3/media/upload/binary HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%s"
        % (len(form), form)
        for form in (
            b"--b\r\nContent-\x1b[2J: y\r\n\r\nz\r\n--b--\r\n",
            b"--b\x1b[2J\nerror: forged",
            b"--b\r\nContent-Disposition: form-data; name=file\r\n"
            b"Content-Type: \x1b[2J\r\n\r\nz\r\n--b--\r\nerror: forged\n",
        )
    ),
]


def test_a_stranger_writes_nothing_into_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, "--profile", "demo", "-v") as (address, process):
        statuses = [_status(address, request) for request in STRANGE for _ in range(20)]
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    lines = (tmp_path / "log").read_bytes().decode().splitlines()
    assert len(statuses) == 20 * len(STRANGE)
    assert statuses.count(b"400") > 19 * 7
    assert [line for line in lines if not line.isprintable() or "forged" in line] == []
    # What the server says of itself, and each line in the one form.
    assert lines[0].startswith("listening on http://127.0.0.1:")
    assert [line for line in lines[1:] if not line.startswith(("info: ", "warning: "))] == []
    assert len(lines) < 10


def _status(address: str, request: bytes) -> bytes:
    """The status that the bytes of one connection are answered with."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 30) as stream:
        stream.sendall(request)
        answer = b"".join(iter(lambda: stream.recv(4096), b""))
    return answer[9:12]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])  # noqa: S104
def test_another_address_without_keys_is_refused(cli: Call, tmp_path: Path, host: str) -> None:
    result = cli("serve", "--host", host, "--data-dir", tmp_path / "data")

    assert result.exit_code == 3
    assert f"host={host}" in result.stderr
    assert "--api-keys-file" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_with_keys_of_the_environment_another_address_is_listened_on(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        "--profile",
        "demo",
        "--host",
        "0.0.0.0",  # noqa: S104 - what is tested
        DEPTHFLUX_API_KEYS="a-key-of-sixteen-letters",
    ) as (address, _):
        port = address.rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/api/v3/balance"
        refused = httpx.get(url)
        accepted = httpx.get(url, headers={"Authorization": "Bearer a-key-of-sixteen-letters"})

    assert (refused.status_code, accepted.status_code) == (401, 200)
    assert "a-key-of-sixteen-letters" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "port=70000"),
        (["--host", "example.org"], "host='example.org'"),
        (["--devices", "gpu0"], "devices='gpu0'"),
        (["--retention-days", "0", "--max-queued", "0"], "retention_days=0"),
        (["--public-url", "gpu.example.org"], "public_url="),
        (["--api-keys-file", "no-such-file"], "no-such-file cannot be read"),
        (["--profile", "nothing"], "profile nothing"),
        (["--set", "nothing=1"], "nothing: there is no such setting"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_is_one_line_and_exit_code_3(
    cli: Call, words: list[str], says: str
) -> None:
    result = cli("serve", *words)

    assert result.exit_code == 3
    assert says in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["", "# nothing but a comment\n", "short\n", "with a space 012345\n"]
)
def test_a_file_without_a_usable_key_is_refused_and_not_repeated(
    cli: Call, tmp_path: Path, text: str
) -> None:
    (tmp_path / "keys").write_text(text)

    result = cli("serve", "--api-keys-file", tmp_path / "keys", "--data-dir", tmp_path / "data")

    assert result.exit_code == 3
    assert "short" not in result.stderr.replace("too short", "")
    assert "with a space 0" not in result.stderr


def test_an_environment_variable_of_the_server_is_none_of_the_engine(
    cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_SERVER_PORT", "70000")
    monkeypatch.setenv("DEPTHFLUX_API_KEYS", "a-key-of-sixteen-letters")

    shown, refused = cli("config", "show", "--profile", "demo"), cli("serve")

    assert shown.exit_code == 0
    assert refused.exit_code == 3
    assert "port='70000'" in refused.stderr


def test_a_port_that_is_taken_is_refused(cli: Call, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cli("serve", "--port", taken.getsockname()[1], "--data-dir", tmp_path / "data")

    assert result.exit_code == 3
    assert "cannot listen on 127.0.0.1" in result.stderr


def test_a_data_folder_that_cannot_be_is_refused(cli: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")

    result = cli("serve", "--port", "0", "--data-dir", tmp_path / "file" / "data")

    assert result.exit_code == 3
    assert "cannot be used" in result.stderr
    assert "--data-dir" in result.stderr


def test_a_data_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/n\xff"
    command = [sys.executable, "-m", "depthflux", "serve", "--port", "0", "--data-dir", folder]

    refused = subprocess.run(command, capture_output=True, timeout=60)

    assert refused.returncode == 3
    assert b"no UTF-8 text" in refused.stderr
    assert refused.stderr.count(b"\n") <= 2


def test_signals_that_do_not_stop_change_nothing_about_a_clean_end(tmp_path: Path) -> None:
    with serving(tmp_path, "--profile", "demo", "--drain-timeout-s", "0") as (_, process):
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            time.sleep(0.005)

    assert process.returncode == 0


def test_a_server_without_standard_streams_opens_no_file_in_their_place(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"serve --profile demo --port {port} --data-dir {tmp_path}/data <&- >&- 2>&-"
    process = subprocess.Popen(["sh", "-c", f"exec {sys.executable} -m depthflux {words}"])

    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        opened = {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)}
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        # What a library prints goes nowhere, and least of all into the line to the server.
        opened |= {os.readlink(f"/proc/{worker}/fd/{number}") for number in (1, 2)}
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    finally:
        process.kill()

    assert opened == {os.devnull}
    assert code == 0


def test_a_data_folder_is_one_server_s_and_nobody_else_s(tmp_path: Path, cli: Call) -> None:
    with serving(tmp_path, "--profile", "demo") as (address, _):
        assert address
        second = cli("serve", "--port", "0", "--data-dir", tmp_path / "data")
        mode = (tmp_path / "data").stat().st_mode

    assert second.exit_code == 3
    assert "another server is using it" in second.stderr
    assert mode & 0o077 == 0
