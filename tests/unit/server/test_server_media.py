"""Where pictures lie: files that are whole or not there, and names that lead nowhere else."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from depthflux.errors import OutputError
from depthflux.server.errors import StoreError
from depthflux.server.media import Kept, Media

UPLOAD, OUTPUT = "u" * 32 + ".png", "o" * 32 + "-0.jpeg"


def make_old(path: Path, hours: float = 2) -> Path:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_upload_and_an_output_are_found_by_their_names(media: Media) -> None:
    media.write_upload(UPLOAD, b"up", flush=True)
    media.write_output(OUTPUT, b"out")

    upload, output = media.find(UPLOAD), media.find(OUTPUT)

    assert upload is not None
    assert output is not None
    assert (upload.read_bytes(), output.read_bytes()) == (b"up", b"out")
    assert media.read_outputs([OUTPUT, OUTPUT]) == [b"out", b"out"]


def test_a_name_that_nothing_has_is_found_nowhere(media: Media) -> None:
    assert media.find(UPLOAD) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../depthflux.sqlite3",
        "../outputs/" + OUTPUT,
        "/etc/passwd",
        "a\0" + UPLOAD,
        UPLOAD + "\0",
        UPLOAD + "\n",
        "u" * 33 + ".png",
        "u" * 31 + ".png",
        "u" * 5000 + ".png",
        "u" * 32 + ".PNG",
        "u" * 32 + ".gif",
        "u" * 32,
        "ü" * 32 + ".png",
        "u" * 32 + "-10.png",
        "u" * 32 + "-.png",
        "u" * 31 + "-.png",
        "u" * 16 + "/" + "u" * 15 + ".png",
        "." + UPLOAD + ".0123456789abcdef",
        "~" + "u" * 31 + ".png",
        "\udcff" * 32 + ".png",
    ],
    ids=ascii,
)
def test_what_is_no_name_of_a_file_is_refused_although_there_is_such_a_file(
    media: Media, tmp_path: Path, name: str
) -> None:
    (tmp_path / "depthflux.sqlite3").write_bytes(b"rows")
    media.write_output(OUTPUT, b"out")
    for folder in (media.outputs, media.uploads):
        try:
            (folder / name).write_bytes(b"bytes")
        except (OSError, ValueError):
            continue  # the system has no such name, or it is a folder's

    assert media.find(name) is None


def test_a_folder_with_the_name_of_a_file_is_no_picture(media: Media) -> None:
    (media.uploads / UPLOAD).mkdir()

    assert media.find(UPLOAD) is None


def test_writing_an_upload_gives_the_sum_of_its_bytes(media: Media) -> None:
    digest = media.write_upload(UPLOAD, b"some bytes", flush=False)

    assert digest == hashlib.sha256(b"some bytes").hexdigest()
    assert names(media.uploads) == {UPLOAD}


def test_an_output_of_an_earlier_attempt_is_replaced(media: Media) -> None:
    media.write_output(OUTPUT, b"the first attempt's")
    media.write_output(OUTPUT, b"the second's")

    assert media.read_outputs([OUTPUT]) == [b"the second's"]


@contextmanager
def watched_syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of files that are flushed to the disk meanwhile."""
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield synced


