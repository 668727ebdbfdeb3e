"""`depthflux bench hosted` as a real process, and what the tests of whole runs look at it with."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthflux.bench.document import Document
from stand_in.running import SOURCE

KEY = "hosted-stub-key-0123456789"
EXAMPLES = Path("examples").absolute()
CASES = ("ant", "bee", "cat", "dog", "eel", "fox")
SUITE = """
description = "Six small cases."
[defaults]
size = "512*512"
num_inference_steps = 1
"""
CASE = """
[[case]]
name = "{name}"
control_image = "{picture}"
prompt = "paint {name}"
seed = {seed}
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Its one line that begins with `error:`."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


class Bench:
    """`depthflux bench hosted` with a suite and a folder of its own."""

    def __init__(self, folder: Path, cases: tuple[str, ...] = CASES, *, more: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.suite = folder / "out", folder / "small.toml"
        pictures = ("one-object.png", "two-objects.png", "three-objects.png")
        self.suite.write_text(
            SUITE
            + "".join(
                CASE.format(name=name, picture=EXAMPLES / pictures[seed % 3], seed=10 * seed)
                for seed, name in enumerate(cases)
            )
            + more
        )
        self.environment = {
            **{name: of for name, of in os.environ.items() if name != "WAVESPEED_API_KEY"},
            "PYTHONPATH": str(SOURCE),
            "WAVESPEED_API_KEY": KEY,
        }

    def start(self, *words: object, suite: bool = True) -> subprocess.Popen[str]:
        """Start it; polls are quick, unless it is left to a recording how it was asked."""
        command = [sys.executable, "-m", "depthflux", "bench", "hosted", "--out", str(self.out)]
        if suite:
            command += ["--suite", str(self.suite), "--poll-interval", "0.1"]
        return subprocess.Popen(
            [*command, *map(str, words)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: object, suite: bool = True) -> Ended:
        """Run it to its end."""
        return ended(self.start(*words, suite=suite))

    def document(self) -> Document:
        """What it has written, read strictly."""
        return Document.model_validate_json((self.out / "report.json").read_bytes())

    def outcomes(self, side: str = "hosted") -> dict[str, dict[str, Any]]:
        """The outcomes of a side that are there, by task."""
        files = sorted((self.out / side).glob("*/outcome.json"))
        return {file.parent.name: json.loads(file.read_bytes()) for file in files}


class Gate:
    """Lets connections through to another port of 127.0.0.1, or, closed, refuses them."""

    def __init__(self, port: int) -> None:
        self._port, self._listening = port, socket.create_server(("127.0.0.1", 0))
        self._own = self._listening.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._own}"
        self._serve()

    def close(self) -> None:
        """Refuse new connections, and break those that there are."""
        # A thread that waits in accept keeps the socket alive.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Let connections through again, at the same address."""
        self._listening = socket.create_server(("127.0.0.1", self._own))
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._pairs += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def ended(process: subprocess.Popen[str]) -> Ended:
    """What a process said, once it has ended."""
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


def wait_for(process: subprocess.Popen[str], look: Callable[[], bool]) -> None:
    """Wait until something is there, while a process goes on."""
    end = time.monotonic() + 120
    while not look():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def port_of(address: str) -> int:
    """The port of an address."""
    return int(address.rpartition(":")[2])


def absolute_paths(value: object) -> list[str]:
    """What in a JSON document's texts looks like a path of a machine, however deep it stands."""
    if isinstance(value, str):
        return re.findall(r"(?<![\w:/.*<])/[\w.-]+(?:/[\w.-]+)*", value)
    if isinstance(value, dict):
        return [path for pair in value.items() for part in pair for path in absolute_paths(part)]
    return (
        [path for part in value for path in absolute_paths(part)] if isinstance(value, list) else []
    )


def descendants(pid: int) -> list[tuple[int, str]]:
    """The living processes that a process has started, and those that they have: id and start."""
    parents: dict[int, tuple[int, str]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent, …, the start in ticks.
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            parents[int(place.name)] = int(fields[1]), fields[19]
    found = {pid}
    while more := {child for child, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return [(child, parents[child][1]) for child in sorted(found - {pid})]


def are_gone(processes: list[tuple[int, str]], within_s: float = 30) -> bool:
    """Whether processes have ended, or do so soon; another one of the same id is another."""
    end = time.monotonic() + within_s
    while any(_is_alive(*process) for process in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _is_alive(pid: int, start: str) -> bool:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] != "Z" and fields[19] == start
    return False
