"""Attack 7: a name in a request, or a link in a folder, that makes the server write elsewhere.

Real cases: SGLang CVE-2026-7302 (an upload's filename), BentoML CVE-2026-27905 (a link in an
archive).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_code import calls, imports

from depthflux.contract import GenerationRequest, OutputFile, Prediction
from depthflux.errors import OutputError, SettingsError
from depthflux.files import write_atomically
from depthflux.images import read_image
from depthflux.server.locks import hold_data_dir, hold_slot, wait_until_free
from depthflux.server.media import Media
from depthflux.server.names import FILE_NAME
from stand_in.running import PICTURE, StandInServer

DATA = base64.b64decode(PICTURE)
UPLOAD = "/api/v3/media/upload/binary"

#: What a file may be called by whoever sends it.
FILENAMES = [
    "../../../x.png", "..\\..\\x.png", "/tmp/x.png", "/etc/cron.d/x.png", "~/x.png", "C:\\x.png",  # noqa: S108
    "\\\\server\\share\\x.png", "....//....//x.png", "..%2f..%2fx.png", "%2e%2e%2fx.png",
    "x.png/..", ".htaccess", ".png", "..png", "-rf.png", "--out=x.png", "x.png\0.sh", "\0.png",
    "x\r\ny.png", "con.png", "nul", "aux.png", "x.png.", "x.png ", "x" * 10_000 + ".png",
    "." * 5000, "", "x.php.png", "x.png;.sh", "$(touch x).png", "`touch x`.png", "x|touch y.png",
    "*.png", "\u202egnp.x", "\uff0e\uff0e\u2215x.png", "e\u0301.png", "\U0001f5bc.png",
    "depthflux.sqlite3", "server.lock", "../depthflux.sqlite3", "../server.lock",
    "../outputs/x.png", "x.PNG", "x.safetensors",
    "x.png:ads",
]  # fmt: skip


def tree(root: Path, *, without: Path) -> dict[str, tuple[int, int, str]]:
    """Every path below a folder but those in another: mode, time of its last change, content."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path == without or without in path.parents:
            continue
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        # What is written into it changes a folder's time; a folder itself has none that counts.
        moment = status.st_mtime_ns if path.is_file() else 0
        found[str(path.relative_to(root))] = (status.st_mode, moment, content)
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is all that a server has: its home, its temporary files, where it stands."""
    root = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            (root / name.lower()).mkdir()
            patch.setenv(name, str(root / name.lower()))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        (root / "here").mkdir()
        patch.chdir(root / "here")
        (root / "precious.txt").write_text("precious")
        yield root


@pytest.fixture(scope="module")
def server(house: Path) -> Iterator[StandInServer]:
    """A server in a folder that was there before, where everybody may read new files."""
    (house / "data").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        server = StandInServer(house / "data", key_requests_per_minute=0)
        server.log = house / "data" / "log"
        with server:
            yield server
    finally:
        os.umask(before)


@pytest.fixture(autouse=True)
def nothing_outside_changes(house: Path, server: StandInServer) -> Iterator[None]:
    """Whatever is tried: nothing but the server's own folder is another one afterwards."""
    before = tree(house, without=server.data_dir)
    yield
    assert tree(house, without=server.data_dir) == before


def multipart(filename: bytes, *, field: bytes = b"file", kind: bytes = b"image/png") -> bytes:
    head = b'--bound\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n'
    return head % (field, filename) + b"Content-Type: %s\r\n\r\n%s\r\n--bound--\r\n" % (kind, DATA)


def send(server: StandInServer, body: bytes) -> int:
    headers = {"Content-Type": "multipart/form-data; boundary=bound"}
    return server.client.post(UPLOAD, content=body, headers=headers).status_code


def written(server: StandInServer) -> set[str]:
    """Everything in a server's folder that is not always there."""
    files = {str(p.relative_to(server.data_dir)) for p in server.data_dir.rglob("*") if p.is_file()}
    always = ("log", "server.lock", "worker-0.lock", "depthflux.sqlite3")
    return {name for name in files if not name.startswith(always)}


def assert_own_names(names: set[str]) -> None:
    for name in names:
        folder, _, file = name.partition("/")
        assert folder in {"uploads", "outputs"}, name
        assert FILE_NAME.fullmatch(file), name


# Names in requests --------------------------------------------------------------------------------


@pytest.mark.parametrize("filename", FILENAMES, ids=lambda name: ascii(name)[:40])
def test_an_upload_s_filename_names_no_file(server: StandInServer, filename: str) -> None:
    before = written(server)

    status = send(server, multipart(filename.replace("\\", "\\\\").encode()))

    new = written(server) - before
    assert status in {200, 400}
    assert len(new) == (1 if status == 200 else 0)
    assert_own_names(new)


@pytest.mark.parametrize("filename", FILENAMES, ids=lambda name: ascii(name)[:40])
def test_a_ticket_s_filename_names_no_file(server: StandInServer, filename: str) -> None:
    before = written(server)

    asked = server.client.post(
        "/api/v3/media/uploads", json={"filename": filename, "size": len(DATA)}
    )
    if asked.status_code == 200:
        place = asked.json()["data"]["upload"]["url"]
        assert server.client.put(place, content=DATA).status_code == 200

    new = written(server) - before
    assert asked.status_code in {200, 400}
    assert len(new) == (1 if asked.status_code == 200 else 0)
    assert_own_names(new)


