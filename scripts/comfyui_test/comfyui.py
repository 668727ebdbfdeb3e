"""A ComfyUI process, and its HTTP API.

Knows nothing of depthflux.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from comfyui_test.errors import CannotRunError, CheckFailedError
from comfyui_test.messages import Refusal, Run, parse_message, parse_refusal
from comfyui_test.websocket import WebSocket
from comfyui_test.workflows import Workflow

HOST = "127.0.0.1"
#: How long it may take to listen, from the disk, and to end, in seconds.
START_S, END_S = 120.0, 10.0
#: How long one call may take, and one run, in seconds.
CALL_S, RUN_S = 30.0, 90.0

OnMessage = Callable[[Run], None]


class ComfyUI:
    """ComfyUI's process, as a context.

    Attributes:
        client: what it knows us by: it tells whoever queued a workflow how it goes.
        log: the file of its output.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], port: int,
        log: Path,
    ) -> None:  # fmt: skip
        """Start nothing yet.

        Args:
            command: what starts it.
            folder: where it is started.
            environment: its variables.
            port: where it will listen.
            log: where its output goes.
        """
        self._command, self._folder, self._environment = command, folder, environment
        self.port, self.log = port, log
        self.client = secrets.token_hex(16)
        self._opener = build_opener(ProxyHandler({}))
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: WebSocket | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the test, which ends it itself.
                start_new_session=True,
            )
        try:
            self._wait_until_it_listens(self._process)
            path = f"/ws?{urlencode({'clientId': self.client})}"
            self._socket = WebSocket(HOST, self.port, path, timeout_s=CALL_S)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process, and wait for that."""
        if self._socket is not None:
            self._socket.close()
        process, self._process = self._process, None
        if process is None:
            return
        # As Ctrl-C does: what it has printed and not yet written is written then.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()

    def log_text(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    # Its API -----------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        """ComfyUI's version, torch's and Python's."""
        system = self.ask("/system_stats")["system"]
        return {
            "ComfyUI": str(system.get("comfyui_version", "?")),
            "torch": str(system.get("pytorch_version", "?")),
            "Python": str(system.get("python_version", "?")).split()[0],
        }

    def node_info(self, kind: str) -> dict[str, Any]:
        """What the page is told of a node; empty where there is no such node."""
        found: dict[str, Any] = self.ask(f"/object_info/{kind}").get(kind, {})
        return found

    def upload(self, picture: Path) -> str:
        """Put a picture into its input folder; the name that it has there."""
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{picture.name}"\r\nContent-Type: image/png\r\n\r\n'
        )
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = self._send("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return str(json.loads(answer)["name"])

    def view(self, image: Mapping[str, str]) -> bytes:
        """The bytes of a picture that a node has told of."""
        query = {name: image[name] for name in ("filename", "subfolder", "type")}
        return self._send(f"/view?{urlencode(query)}")

    def history(self, id: str) -> dict[str, Any]:
        """What it keeps of a run, once that has ended."""
        end = time.monotonic() + CALL_S
        while time.monotonic() < end:
            if found := self.ask(f"/history/{id}"):
                kept: dict[str, Any] = found[id]
                return kept
            time.sleep(0.05)
        raise CheckFailedError(f"there is no history of the run {id}.")

    def interrupt(self) -> None:
        """Stop what runs, as the page's button does."""
        self._send("/interrupt", b"")

    def queue(self, workflow: Workflow) -> Run | Refusal:
        """Queue a workflow; its run, or why it is refused."""
        body = json.dumps({"prompt": workflow, "client_id": self.client}).encode()
        try:
            answer = self._send("/prompt", body, "application/json")
        except HTTPError as error:
            with error:
                return parse_refusal(json.loads(error.read()))
        return Run(str(json.loads(answer)["prompt_id"]))

    def run(self, workflow: Workflow, on_message: OnMessage = lambda _run: None) -> Run:
        """Queue a workflow and follow it to its end, whichever that is.

        Args:
            workflow: in API format.
            on_message: told of the run after each message.

        Raises:
            CheckFailedError: it is refused, or does not end in time.
        """
        queued = self.queue(workflow)
        if isinstance(queued, Refusal):
            raise CheckFailedError(f"ComfyUI refuses it: {queued.nodes}")
        self.follow(queued, on_message)
        return queued

    def follow(self, run: Run, on_message: OnMessage = lambda _run: None) -> None:
        """Read messages until a run has ended.

        Raises:
            CheckFailedError: it does not end in time.
        """
        if self._socket is None:
            raise CheckFailedError("ComfyUI is not running.")
        end = time.monotonic() + RUN_S
        while not run.end:
            try:
                message = self._socket.receive(max(0.01, end - time.monotonic()))
            except TimeoutError as error:
                raise CheckFailedError(f"it has not ended within {RUN_S:.0f} s.") from error
            if isinstance(message, str):
                run.take(*parse_message(message))
                on_message(run)

    def ask(self, path: str) -> Any:
        """The document at a path."""
        return json.loads(self._send(path))

    def _send(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        request = Request(f"http://{HOST}:{self.port}{path}", data=body)
        if kind:
            request.add_header("Content-Type", kind)
        with self._opener.open(request, timeout=CALL_S) as answer:
            data: bytes = answer.read()
        return data

    def _wait_until_it_listens(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if process.poll() is not None:
                lines = [line for line in self.log_text().splitlines() if line.strip()]
                told = [line for line in lines if "Error" in line] or lines or ["no word"]
                raise CannotRunError(
                    f"ComfyUI ended with {process.returncode} before it listened: {told[-1]}"
                )
            try:
                self.ask("/system_stats")
            except (URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
            else:
                return
        raise CannotRunError(f"ComfyUI did not listen within {START_S:.0f} s.")


def free_port() -> int:
    """A port that nobody listens at; ComfyUI does not tell which one it takes by itself."""
    with socket.create_server((HOST, 0)) as found:
        port: int = found.getsockname()[1]
    return port
