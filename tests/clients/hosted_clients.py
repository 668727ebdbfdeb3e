"""The hosted endpoint's own clients: which there are, what each can do, installing, calling.

Each is installed from its registry into a folder of its own below build/clients/, and used by a
program of its own in drivers/. The folders stay, so that the next run is quick; the newest
versions are looked for once a day.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / "build" / "clients"
#: Enough for a cold registry on a slow line.
INSTALL_TIMEOUT_S = 300
#: Enough for a request that waits behind others on one busy core.
CALL_TIMEOUT_S = 120


@dataclass(frozen=True)
class HostedClient:
    """One version of a client.

    Attributes:
        name: as the tests are called.
        requirement: what its installer is asked for.
        driver: the program in drivers/ that uses it.
        base_path: what its base URL ends in; the default one's does, too.
        ways: the driver's ways of using it that it really has.
    """

    name: str
    requirement: str
    driver: str
    base_path: str
    ways: frozenset[str]

    @property
    def is_pinned(self) -> bool:
        """Whether the requirement names one version for ever."""
        return re.search(r"(==|@)[\d.]+$", self.requirement) is not None


_EARLY = {"run", "sync", "create_then_wait"}
_LATER = {"run", "sync", "upload_then_run", "run_with_retries"}

CLIENTS = (
    HostedClient(
        "python-0.0.5",
        "wavespeed==0.0.5",
        "python_0_0_5.py",
        "/api/v2/",
        frozenset(_EARLY | {"run_asynchronously"}),
    ),
    HostedClient(
        "python-1.0.3",
        "wavespeed==1.0.3",
        "python_1_0_3.py",
        "",
        frozenset(_LATER | {"run_of_the_module"}),
    ),
    HostedClient(
        "python-newest",
        "wavespeed>=2,<3",
        "python_2.py",
        "",
        frozenset(_LATER | {"run_of_the_module", "run_without_raising"}),
    ),
    HostedClient(
        "javascript-0.0.15",
        "wavespeed@0.0.15",
        "javascript_0_0_15.cjs",
        "/api/v3/",
        frozenset(_EARLY | {"upload_then_run", "run_with_webhook"}),
    ),
    HostedClient(
        "javascript-0.2.3",
        "wavespeed@0.2.3",
        "javascript_0_2_3.mjs",
        "",
        frozenset(_LATER | {"run_without_raising"}),
    ),
    HostedClient(
        "javascript-newest",
        "wavespeed@latest",
        "javascript_newest.mjs",
        "",
        frozenset(_LATER | {"run_without_raising"}),
    ),
)


@dataclass(frozen=True)
class Endpoint:
    """What a user tells a client: where the server is, and the key it wants."""

    url: str
    key: str


@dataclass(frozen=True)
class Answer:
    """What a user of the client sees: what it returned, or what it raised.

    Attributes:
        returned: the returned value as JSON; None where it raised.
        raised: class and message of what it raised, and the response where that holds one.
    """

    returned: dict[str, Any] | None
    raised: dict[str, str] | None

    @property
    def error_text(self) -> str:
        """All that is said about what went wrong."""
        assert self.raised is not None, f"nothing was raised, but returned: {self.returned}"
        return " ".join(self.raised.values())

    @property
    def error_body(self) -> dict[str, Any]:
        """The server's answer, which the clients repeat in what they raise."""
        body = re.search(r"\{.*\}", self.error_text)
        assert body is not None, self.error_text
        return json.loads(body[0])


def call(client: HostedClient, way: str, endpoint: Endpoint, request: dict[str, Any]) -> Answer:
    """Use a client in one of its ways, in a process of its own.

    Nothing of this shell reaches it but the path: no proxy, no key, no settings.
    """
    program = _program(client, install(client))
    words = [way, endpoint.url + client.base_path, json.dumps(request)]
    process = subprocess.run(
        [*program, *words],
        env={"PATH": os.environ["PATH"], "WAVESPEED_API_KEY": endpoint.key},
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_S,
    )
    assert process.returncode == 0, f"{client.name}: {process.stderr}\n{process.stdout}"
    document = json.loads(process.stdout.splitlines()[-1])
    return Answer(document.get("returned"), document.get("raised"))


@functools.cache
def install(client: HostedClient) -> Path:
    """The client's folder; the test is skipped with the reason where it cannot be installed."""
    if not _is_python(client) and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip(f"{client.name} needs Node.js and npm on the path")
    folder = INSTALLED / client.name
    stamp = folder / "installed"
    wanted = client.requirement if client.is_pinned else f"{client.requirement} {_today()}"
    INSTALLED.mkdir(parents=True, exist_ok=True)
    # Several processes may share the tests.
    with (INSTALLED / f"{client.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install_it = _install_python if _is_python(client) else _install_javascript
            install_it(folder, client.requirement)
            stamp.write_text(wanted)
    return folder


def _install_python(folder: Path, requirement: str) -> None:
    """A virtual environment, filled by the pip of the tests with its own configuration."""
    python = folder / "bin" / "python"
    _run(requirement, sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    _run(requirement, *pip, "install", "--quiet", requirement)


def _install_javascript(folder: Path, requirement: str) -> None:
    """A project with one dependency, whose scripts do not run."""
    (folder / "package.json").write_text('{"private": true}\n')
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock")
    _run(requirement, "npm", "install", "--prefix", folder, *options, requirement)


def _run(requirement: str, *words: str | Path) -> None:
    process = subprocess.run(
        words, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, cwd=INSTALLED
    )
    if process.returncode != 0:
        said = (process.stderr or process.stdout).strip().splitlines() or ["no reason given"]
        pytest.skip(f"{requirement} cannot be installed: {said[-1]}")


def _program(client: HostedClient, folder: Path) -> tuple[Path | str, ...]:
    driver = HERE / "drivers" / client.driver
    if _is_python(client):
        return folder / "bin" / "python", driver
    # Node.js looks for packages beside the program, which is where a user's own would be.
    return "node", shutil.copy(driver, folder)


def _is_python(client: HostedClient) -> bool:
    return client.driver.endswith(".py")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