def test_an_upload_is_flushed_when_it_is_written_or_later_as_is_asked_for(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched_syncs(monkeypatch) as at_once:
        media.write_upload(UPLOAD, b"up", flush=True)
    with watched_syncs(monkeypatch) as not_yet:
        media.write_upload(UPLOAD, b"up", flush=False)
    with watched_syncs(monkeypatch) as later:
        media.flush_upload(UPLOAD)

    # Its bytes under a name for the time being, then the folder, where its own name stands.
    assert len(at_once) == 2
    assert UPLOAD in at_once[0]
    assert at_once[1] == str(media.uploads)
    assert not_yet == []
    assert later == [str(media.uploads / UPLOAD), str(media.uploads)]


def test_flushing_one_that_was_deleted_meanwhile_is_no_error(media: Media) -> None:
    media.flush_upload(UPLOAD)

    assert names(media.uploads) == set()


def test_files_are_removed_as_far_as_they_are_there(media: Media) -> None:
    media.write_output(OUTPUT, b"out")
    media.write_upload(UPLOAD, b"up", flush=False)

    media.remove_outputs([OUTPUT, "x" * 32 + "-1.png"])
    media.remove_uploads([UPLOAD, "x" * 32 + ".png"])

    assert names(media.outputs) | names(media.uploads) == set()


def test_outputs_that_are_gone_are_said_to_be(media: Media) -> None:
    media.write_output(OUTPUT, b"out")

    with pytest.raises(FileNotFoundError):
        media.read_outputs([OUTPUT, "x" * 32 + "-1.png"])

    assert media.find(OUTPUT) is not None


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_bytes(b"a file is in the way")

    with pytest.raises(OutputError, match=r"cannot write .*outputs"):
        Media(tmp_path)

    assert (tmp_path / "outputs").read_bytes() == b"a file is in the way"


# Sweeping ---------------------------------------------------------------------------------------


def test_old_files_that_nothing_names_are_swept_away(media: Media) -> None:
    """An output is known by what its name begins with, an upload by the whole of it."""
    outputs = {"k" * 32 + "-0.png", "k" * 32 + "-1.png"}
    upload = "k" * 32 + ".png"
    for name in (*outputs, "x" * 32 + "-0.png", "k" * 31 + "x-0.png"):
        media.write_output(name, b"out")
        make_old(media.outputs / name)
    for name in (upload, "x" * 32 + ".png", "k" * 32 + ".jpeg"):
        make_old_file(media, name)

    count = media.sweep(lambda: {"k" * 32}, lambda: {upload})

    assert count == 4
    assert names(media.outputs) == outputs
    assert names(media.uploads) == {upload}


def test_each_folder_is_compared_with_its_own_names(media: Media) -> None:
    media.write_output(OUTPUT, b"out")
    make_old(media.outputs / OUTPUT)
    media.write_upload(UPLOAD, b"up", flush=False)
    make_old(media.uploads / UPLOAD)

    secret = OUTPUT.partition("-")[0]

    assert media.sweep(lambda: {secret}, lambda: {UPLOAD}) == 0
    assert media.sweep(lambda: {UPLOAD}, lambda: {secret}) == 2


def test_a_young_file_that_nothing_names_stays_since_its_row_may_be_coming(media: Media) -> None:
    media.write_upload(UPLOAD, b"up", flush=False)
    make_old(media.uploads / UPLOAD, hours=0.9)

    assert media.sweep(set, set) == 0
    assert names(media.uploads) == {UPLOAD}


def test_a_link_that_nothing_names_is_swept_away_wherever_it_leads(
    media: Media, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"another's")
    for name, target in (("b" * 32, tmp_path / "nowhere"), ("e" * 32, elsewhere)):
        (media.uploads / name).symlink_to(target)
    young = media.uploads / ("y" * 32)
    long_ago = time.time() - 7200
    for link in media.uploads.iterdir():
        os.utime(link, (long_ago, long_ago), follow_symlinks=False)
    young.symlink_to(tmp_path / "nowhere")

    count = media.sweep(set, set)

    assert count == 2
    assert names(media.uploads) == {young.name}
    assert elsewhere.read_bytes() == b"another's"


def test_a_broken_link_under_the_name_of_a_half_written_file_is_removed(
    media: Media, tmp_path: Path
) -> None:
    (media.uploads / ".half").symlink_to(tmp_path / "nowhere")

    media.remove_partial_uploads()

    assert names(media.uploads) == set()


def test_what_a_killed_process_left_half_written_is_swept_away(media: Media) -> None:
    half = media.uploads / f".{UPLOAD}.0123456789abcdef"
    half.write_bytes(b"u")
    make_old(half)

    assert media.sweep(set, set) == 1
    assert names(media.uploads) == set()


def test_names_are_asked_for_after_the_files_were_listed(media: Media) -> None:
    """A prediction accepted in between has its row when the names are read."""
    media.write_upload(UPLOAD, b"up", flush=False)
    make_old(media.uploads / UPLOAD)
    accepted_late = make_old_file(media, "l" * 32 + ".png")

    def known() -> set[str]:
        make_old_file(media, "n" * 32 + ".png")
        return {accepted_late}

    count = media.sweep(set, known)

    assert count == 1
    assert names(media.uploads) == {accepted_late, "n" * 32 + ".png"}


def make_old_file(media: Media, name: str) -> str:
    media.write_upload(name, b"up", flush=False)
    make_old(media.uploads / name)
    return name


def test_the_store_is_not_asked_for_names_where_no_file_is_old(media: Media) -> None:
    media.write_upload(UPLOAD, b"up", flush=False)
    asked: list[str] = []

    def known() -> set[str]:
        asked.append("asked")
        return set()

    assert media.sweep(known, known) == 0
    assert asked == []


def test_a_file_that_a_client_deletes_while_it_is_swept_is_no_error(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = make_old_file(media, "s" * 32 + ".png")
    goes = make_old_file(media, "g" * 32 + ".png")
    real = os.scandir

    @contextmanager
    def scandir(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        """Lists as ever, and the next moment one file is gone."""
        with real(folder) as entries:
            found = list(entries)
        (media.uploads / goes).unlink(missing_ok=True)
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    count = media.sweep(set, set)
    monkeypatch.undo()

    assert count == 1
    assert not (media.uploads / stays).exists()


# Outputs as control images ----------------------------------------------------------------------


@pytest.mark.parametrize("has_links", [True, False], ids=["linked", "copied"])
def test_an_output_that_is_kept_as_a_control_image_stays_when_it_is_deleted(
    media: Media, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    media.write_output(OUTPUT, b"out")
    make_old(media.outputs / OUTPUT)
    if not has_links:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "this disk knows no links")

        monkeypatch.setattr(os, "link", refuse)

    kept = media.keep_output(OUTPUT, UPLOAD)
    media.remove_outputs([OUTPUT])
    media.sweep(set, set)

    assert media.read(UPLOAD) == b"out"
    assert kept == Kept(first=b"out", size=3, sha256=hashlib.sha256(b"out").hexdigest())
    assert names(media.outputs) == set()


def test_an_output_that_is_gone_or_a_link_is_kept_by_nobody(media: Media, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"another's")

    gone = media.keep_output(OUTPUT, UPLOAD)
    (media.outputs / OUTPUT).symlink_to(elsewhere)
    link = media.keep_output(OUTPUT, UPLOAD)

    assert (gone, link) == (None, None)
    assert names(media.uploads) == set()


def test_of_an_output_that_is_kept_a_piece_is_in_memory(media: Media) -> None:
    data = os.urandom(8 * 2**20)
    media.write_output(OUTPUT, data)
    tracemalloc.start()

    kept = media.keep_output(OUTPUT, UPLOAD)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept == Kept(first=data[:64], size=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert peak < 3 * 2**20


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC])
def test_where_the_disk_refuses_a_link_nothing_is_copied(
    media: Media, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    media.write_output(OUTPUT, b"out")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(OSError, match="refused"):
        media.keep_output(OUTPUT, UPLOAD)

    assert names(media.uploads) == set()


def test_an_output_that_is_deleted_before_it_is_linked_is_kept_by_nobody(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.write_output(OUTPUT, b"out")
    link = os.link

    def link_late(*given: Any, **named: Any) -> None:
        media.remove_outputs([OUTPUT])
        link(*given, **named)

    monkeypatch.setattr(os, "link", link_late)

    assert media.keep_output(OUTPUT, UPLOAD) is None
    assert names(media.uploads) == set()


def test_a_copy_is_made_only_where_the_disk_has_room(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.write_output(OUTPUT, b"out")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    full = os.statvfs_result((4096, 4096, 10**9, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "statvfs", lambda _: full)

    with pytest.raises(StoreError, match="pictures are taken just now"):
        media.keep_output(OUTPUT, UPLOAD)

    assert names(media.uploads) == set()


def test_what_is_deleted_while_outputs_are_measured_has_no_bytes(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, goes = OUTPUT, "g" * 32 + "-0.png"
    for name in (kept, goes):
        media.write_output(name, b"out")
    lstat = Path.lstat

    def lstat_once(path: Path) -> os.stat_result:
        """What it tells is right, and no more a moment later."""
        found = lstat(path)
        (media.outputs / goes).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "lstat", lstat_once)

    assert media.size_of_outputs([goes, kept, goes]) == 6


def test_a_file_that_cannot_be_deleted_keeps_no_other_one_and_is_said_once(
    media: Media, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = ["a" * 32 + "-0.png", "b" * 32 + "-0.png"]
    for name in stuck:
        (media.outputs / name).mkdir()
    media.write_output(OUTPUT, b"out")

    with caplog.at_level(logging.ERROR, "depthflux"):
        media.remove_outputs([*stuck, OUTPUT])

    assert names(media.outputs) == set(stuck)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("2 of 3 files in outputs cannot be deleted")
