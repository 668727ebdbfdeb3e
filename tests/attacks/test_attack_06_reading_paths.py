"""Attack 6: a name in a request that leads to a file which is nobody's to read.

Real cases: Gradio CVE-2026-28414 (a path that looks relative), ComfyUI's custom nodes
CVE-2024-21574 to -21577 (a name with `..` in it).
"""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stand_in.running import PICTURE, SUBMIT, StandInServer

LINK, FOLDER, PIPE, LINK_OUT = "s" * 32 + ".png", "d" * 32 + ".png", "p" * 32 + ".png", "o" * 32
MEDIA = b"GET /media/"


class House(NamedTuple):
    """A server in a folder with things beside it that nobody may read.

    Attributes:
        server: it.
        root: the folder; `root/data` is the server's, `root/loras` has the LoRAs.
        upload: the name of a picture that anybody may read who knows it.
    """

    server: StandInServer
    root: Path
    upload: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """With links, a folder and a pipe where only pictures should be, under names of pictures."""
    root = tmp_path_factory.mktemp("house")
    (root / "loras").mkdir()
    (root / "secret.png").write_bytes(base64.b64decode(PICTURE))
    (root / "secret.safetensors").write_bytes(b"secret weights")
    (root / "loras" / "good.safetensors").write_bytes(b"weights")
    (root / "loras" / "link.safetensors").symlink_to(root / "secret.safetensors")
    (root / "loras" / "out").symlink_to(root)
    (root / "loras" / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(root / "loras" / "pipe.safetensors")
    engine = {"loras_dir": str(root / "loras")}
    with StandInServer(root / "data", engine=engine, key_requests_per_minute=0) as server:
        files = {"file": base64.b64decode(PICTURE)}
        sent = server.client.post("/api/v3/media/upload/binary", files=files)
        upload = sent.json()["data"]["download_url"].rpartition("/")[2]
        uploads = server.data_dir / "uploads"
        (uploads / LINK).symlink_to(root / "secret.png")
        (server.data_dir / "outputs" / f"{LINK_OUT}-0.png").symlink_to(root / "secret.png")
        (uploads / FOLDER).mkdir()
        os.mkfifo(uploads / PIPE)
        (uploads / f".{upload}.0123456789abcdef").write_bytes(base64.b64decode(PICTURE))
        yield House(server, root, upload)


def exchange(server: StandInServer, line: bytes, headers: bytes = b"") -> tuple[int, bytes]:
    """The status and the body of a request whose first line nobody has tidied up."""
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = b"%s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n%s\r\n"
        connection.sendall(head % (line, host.encode(), port.encode(), headers))
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def submit(server: StandInServer, **fields: Any) -> tuple[int, str]:
    """The status and the message of a submission."""
    body = {"prompt": "paint", "control_image": PICTURE, "size": "512*512", **fields}
    answer = server.client.post(SUBMIT, json=body, timeout=20)
    return answer.status_code, str(answer.json()["message"])


# Pictures by their addresses ----------------------------------------------------------------------

#: What stands behind /media/; {name} is a picture that is there.
NAMES = [
    "..", ".", "", "../depthflux.sqlite3", "..%2fdepthflux.sqlite3", "%2e%2e/depthflux.sqlite3",
    "%2e%2e%2fdepthflux.sqlite3", "..%5cdepthflux.sqlite3", "..\\depthflux.sqlite3",
    "%252e%252e%252fdepthflux.sqlite3", "%25252e%25252e/depthflux.sqlite3",
    "..%c0%afdepthflux.sqlite3", "%c0%ae%c0%ae/depthflux.sqlite3", "%e2%80%a5/depthflux.sqlite3",
    "%ef%bc%8e%ef%bc%8e/server.lock", "..;/depthflux.sqlite3", "....//depthflux.sqlite3",
    "..././depthflux.sqlite3", "depthflux.sqlite3", "server.lock", "worker-0.lock",
    "uploads/{name}", "../uploads/{name}", "../outputs/../uploads/{name}", "..%2fuploads%2f{name}",
    "./{name}", ".%2f{name}", "x/../{name}", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd",
    "C:%5cwindows%5cwin.ini", "file:///etc/passwd", "{name}%00", "{name}%00.png", "%00{name}",
    "{name}%0a", "{name}%20", "{name}/", "{name}/.", "{name}.", "{name}:$DATA", "{name};x",
    "{name}~", ".{name}.0123456789abcdef", ".{name}", "%2e{name}.0123456789abcdef",
    "../../secret.png", "..%2f..%2fsecret.png", "%ff%fe", "~root", "~", "../{link}",
    LINK, FOLDER, PIPE, f"{LINK_OUT}-0.png", "a" * 65, "a" * 7000, "%61" * 2000,
    "proc/self/environ", "..%2f..%2f..%2f..%2f..%2f..%2fproc%2fself%2fenviron", "CON", "nul.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:60])
def test_no_name_leads_to_another_file_than_a_picture(house: House, name: str) -> None:
    written = name.format(name=house.upload, link=LINK).encode()

    status, body = exchange(house.server, MEDIA + written)
    head_status, _ = exchange(house.server, b"HEAD /media/" + written)
    part_status, part = exchange(house.server, MEDIA + written, b"Range: bytes=0-9\r\n")

    assert {status, head_status, part_status} <= {400, 404}
    for answer in (body, part):
        assert b"PNG" not in answer
        assert b"SQLite" not in answer
        assert b"root:" not in answer


def test_the_picture_itself_is_there(house: House) -> None:
    """Without which all of the others would prove nothing."""
    for line in (MEDIA + house.upload.encode(), MEDIA + house.upload.encode() + b"?x=../../y"):
        assert exchange(house.server, line) == (200, base64.b64decode(PICTURE))


@pytest.mark.parametrize("name", [LINK, FOLDER, PIPE, f"{LINK_OUT}-0.png"])
def test_what_is_no_file_of_the_server_s_is_no_control_image_either(
    house: House, name: str
) -> None:
    status, message = submit(house.server, control_image=f"{house.server.address}/media/{name}")

    assert status == 400
    assert "no picture at this address of ours" in message


@pytest.mark.parametrize(
    "id",
    ["..%2f..%2fmedia%2f{name}", "..%2fpredictions", "%2e%2e", "{name}", "..%5c..", "%00",
     "a" * 5000, "../../../media/{name}", "'%20or%20'1'='1", "*", "%25", "_" * 32],
    ids=lambda id: ascii(id)[:40],
)  # fmt: skip
@pytest.mark.parametrize("after", ["", "/result"])
def test_a_prediction_s_id_is_no_path(house: House, id: str, after: str) -> None:
    path = f"/api/v3/predictions/{id}{after}".format(name=house.upload).encode()

    for method in (b"GET ", b"DELETE "):
        status, body = exchange(house.server, method + path)

        assert status in {400, 404, 405}
        assert b"PNG" not in body
    assert (house.server.data_dir / "uploads" / house.upload).is_file()


# Files as control images --------------------------------------------------------------------------

PATHS = [
    "{root}/secret.png", "{root}/absent.png", "secret.png", "../secret.png", "./secret.png",
    "file://{root}/secret.png", "file:{root}/secret.png", "file://localhost{root}/secret.png",
    "FILE://{root}/secret.png", "file:///etc/passwd", "file:///dev/zero",
    "file://other/share/x.png", "/etc/passwd", "/etc/shadow", "/proc/self/environ",
    "/proc/self/fd/0", "/dev/zero", "/dev/stdin", "/dev/tty",
    "{root}/data/uploads/" + PIPE, "{root}/data/uploads/{name}", "uploads/{name}", "{name}",
    "/media/{name}", "~/.ssh/id_rsa", "~root/.bashrc", "\\\\server\\share\\x.png",
    "//server/share/x.png", "C:\\x.png", "{root}/secret.png\0.jpg", "\0", ".", "/", "-", "~",
    "{root}/loras", "$HOME/x.png", "$(id)", "`id`", "%2e%2e%2fsecret.png", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:60])
def test_no_file_of_this_machine_is_a_control_image(house: House, path: str) -> None:
    given = path.format(root=house.root, name=house.upload)

    status, message = submit(house.server, control_image=given)

    assert status == 400
    assert "are not read here" in message or "another machine" in message
    assert "no such" not in message


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_nobody_learns_whether_a_file_exists(house: House, form: str) -> None:
    there, absent = house.root / "secret.png", house.root / "absent.png"

    said = [
        submit(house.server, control_image=form.format(path))[1].replace(str(path), "PATH")
        for path in (there, absent)
    ]

    assert said[0] == said[1]


# LoRAs --------------------------------------------------------------------------------------------

LORAS = [
    "../secret", "../secret.safetensors", "..", ".", "./good", "good/../good", "good/../../secret",
    "x/../../secret", "..\\secret", "good\0", "good\0.safetensors", "good/", "/good", "//good",
    "{root}/secret.safetensors", "{root}/loras/good.safetensors", "~/x", "~root/x", "/etc/passwd",
    "/dev/zero", "file://{root}/secret.safetensors", "http://127.0.0.1:9/x",
    "https://127.0.0.1:9/x", "\\\\server\\share\\x", "C:\\x", "C:x", "..%2fsecret", "%2e%2e/secret",
    "\u2025/secret", "\uff0e\uff0e/secret", "..\u2215secret", "..\uff0fsecret", "link",
    "link.safetensors", "out/secret", "out/secret.safetensors", "loop", "pipe", "GOOD", "good\n",
    "good ", " good", "goo?", "*", "data/depthflux.sqlite3", "out/data/depthflux.sqlite3",
]  # fmt: skip


@pytest.mark.parametrize("name", LORAS, ids=ascii)
def test_no_lora_is_read_from_outside_its_folder(house: House, name: str) -> None:
    status, message = submit(house.server, loras=[{"path": name.format(root=house.root)}])

    assert status == 400
    assert "loras[0].path" in message
    assert "secret weights" not in message


@pytest.mark.parametrize("form", ["../{}", "{root}/{}", "x/../../{}"])
def test_nobody_learns_whether_a_file_outside_of_the_loras_exists(house: House, form: str) -> None:
    said = []
    for file in ("secret.safetensors", "absent.safetensors"):
        path = form.format(file, root=house.root)
        message = submit(house.server, loras=[{"path": path}])[1]
        # What stands before repeats the path, cut where it is long.
        said.append(message.partition(": ")[2])

    assert said[0] == said[1] != ""


def test_a_lora_of_the_folder_may_be_named(house: House) -> None:
    assert submit(house.server, loras=[{"path": "good"}])[0] == 200
