"""scripts/test-comfyui, as much of it as needs no ComfyUI: what it refuses, and how it reads."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from comfyui_test.comfyui import ComfyUI, free_port
from comfyui_test.errors import CannotRunError, CheckFailedError
from comfyui_test.folders import environment_for, find_python, make_base, options_for
from comfyui_test.messages import (
    Run,
    parse_message,
    parse_refusal,
    unexpected_tracebacks,
)
from comfyui_test.websocket import WebSocket, client_frame, read_frame, read_head
from comfyui_test.widgets import differences
from comfyui_test.workflows import (
    DEPTH_MAP,
    ENGINE,
    GENERATE,
    fed_by,
    fields_of,
    ids_of,
    is_link,
    pointed,
    read_workflows,
)
from depthflux.contract import GenerationRequest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "test-comfyui"
#: Options of ComfyUI as its comfy/cli_args.py declares them.
OPTIONS = ("--cpu", "--listen", "--port", "--base-directory", "--disable-auto-launch")

#: RFC 6455, section 1.3.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def make_comfyui(folder: Path, main: str = "", options: tuple[str, ...] = OPTIONS) -> Path:
    """A folder that looks like ComfyUI's, its main.py ours."""
    (folder / "comfy").mkdir(parents=True)
    declared = "".join(f'parser.add_argument("{option}")\n' for option in options)
    (folder / "comfy" / "cli_args.py").write_text(declared)
    (folder / "nodes.py").write_text("")
    (folder / "main.py").write_text(main)
    return folder


# What it refuses ------------------------------------------------------------------------------


def test_a_folder_without_comfyui_is_refused_in_one_line(tmp_path: Path) -> None:
    run = subprocess.run([SCRIPT, str(tmp_path)], capture_output=True, text=True)

    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == (
        f"error: PATH='{tmp_path}' is no ComfyUI: there is no main.py in it; give the folder that "
        "holds ComfyUI's main.py.\n"
    )


def test_a_comfyui_without_an_environment_is_refused_with_the_option_to_give(
    tmp_path: Path,
) -> None:
    comfyui = make_comfyui(tmp_path / "deep" / "ComfyUI")

    run = subprocess.run([SCRIPT, str(comfyui)], capture_output=True, text=True)

    assert run.returncode == 2
    assert "no Python for ComfyUI at venv/bin/python, " in run.stderr
    assert "--python PATH/venv/bin/python" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["ComfyUI/venv", "ComfyUI/.venv", "venv"])
