"""A local profile behind its own HTTP server, for as long as it is measured.

The server is `depthflux serve` as anybody starts it, in a process of its own, on a free port of
127.0.0.1, with a key and a data folder that nobody else knows. It is told nothing of the user's
server: variables of that one are left out, and so is the hosted key. It ends with the block, and
with this process whatever kills it.

Knows nothing of what is asked of it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from depthflux.bench.hosted.accounts import KEY_VARIABLE
from depthflux.errors import SetupError
from depthflux.files import make_folder
from depthflux.logs import one_line
from depthflux.scratch import scratch_folder
from depthflux.settings import SERVER_PREFIX

#: Where `depthflux serve` looks for keys beside its file.
SERVER_KEYS = "DEPTHFLUX_API_KEYS"
#: Loading FLUX from a slow disk and compiling it takes minutes, not hours.
LOAD_TIMEOUT_S = 3600.0
#: How long it may take from its start until it listens, and from SIGTERM to its end.
LISTEN_TIMEOUT_S, END_TIMEOUT_S = 120.0, 20.0
LOOK_S = 0.1
#: The last lines of its log, among which an error's is looked for.
LAST_LINES = 50
MOST_SHOWN_CHARACTERS = 400

#: Lines of its log that are no reason for its end.
_NEWS = ("info: ", "listening on ")

#: Nothing of the measured is to be refused or put off by bounds meant for strangers, and what runs
#: when the server is told to end is wanted by nobody.
_SERVER_OPTIONS = {
    "--host": "127.0.0.1",
    "--port": "0",
    "--key-requests-per-minute": "0",
    "--drain-timeout-s": "0",
}


class LocalServer:
    """A server process with a profile, as a context.

    Attributes:
        address: where it listens, such as `http://127.0.0.1:41233`.
        key: its API key.
        load_seconds: from its start until it could paint.
    """

    def __init__(
        self, profile: str, settings: Mapping[str, Any], *, device: str, log: Path
    ) -> None:
        """Start nothing yet.

        Args:
            profile: a profile's name, a TOML file's path, or `auto`.
            settings: engine settings that win over the profile's.
            device: the one that it runs on, such as `cuda:0`; left to itself it would take all.
            log: where its standard error is kept, behind what is there.
        """
        self._profile, self._settings, self._log = profile, settings, log
        self._device = device
        self.address, self.key = "", secrets.token_urlsafe(32)
        self.load_seconds = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._errors = 0

    def __enter__(self) -> Self:
        """Start it and wait until it can paint.

        Raises:
            SetupError: it cannot be loaded, or not in time; the message is its own.
            OutputError: its log cannot be written.
        """
        start = time.perf_counter()
        make_folder(self._log.parent)
        self._errors = self._log.stat().st_size if self._log.exists() else 0
        try:
            process = self._start()
            self.address = self._read_address(process)
            self._wait_until_ready(process)
        except BaseException:
            self.end()
            raise
        self.load_seconds = time.perf_counter() - start
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process, and wait for that; no more than some seconds are given to it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
        finally:
            # Also where Ctrl-C ends the waiting.
            process.kill()
            with process:
                pass

    def last_words(self) -> str:
        """What it said at its end; empty while it runs."""
        if self._process is None or self._process.poll() is None:
            return ""
        return self._last()

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(),
                text=True,
                # Ctrl-C is for this process; it ends the server itself.
                start_new_session=True,
            )
        return self._process

    def _command(self) -> list[str]:
        data = scratch_folder() / f"server-{secrets.token_hex(8)}"
        options = {**_SERVER_OPTIONS, "--data-dir": str(data), "--devices": self._device}
        options["--profile"] = self._profile
        words = [word for option in options.items() for word in option]
        for name, value in self._settings.items():
            words += ["--set", f"{name}={_as_text(value)}"]
        tied = (sys.executable, "-m", "depthflux.bench.hosted.tied", str(os.getpid()))
        return [*tied, "serve", *words]

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(SERVER_PREFIX) and name != KEY_VARIABLE
        }
        return {**kept, SERVER_KEYS: self.key}

    def _read_address(self, process: subprocess.Popen[str]) -> str:
        """The one line that it prints."""
        if process.stdout is None:
            raise SetupError("the local server has no standard output; try again.")
        lines: deque[str] = deque()
        stream = process.stdout
        reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
        reader.start()
        reader.join(LISTEN_TIMEOUT_S)
        address = lines[0].strip() if lines else ""
        if not address:
            if not lines:
                process.kill()  # it lives, and says nothing
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
            raise self._not_loaded()
        return address

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + LOAD_TIMEOUT_S
        while not _answers(f"{self.address}/readyz"):
            if process.poll() is not None:
                raise self._not_loaded()
            if time.monotonic() > end:
                raise SetupError(
                    f"the local server of profile {self._profile} was not ready within "
                    f"{LOAD_TIMEOUT_S:.0f} s; see {self._log}."
                )
            time.sleep(LOOK_S)

    def _not_loaded(self) -> SetupError:
        return SetupError(f"the local server of profile {self._profile}: {self._last()}")

    def _last(self) -> str:
        """The last error that it told, else its last line that is no news."""
        with self._log.open("rb") as log:
            log.seek(self._errors)
            text = log.read().decode("utf-8", "replace")
        lines = [line.strip() for line in deque(text.splitlines(), LAST_LINES) if line.strip()]
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        other = [line for line in lines if not line.startswith(_NEWS)]
        code = None if self._process is None else self._process.poll()
        mute = f"it ended without a word (exit code {code}); see {self._log}."
        return one_line((told or other or [mute])[-1])[:MOST_SHOWN_CHARACTERS]


def _answers(address: str) -> bool:
    """Whether an address of this machine answers 200, asked past any proxy."""
    try:
        with build_opener(ProxyHandler({})).open(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False


def _as_text(value: object) -> str:
    """A setting as --set takes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