@pytest.mark.parametrize(
    ("field", "kind"),
    [(b"../../x", b"image/png"), (b"/tmp/x", b"image/png"), (b"file/../x", b"image/png"),
     (b"file", b"../../x"), (b"file", b"image/../../x.png"), (b"file", b"application/zip"),
     (b"file", b"application/x-tar"), (b"file", b"x" * 5000)],
    ids=lambda given: ascii(given)[:30],
)  # fmt: skip
def test_a_form_s_other_words_name_no_file(
    server: StandInServer, field: bytes, kind: bytes
) -> None:
    before = written(server)

    status = send(server, multipart(b"x.png", field=field, kind=kind))

    new = written(server) - before
    assert status in ({200, 400} if field == b"file" else {400})
    assert len(new) == (1 if status == 200 else 0)
    assert_own_names(new)


@pytest.mark.parametrize("place", ["..%2f..%2fx.png", "../../x.png", "%00", "x.png", "a" * 64])
def test_bytes_without_a_ticket_are_written_nowhere(server: StandInServer, place: str) -> None:
    before = written(server)

    answer = server.client.put(f"/api/v3/media/uploads/{place}", content=DATA)

    assert answer.status_code in {400, 404, 405}
    assert written(server) == before


def test_no_word_of_a_request_names_an_output(server: StandInServer) -> None:
    before = written(server)
    answer = server.submit(prompt="../../x.png", output_format="png", id="../../x", name="/x/y")
    server.wait(answer["id"])

    new = written(server) - before
    assert len([name for name in new if name.startswith("outputs/")]) == 1
    assert_own_names(new)


def test_every_name_is_another_and_of_the_server_s_making(server: StandInServer) -> None:
    for _ in range(20):
        send(server, multipart(b"same.png"))

    names = {path.stem for path in (server.data_dir / "uploads").iterdir()}
    for place in range(32):
        # Of 64 letters; that all of twenty are the same at a place comes once in 10**34 times.
        assert len({name[place] for name in names}) > 1


# Who may read what is written ---------------------------------------------------------------------


def test_what_is_written_is_its_user_s_alone_though_the_folder_is_not(
    server: StandInServer,
) -> None:
    send(server, multipart(b"x.png"))
    server.wait(server.submit()["id"])

    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in server.data_dir.rglob("*")
        if path.name != "log"
    }
    assert len(modes) > 6
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_a_data_folder_that_the_server_makes_is_its_user_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with StandInServer(tmp_path / "data") as server:
            mode = stat.S_IMODE(server.data_dir.stat().st_mode)
    finally:
        os.umask(before)

    assert mode == 0o700


# Links --------------------------------------------------------------------------------------------


def test_a_link_in_place_of_the_server_s_lock_empties_no_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "server.lock").symlink_to(tmp_path / "precious")

    with pytest.raises(SettingsError, match=r"server\.lock cannot be used"):
        hold_data_dir(tmp_path)

    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_in_place_of_a_worker_s_lock_empties_no_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "worker-0.lock").symlink_to(tmp_path / "precious")

    with pytest.raises(OSError, match="symbolic link"):
        hold_slot(tmp_path, 0)
    with pytest.raises(SettingsError, match=r"worker-0\.lock cannot be used"):
        asyncio.run(wait_until_free(tmp_path / "worker-0.lock"))

    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_under_a_picture_s_name_is_replaced_and_not_written_through(
    tmp_path: Path, target: str
) -> None:
    media, name = Media(tmp_path / "data"), "a" * 32 + "-0.png"
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (media.outputs / name).symlink_to(tmp_path / target)

    media.write_output(name, DATA)

    assert not (media.outputs / name).is_symlink()
    assert media.read(name) == DATA
    assert (tmp_path / "file").read_text() == "precious"
    assert list((tmp_path / "folder").iterdir()) == []
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_under_the_name_of_a_half_written_file_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """Nobody can guess that name; here somebody has."""
    monkeypatch.setattr("depthflux.files.secrets.token_hex", lambda count: "0" * 2 * count)
    target = tmp_path / "precious"
    if is_there:
        target.write_text("precious")
    (tmp_path / f".x.png.{'0' * 16}").symlink_to(target)

    with pytest.raises(OutputError, match="exists"):
        write_atomically(tmp_path / "x.png", DATA)

    assert target.exists() == is_there
    assert not is_there or target.read_text() == "precious"
    assert not (tmp_path / "x.png").exists()


# Elsewhere ----------------------------------------------------------------------------------------


def test_what_a_prediction_is_about_names_none_of_its_files(tmp_path: Path) -> None:
    """Neither its prompt nor its record, which may come from anybody's picture."""
    words = "../../../x.png"
    request = GenerationRequest(prompt=words, control_image=read_image(DATA), seed=1)
    prediction = Prediction(
        request=request,
        model=words,
        images=[Image.fromarray(np.zeros((2, 2, 3), np.uint8))],
        depth_map=Image.new("L", (1, 1)),
        files=[OutputFile(data=DATA, media_type="image/png", extension="png")],
        has_nsfw_contents=[False],
        timings={"inference": 1},
        record={"prediction": words, "id": words, "name": words, "out": words},
    )

    prediction.save(tmp_path / "a" / "out")

    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {f"a/out/{prediction.id}-0.png", f"a/out/{prediction.id}.json"}


def test_no_archive_is_ever_unpacked() -> None:
    """A link or a name in an archive cannot lead anywhere: nothing here opens one."""
    archives = ("zipfile", "tarfile", "lzma", "bz2", "gzip", "zipimport", "py7zr", "rarfile")
    unpacking = ("unpack_archive", "extractall")

    assert [found for found in imports() if found[1].partition(".")[0] in archives] == []
    assert [place for place, name, _ in calls() if name.rpartition(".")[2] in unpacking] == []