def test_the_environment_beside_comfyui_is_found(place: str, tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    python = tmp_path / place / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

    assert os.path.samefile(find_python(comfyui, None).parent, python.parent)


def test_an_environment_is_known_by_where_its_link_lies(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)

    assert find_python(tmp_path, python) == python


def test_options_that_a_comfyui_does_not_know_are_left_out(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path)

    options = options_for(comfyui, tmp_path / "base", 1234)

    assert [word for word in options if word.startswith("--")] == [
        "--cpu", "--listen", "--port", "--base-directory", "--disable-auto-launch",
    ]  # fmt: skip
    assert options[options.index("--listen") + 1] == "127.0.0.1"
    assert options[options.index("--port") + 1] == "1234"


def test_a_comfyui_that_would_write_into_its_own_folder_is_refused(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path, options=("--cpu", "--port"))

    with pytest.raises(CannotRunError, match="too old; it has no --base-directory"):
        options_for(comfyui, tmp_path / "base", 1234)


def test_comfyui_is_told_the_key_and_nothing_else_of_depthflux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_API_KEYS", "somebody-elses-key")
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", "https://gpu.example.org")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "scripts"), "/theirs")))

    environment = environment_for(make_base(tmp_path), "the-key")

    ours = {name: value for name, value in environment.items() if name.startswith("DEPTHFLUX_")}
    assert ours == {"DEPTHFLUX_COMFYUI_API_KEY": "the-key"}
    # Our modules are called as ComfyUI's are.
    assert environment["PYTHONPATH"] == "/theirs"


def test_a_comfyui_that_does_not_start_is_told_with_its_own_error(tmp_path: Path) -> None:
    comfyui = make_comfyui(
        tmp_path, main="import sys\nsys.stderr.write('starting\\n')\nimport no_such_module\n"
    )
    process = ComfyUI(
        [sys.executable, "main.py"],
        folder=comfyui,
        environment=dict(os.environ),
        port=free_port(),
        log=tmp_path / "comfyui.log",
    )

    with pytest.raises(CannotRunError) as caught, process:
        pytest.fail("it has started")

    assert str(caught.value) == (
        "ComfyUI ended with 1 before it listened: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )


# What ComfyUI tells ---------------------------------------------------------------------------


def test_a_run_is_read_from_its_messages_and_from_no_others() -> None:
    run = Run("a")

    for kind, data in [
        ("execution_start", {"prompt_id": "a"}),
        ("execution_cached", {"prompt_id": "a", "nodes": ["1"]}),
        ("executing", {"prompt_id": "a", "node": "2"}),
        ("progress", {"prompt_id": "a", "node": "2", "value": 3, "max": 28}),
        ("progress", {"prompt_id": "b", "node": "2", "value": 9, "max": 9}),
        ("executed", {"prompt_id": "a", "node": "3", "output": {"images": ["picture"]}}),
        ("executed", {"prompt_id": "a", "node": "4", "output": None}),
        ("execution_error", {"prompt_id": "b", "exception_message": "another's"}),
        ("execution_success", {"prompt_id": "a"}),
        ("executing", {"prompt_id": "a", "node": None}),
    ]:
        run.take(kind, data)

    assert run.end == "execution_success"
    assert run.cached == {"1"}
    assert run.executed == ["2"]
    assert run.progress == {"2": [(3, 28)]}
    assert run.outputs == {"3": {"images": ["picture"]}, "4": {}}
    run.require_success()


def test_a_run_that_failed_says_what_the_node_shows() -> None:
    run = Run("a")

    run.take("execution_error", {"prompt_id": "a", "exception_message": "no server.\n"})

    assert run.error_text() == "no server."
    with pytest.raises(CheckFailedError, match="it ended in execution_error: no server"):
        run.require_success()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "status"}', '{"type": 1, "data": 2}'])
def test_what_is_no_message_is_told(text: str) -> None:
    with pytest.raises(CheckFailedError, match="no message of ComfyUI"):
        parse_message(text)


def test_a_refusal_is_read_by_node() -> None:
    told = {"message": "Custom validation failed for node", "details": "size - size='1' is not"}
    document = {
        "error": {"type": "prompt_outputs_failed_validation"},
        "node_errors": {"2": {"class_type": GENERATE, "errors": [told]}},
    }

    assert parse_refusal(document).nodes == {
        "2": "Custom validation failed for node: size - size='1' is not"
    }
    assert parse_refusal({"error": "no prompt", "node_errors": {}}).nodes == {"": "no prompt"}


def test_tracebacks_are_told_unless_comfyui_has_announced_them() -> None:
    announced = (
        "got prompt\n!!! Exception during processing !!! no server\n"
        "Traceback (most recent call last):\n  File\nConnectionRefusedError: refused\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  File\ndepthflux.errors.NoAnswerError: no server\n"
    )
    alone = "Traceback (most recent call last):\n  File\nValueError: ours\nExecuted\n"

    assert unexpected_tracebacks(announced) == []
    assert unexpected_tracebacks(alone) == ["ValueError: ours"]
    assert unexpected_tracebacks(announced + "Executed\n" + alone) == ["ValueError: ours"]


# The widgets ----------------------------------------------------------------------------------


def seed_widget(**changes: object) -> dict[str, object]:
    description = GenerationRequest.model_fields["seed"].description
    options = {
        "default": -1,
        "min": -1,
        "max": 9_999_999_999,
        "control_after_generate": True,
        "tooltip": description,
    }
    return {"input": {"optional": {"seed": ["INT", options | changes]}}}


def test_a_widget_as_the_contract_declares_it_differs_in_nothing() -> None:
    assert differences(seed_widget(), {"seed"}) == []


@pytest.mark.parametrize(
    ("info", "fields", "line"),
    [
        (seed_widget(max=2**32), {"seed"}, "seed: max is 4294967296 and not 9999999999"),
        (seed_widget(default=0), {"seed"}, "seed: default is 0 and not -1"),
        (seed_widget(), {"seed", "size"}, "size: has no widget"),
        (seed_widget(), set[str](), "seed: has a widget"),
        ({"input": {"required": {"fit": [["cover"], {}]}}}, {"fit"}, "fit: type is ['cover']"),
    ],
    ids=["range", "default", "missing", "too many", "choices"],
)
def test_a_widget_that_is_not_as_declared_is_told(
    info: dict[str, object], fields: set[str], line: str
) -> None:
    assert any(found.startswith(line) for found in differences(info, fields))


# The examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(read_workflows()))
def test_a_pointed_example_asks_the_engine_under_test_and_no_other(name: str) -> None:
    engine = {"profile": "auto", "address": "http://127.0.0.1:5"}

    workflow = pointed(read_workflows()[name], engine, "mine.png")

    assert [workflow[id]["inputs"]["image"] for id in ids_of(workflow, "LoadImage")] == ["mine.png"]
    for id in ids_of(workflow, ENGINE):
        assert workflow[id]["inputs"] == engine
    for id in ids_of(workflow, GENERATE) + ids_of(workflow, DEPTH_MAP):
        source, output = workflow[id]["inputs"]["engine"]
        assert (workflow[source]["class_type"], output) == (ENGINE, 0)


def test_the_examples_are_what_the_checks_look_for_in_them() -> None:
    workflows = read_workflows()

    generate = workflows["generate"]
    (id,) = ids_of(generate, GENERATE)
    GenerationRequest(**fields_of(generate, GENERATE))
    for kind, output in (("SaveImage", 0), ("PreviewImage", 1), ("PreviewAny", 2)):
        assert len(fed_by(generate, kind, id, output)) == 1
    assert len(ids_of(workflows["depth-map"], DEPTH_MAP)) == 1
    assert len(ids_of(workflows["two-engines"], ENGINE)) == 2


@pytest.mark.parametrize(
    ("value", "link"),
    [(["1", 0], True), ("1", False), ([], False), (["1", 0, 2], False), (1.0, False)],
)
def test_a_link_is_told_from_a_value(value: object, link: bool) -> None:
    assert is_link(value) is link


# The WebSocket --------------------------------------------------------------------------------


def server_frame(code: int, data: bytes, *, last: bool = True) -> bytes:
    """A frame as servers send it, not masked."""
    first = bytes([(0x80 if last else 0) | code])
    if len(data) < 126:
        return first + bytes([len(data)]) + data
    if len(data) < 2**16:
        return first + bytes([126]) + struct.pack("!H", len(data)) + data
    return first + bytes([127]) + struct.pack("!Q", len(data)) + data


@contextmanager
def web_socket_server(
    talk: Callable[[socket.socket], None], *, accept: bytes | None = None
) -> Iterator[int]:
    """A server that takes one WebSocket; its port.

    Args:
        talk: what it says then.
        accept: what it proves itself by; None for what the protocol asks of it.
    """

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as stream:
            _, headers = read_head(stream)
            key = headers["sec-websocket-key"].encode()
            proof = hashlib.sha1(key + MAGIC, usedforsecurity=False).digest()
            answer = accept or base64.b64encode(proof)
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + answer
                + b"\r\n\r\n"
            )  # fmt: skip
            talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_messages_of_every_length_and_in_parts_are_read() -> None:
    texts = ["", "a", "b" * 125, "c" * 126, "d" * 65_536]

    def talk(connection: socket.socket) -> None:
        for text in texts:
            connection.sendall(server_frame(1, text.encode()))
        connection.sendall(server_frame(1, b"in ", last=False) + server_frame(0, b"parts"))
        connection.sendall(server_frame(2, b"\x00\xff"))

    with (
        web_socket_server(talk) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
    ):
        received = [web_socket.receive(5) for _ in range(len(texts) + 2)]

    assert received == [*texts, "in parts", b"\x00\xff"]


