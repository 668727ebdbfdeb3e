"""A stand-in server as a context: started, asked, killed, started again in the same folder."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from PIL import Image

import depthflux

ROOT = Path(__file__).resolve().parents[2]
#: The depthflux that is imported here runs there, too: scripts/undefended imports a changed copy.
SOURCE = Path(depthflux.__file__).resolve().parents[1]
Found = TypeVar("Found")

SUBMIT = "/api/v3/wavespeed-ai/flux-control-lora-depth"


def grey_picture(level: int) -> str:
    """A PNG of 2 x 2 pixels of a grey level, as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (level, level, level)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = grey_picture(128)


class StandInServer:
    """A server process with stand-in workers.

    Attributes:
        address: where it listens, such as `http://127.0.0.1:41233`.
        client: a client of it.
        data_dir: its folder.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        stand_in: dict[str, Any] | None = None,
        keys: tuple[str, ...] = (),
        engine: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Start nothing yet.

        Args:
            data_dir: the server's folder.
            stand_in: the painter's options, see stand_in.painter.
            keys: API keys.
            engine: settings of the engine, as texts.
            environment: further variables of its processes.
            settings: the server's.
        """
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        self._settings = {"port": 0, **settings, "keys": list(keys), "engine": engine or {}}
        self._stand_in, self._keys = stand_in or {}, keys
        self._environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self.address, self.client = "", httpx.Client()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        if self._process is not None and self._process.returncode is None:
            self.kill()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it listens, and by default until a worker can paint."""
        environment = {
            **os.environ,
            **self._environment,
            "STAND_IN": json.dumps(self._stand_in),
            "PYTHONPATH": os.pathsep.join((str(SOURCE), str(ROOT / "scripts"))),
        }
        settings = {**self._settings, "data_dir": str(self.data_dir)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stand_in.server", json.dumps(settings)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"the server did not start: {self.log.read_text()}")
        key = {"Authorization": f"Bearer {self._keys[0]}"} if self._keys else {}
        self.client.close()
        self.client = httpx.Client(base_url=self.address, headers=key, timeout=120)
        if ready:
            self.until(lambda: self.client.get("/readyz").status_code == 200 or None)

    def kill(self) -> None:
        """End the server as kill -9 does; its workers notice."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._reap(timeout_s)

    def _reap(self, timeout_s: float = 30) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.wait(timeout_s)
        self._process.stdout.close()
        return code

    def worker_pids(self) -> list[int]:
        """The processes of its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def submit(self, prompt: str = "paint", **fields: Any) -> dict[str, Any]:
        """Submit a prediction and give its data."""
        body = {
            "prompt": prompt,
            "control_image": PICTURE,
            "size": "512*512",
            "num_inference_steps": 4,
            "seed": 1,
            **fields,
        }
        response = self.client.post(SUBMIT, json=body)
        response.raise_for_status()
        data: dict[str, Any] = response.json()["data"]
        return data

    def read(self, id: str) -> dict[str, Any]:
        """A prediction's data."""
        response = self.client.get(f"/api/v3/predictions/{id}")
        response.raise_for_status()
        data: dict[str, Any] = response.json()["data"]
        return data

    def wait(self, id: str, timeout_s: float = 30) -> dict[str, Any]:
        """A prediction's data once it has ended."""

        def over() -> dict[str, Any] | None:
            data = self.read(id)
            return data if data["status"] in ("completed", "failed") else None

        return self.until(over, timeout_s)

    def until(self, look: Callable[[], Found | None], timeout_s: float = 30) -> Found:
        """What `look` finds, once it finds something; connections may fail meanwhile."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            try:
                found = look()
            except httpx.TransportError:
                found = None
            if found is not None:
                return found
            time.sleep(0.02)
        raise TimeoutError(
            f"nothing came within {timeout_s} s; log: {self.log.read_text()[-3000:]}"
        )
