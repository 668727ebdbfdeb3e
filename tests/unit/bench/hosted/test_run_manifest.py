"""The manifest: a recording is what it says to the byte, or is not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.manifest import MOST_TOLD, verify, write_manifest
from depthflux.bench.hosted.run_files import Intent
from depthflux.errors import InvalidParameterError, OutputError


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A folder of four files and their manifest."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name in ("plan.json", "hosted/side.json", "hosted/ant-0/0.jpg", "hosted/ant-0/1.jpg"):
        folder.write(name, name.encode())
    write_manifest(folder)
    return folder.path


def test_a_recording_as_it_was_written_is_believed(recording: Path) -> None:
    manifest = verify(recording)

    assert [entry.file for entry in manifest.files] == [
        "hosted/ant-0/0.jpg",
        "hosted/ant-0/1.jpg",
        "hosted/side.json",
        "plan.json",
    ]
    assert manifest.files[3].bytes == len("plan.json")


def test_all_differences_are_told_in_one_line(recording: Path) -> None:
    (recording / "hosted/ant-0/0.jpg").write_bytes(b"another")
    (recording / "hosted/side.json").unlink()
    (recording / "hosted/new\x1b[2J.txt").write_bytes(b"")

    with pytest.raises(InvalidParameterError) as caught:
        verify(recording)

    message = str(caught.value)
    assert "hosted/ant-0/0.jpg was changed" in message
    assert "hosted/side.json is missing" in message
    assert "new\\x1b[2J.txt' was added" in message
    assert message.isprintable()


def test_of_many_differences_the_first_are_told_and_the_rest_counted(recording: Path) -> None:
    for number in range(MOST_TOLD + 5):
        (recording / f"stray-{number}").write_bytes(b"")

    with pytest.raises(InvalidParameterError, match="; and 5 more; give the folder"):
        verify(recording)

    assert len(list(recording.glob("stray-*"))) == MOST_TOLD + 5


def test_what_is_half_written_is_no_file_of_a_run(recording: Path) -> None:
    half = recording / "hosted/ant-0/.outcome.json.0123456789abcdef"
    half.write_text("{")

    write_manifest(RunFolder(recording))

    half.unlink()
    assert len(verify(recording).files) == 4


def test_a_file_that_cannot_be_read_is_told_with_what_to_do(recording: Path) -> None:
    (recording / "nowhere.json").symlink_to("not-there")

    with pytest.raises(OutputError, match=r"nowhere\.json: No such file or directory; go on with"):
        write_manifest(RunFolder(recording))

    assert (recording / "manifest.json").exists()


def test_a_task_that_was_sent_and_is_gone_is_not_forgotten(recording: Path) -> None:
    folder = RunFolder(recording)
    for key in ("ant-0", "bee-0"):
        folder.task("hosted", key).intend(Intent(task=key, fields={}, began_at=1.0))
    shutil.rmtree(recording / "hosted/bee-0")
    (recording / "manifest.json").unlink()

    with pytest.raises(OutputError, match="the files of hosted/bee-0 are gone") as caught:
        write_manifest(folder)

    assert "put them back" in str(caught.value)
    assert not (recording / "manifest.json").exists()


def test_a_task_that_was_forgotten_since_it_costs_nothing_is_not_missed(recording: Path) -> None:
    folder = RunFolder(recording)
    task = folder.task("local", "ant-0")
    task.intend(Intent(task="ant-0", fields={}, began_at=1.0))

    task.forget()

    write_manifest(folder)
    assert len(verify(recording).files) == 4


def test_a_size_that_is_not_the_file_s_is_told(recording: Path) -> None:
    manifest = json.loads((recording / "manifest.json").read_bytes())
    manifest["files"][0]["bytes"] += 1
    (recording / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(InvalidParameterError, match=r"hosted/ant-0/0\.jpg was changed"):
        verify(recording)


def test_an_empty_change_of_a_byte_is_seen(recording: Path) -> None:
    path = recording / "plan.json"
    path.write_bytes(path.read_bytes().replace(b"p", b"q", 1))

    with pytest.raises(InvalidParameterError, match=r"plan\.json was changed"):
        verify(recording)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_is_no_file_of_a_recording(kind: str, recording: Path, tmp_path: Path) -> None:
    place = recording / ("plan.json" if kind == "file" else "hosted/ant-0")
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(InvalidParameterError, match="is missing") as caught:
        verify(recording)

    assert "was added" in str(caught.value) or kind == "file"


def test_a_folder_without_a_manifest_is_to_be_finished_first(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match=r"no manifest\.json in it.*--resume"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b/c/d"])
def test_a_manifest_leads_nowhere_else(name: str, recording: Path) -> None:
    manifest = json.loads((recording / "manifest.json").read_bytes())
    manifest["files"].append({"file": name, "bytes": 1, "sha256": "0" * 64})
    (recording / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(InvalidParameterError, match="which is no file of a run"):
        verify(recording)


def test_a_file_named_twice_is_told(recording: Path) -> None:
    manifest = json.loads((recording / "manifest.json").read_bytes())
    manifest["files"].append(manifest["files"][0])
    (recording / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(InvalidParameterError, match="a file is named twice"):
        verify(recording)
