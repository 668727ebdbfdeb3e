"""What the tests of the hosted clients share: a live server with keys, a host of pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hosted_clients import Endpoint
from picture_host import PictureHost, hosting

#: The one key that the server lets in.
KEY = "a-key-of-these-tests"
#: Loading the miniature takes seconds; on two busy cores more.
READY_TIMEOUT_S = 180


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A `depthflux serve` on the packaged miniature, ready, with keys required."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "keys.txt").write_text(f"{KEY}\n")
    options = {
        "--host": "127.0.0.1",
        "--port": "0",
        "--profile": "demo",
        "--data-dir": folder / "data",
        "--api-keys-file": folder / "keys.txt",
        # The pictures of these tests are on this machine.
        "--set": "allow_private_addresses=true",
    }
    words = [str(word) for option in options.items() for word in option]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "depthflux", "serve", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
    with process:
        address = process.stdout.readline().strip()
        try:
            _wait_until_ready(address, folder / "log.txt")
            yield Endpoint(address, KEY)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def scene() -> Path:
    """The picture that all requests are about."""
    return Path(__file__).parents[2] / "examples" / "one-object.png"


@pytest.fixture(scope="session")
def pictures(scene: Path) -> Iterator[PictureHost]:
    """A host on this machine with the scene."""
    with hosting(scene.read_bytes()) as host:
        yield host


def _wait_until_ready(address: str, log: Path) -> None:
    end = time.monotonic() + READY_TIMEOUT_S
    while address and time.monotonic() < end:
        if httpx.get(f"{address}/readyz", trust_env=False).status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError(f"the server did not become ready: {log.read_text()[-2000:]}")