def test_a_ping_is_answered_masked_and_the_message_behind_it_is_read() -> None:
    answered: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(server_frame(9, b"still there?") + server_frame(1, b"news"))
        answered.append(connection.recv(1000))

    with (
        web_socket_server(talk) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
    ):
        received = web_socket.receive(5)

    assert received == "news"
    frame = answered[0]
    assert frame[:2] == bytes([0x80 | 10, 0x80 | len(b"still there?")])
    mask, masked = frame[2:6], frame[6:]
    assert bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked)) == b"still there?"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (server_frame(8, b""), "has closed its WebSocket"),
        (b"", "has hung up"),
        (server_frame(1, b"whole")[:-1], "has hung up"),
        (client_frame(1, b"masked"), "no frame that a server sends"),
        (bytes([0x81, 127]) + struct.pack("!Q", 2**40), "no frame that a server sends"),
    ],
    ids=["closed", "hung up", "cut off", "masked", "too large"],
)
def test_what_ends_a_connection_is_told(sent: bytes, words: str) -> None:
    with (
        web_socket_server(lambda connection: connection.sendall(sent)) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
        pytest.raises(CheckFailedError, match=words),
    ):
        web_socket.receive(5)


def test_a_server_that_cannot_prove_that_it_speaks_the_protocol_is_refused() -> None:
    with (
        web_socket_server(lambda _connection: None, accept=b"bm8=") as port,
        pytest.raises(CheckFailedError, match="no WebSocket at /ws"),
    ):
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5)


def test_a_silent_server_is_not_waited_for_longer_than_asked() -> None:
    over = threading.Event()

    with (
        web_socket_server(lambda _connection: over.wait(10) or None) as port,
        WebSocket("127.0.0.1", port, "/ws", timeout_s=5) as web_socket,
    ):
        with pytest.raises(TimeoutError):
            web_socket.receive(0.05)
        over.set()


def test_a_frame_says_whether_it_is_the_last_of_its_message() -> None:
    stream = io.BytesIO(server_frame(1, b"one", last=False) + server_frame(0, b"two"))

    assert read_frame(stream) == (False, 1, b"one")
    assert read_frame(stream) == (True, 0, b"two")
