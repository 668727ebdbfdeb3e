"""A process's own folder: gone when it ends as it should, and swept by the next one otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MAKE = """
import os, signal, sys
from depthflux.scratch import scratch_folder
from depthflux.server.orders import end

folder = scratch_folder()
(folder / "kernel.so").write_bytes(b"compiled")
print(folder.parent, "torch" in sys.modules, flush=True)
sys.stdin.readline()
"""


@contextmanager
def process(temporary: Path, last: str) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A process that has made its folder and waits for a line; then it ends so."""
    made = subprocess.Popen(
        [sys.executable, "-c", MAKE + last],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with made:
        try:
            assert made.stdout is not None
            place, has_torch = made.stdout.readline().split()
            assert has_torch == "False"
            yield Path(place), made
        finally:
            made.kill()


def run(temporary: Path, last: str) -> Path:
    """The folder of a process that has ended so."""
    with process(temporary, last) as (folder, made):
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        made.communicate("end\n", timeout=60)
    return folder


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("last", ["", "end(0)", "end(75)"], ids=["python-s-end", "end", "broken"])
def test_a_process_that_ends_in_order_leaves_nothing(last: str, tmp_path: Path) -> None:
    run(tmp_path, last)

    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_s_end_leaves_its_parent_the_folder(tmp_path: Path) -> None:
    fork = "child = os.fork()\nif not child: end(0)\nos.waitpid(child, 0)\n"

    folder = run(tmp_path, fork + KILLED)

    assert (folder / "inside" / "kernel.so").exists()


def test_what_a_killed_process_has_left_is_swept_by_the_next(tmp_path: Path) -> None:
    left = run(tmp_path, KILLED)
    assert (left / "inside" / "kernel.so").exists()

    with process(tmp_path, "") as (folder, _):
        assert list(tmp_path.iterdir()) == [folder]


def test_the_folder_of_a_process_that_lives_is_not_swept(tmp_path: Path) -> None:
    with process(tmp_path, "") as (living, _):
        run(tmp_path, "")

        assert (living / "inside" / "kernel.so").exists()


def test_nothing_is_swept_through_a_link_or_without_a_lock(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "inside").mkdir(parents=True)
    (mine / "lock").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (temporary / "depthflux-compile-link").symlink_to(mine)
    linked, bare = temporary / "depthflux-compile-linked", temporary / "depthflux-compile-bare"
    (linked / "inside").mkdir(parents=True)
    (linked / "lock").symlink_to(mine / "lock")
    (bare / "inside").mkdir(parents=True)

    run(temporary, "")

    assert [(place / "inside").exists() for place in (mine, linked, bare)] == [True] * 3
