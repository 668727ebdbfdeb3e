"""Files are whole or not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from depthflux.errors import OutputError
from depthflux.files import (
    is_regular,
    make_folder,
    read_regular,
    sha256_of_file,
    write_atomically,
)


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.bin", b"abc")
    write_atomically(tmp_path / "a.bin", b"defg")

    assert (tmp_path / "a.bin").read_bytes() == b"defg"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "theirs").write_bytes(b"")

    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"cannot write .*No such file or directory; name a folder"
    ):
        write_atomically(tmp_path / "none" / "a.bin", b"abc")


def test_a_failed_write_removes_its_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "a", b"abc")  # a folder of that name is in the way

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_below_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(OutputError, match=r"cannot write .*file/out: Not a directory") as caught:
        make_folder(tmp_path / "file" / "out")

    assert caught.value.field == "out"


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")

    assert is_regular(tmp_path / "file")
    assert read_regular(tmp_path / "file") == b"abc"


def test_a_link_to_a_file_is_none_to_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")

    assert not is_regular(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "link")


def test_a_folder_a_pipe_and_what_is_not_there_are_no_files_to_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    for name in ("folder", "pipe", "nothing"):
        assert not is_regular(tmp_path / name)
        with pytest.raises(FileNotFoundError):
            read_regular(tmp_path / name)
    assert not is_regular(tmp_path / "file\0")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "large").write_bytes(data)

    assert sha256_of_file(tmp_path / "large") == hashlib.sha256(data).hexdigest()
