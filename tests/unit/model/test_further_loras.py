"""Where a request's LoRAs come from: names in one folder, and more only where a setting allows."""

from __future__ import annotations

import hashlib
import os
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from bfl_models import load
from bfl_reference import Size, random_base
from safetensors.torch import save_file

from depthflux.contract import Lora
from depthflux.errors import InvalidParameterError
from depthflux.model import further_loras
from depthflux.model.further_loras import LoraShelf
from depthflux.model.lora_downloads import LoraDownloads
from depthflux.settings import EngineSettings

SMALL = Size(heads=2, head_width=16, double=1, single=1, text_width=32, pooled_width=16)
LINEAR = "transformer_blocks.0.attn.to_q"
#: A self-signed certificate for pictures.example, with its key.
CERTIFICATE = Path(__file__).parents[1] / "images" / "pictures.example.pem"


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("small") / "base.safetensors"
    save_file(random_base(SMALL), path)
    return load(path, SMALL)[0]


def write_lora(path: Path, value: float = 1.0, width: int = SMALL.width) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"lora_A": torch.full((2, width), value), "lora_B": torch.ones(SMALL.width, 2)}
    save_file({f"transformer.{LINEAR}.{part}.weight": t for part, t in tensors.items()}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of LoRAs, and one beside it."""
    loras = tmp_path / "loras"
    write_lora(loras / "ink.safetensors", 1.0)
    write_lora(loras / "styles" / "wash.v2.safetensors", 2.0)
    (loras / "old.pt").write_bytes(pickle.dumps({}))
    write_lora(tmp_path / "outside.safetensors", 3.0)
    return loras


Make = Callable[..., LoraShelf]


@pytest.fixture
def make(folder: Path, transformer: Any) -> Make:
    """Makes a shelf over the folder with some settings."""

    def make(downloads: LoraDownloads | None = None, **settings: Any) -> LoraShelf:
        resolved = EngineSettings(loras_dir=folder, **settings)
        return LoraShelf(resolved, transformer, downloads=downloads)

    return make


def take(shelf: LoraShelf, *paths: str) -> list[Any]:
    return shelf.take([Lora(path=path) for path in paths])


def refusal(shelf: LoraShelf, *paths: str) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        take(shelf, *paths)
    assert caught.value.field == "loras"
    assert "\n" not in str(caught.value)
    assert str(caught.value) == " ".join(caught.value.problems)
    return str(caught.value)


def down(taken: Any) -> float:
    """What tells the files of these tests from each other."""
    return float(taken.lora.tensors.linears[LINEAR].down[0, 0])


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("ink", "ink.safetensors", 1.0),
        ("ink.safetensors", "ink.safetensors", 1.0),
        ("styles/wash.v2", "styles/wash.v2.safetensors", 2.0),
    ],
)
def test_a_name_is_a_path_in_the_folder_with_or_without_suffix(
    make: Make, folder: Path, path: str, name: str, value: float
) -> None:
    (taken,) = take(make(), path)

    assert (taken.name, taken.origin, down(taken)) == (name, "loras_dir", value)
    assert taken.lora.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_scales_and_order_are_the_requests_and_one_may_be_taken_twice(make: Make) -> None:
    loras = [Lora(path="styles/wash.v2", scale=-1), Lora(path="ink", scale=0), Lora(path="ink")]

    taken = make().take(loras)

    assert [one.lora.scale for one in taken] == [-1.0, 0.0, 1.0]
    assert [down(one) for one in taken] == [2.0, 1.0, 1.0]


def test_a_near_name_is_suggested(make: Make) -> None:
    assert refusal(make(), "inks").endswith("did you mean ink?")
    assert refusal(make(), "wash.v2").endswith("did you mean 'styles/wash.v2'?")


def test_names_are_matched_to_the_letter(make: Make) -> None:
    assert "there is no such LoRA" in refusal(make(), "Ink")
    assert "there is no such LoRA" in refusal(make(), "STYLES/wash.v2")


def test_what_is_there_is_listed_briefly(make: Make, folder: Path) -> None:
    for index in range(20):
        (folder / f"{index:02}.safetensors").touch()

    message = refusal(make(), "zebra")

    assert "there are 00, 01, 02, 03, 04, 05, 06, 07 and 14 more." in message


def test_a_name_that_a_terminal_would_act_on_is_quoted(make: Make, folder: Path) -> None:
    (folder / "\x1b]0;owned\x07.safetensors").touch()

    message = refusal(make(), "zebra")

    assert r"'\x1b]0;owned\x07'" in message
    assert message.isprintable()


def test_an_empty_and_a_missing_folder_are_told_apart(transformer: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty, missing = (
        LoraShelf(EngineSettings(loras_dir=tmp_path / name), transformer)
        for name in ("empty", "missing")
    )

    assert "there are none yet" in refusal(empty, "ink")
    assert "there is no folder" in refusal(missing, "ink")


def test_a_file_that_is_no_safetensors_is_not_looked_into(make: Make) -> None:
    assert "is no .safetensors file, and no others are read" in refusal(make(), "old.pt")


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "styles/../../outside",
        "styles/../ink",
        "./ink",
        "styles//wash.v2",
        "styles/",
        "..",
        "styles\\wash.v2",
        "ink\x00",
        "ink\n",
    ],
)
def test_a_name_cannot_leave_the_folder_nor_be_read_in_two_ways(make: Make, path: str) -> None:
    everything = make(allow_lora_paths=True, allow_lora_urls=True)

    assert "is no name in" in refusal(make(), path)
    assert "is no name in" in refusal(everything, path)


def test_a_link_may_lead_about_the_folder_but_not_out(make: Make, folder: Path) -> None:
    (folder / "within.safetensors").symlink_to(folder / "styles" / "wash.v2.safetensors")
    (folder / "out.safetensors").symlink_to(folder.parent / "outside.safetensors")
    (folder / "up").symlink_to(folder.parent)

    assert down(take(make(), "within")[0]) == 2.0
    assert "is a link that leads out of" in refusal(make(), "out")
    assert "is a link that leads out of" in refusal(make(), "up/outside")


def test_the_folder_itself_may_be_a_link(transformer: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    shelf = LoraShelf(EngineSettings(loras_dir=tmp_path / "link"), transformer)

    assert down(take(shelf, "ink")[0]) == 1.0


def test_what_is_no_regular_file_is_not_opened(make: Make, folder: Path) -> None:
    (folder / "deep.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")

    assert "is a folder" in refusal(make(), "deep")
    assert "is no regular file" in refusal(make(), "pipe")


def test_all_problems_are_named_at_once(make: Make) -> None:
    message = refusal(make(), "ink", "inks", "/etc/passwd", "https://a.example/b")

    assert all(f"loras[{index}].path=" in message for index in (1, 2, 3))
    assert "loras[0]" not in message


# Files that cannot be used ------------------------------------------------------------------------


def test_a_lora_that_does_not_fit_is_told_by_its_name_alone(make: Make, folder: Path) -> None:
    write_lora(folder / "wide.safetensors", width=99)

    message = refusal(make(), "wide")

    assert message.startswith("loras[0].path='wide.safetensors': it does not fit the transformer")
    assert "down [2, 99]" in message
    assert str(folder) not in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (pickle.dumps({"a": 1}), "it is no safetensors file"),
        (b"PK\x03\x04" + bytes(40), "it is no safetensors file"),
        (b"", "it has 0 bytes and is no safetensors file"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}              ", "has no tensors|has a place there"),
    ],
    ids=["pickle", "torch's zip", "empty file", "no tensors"],
)
def test_a_file_that_is_no_lora_is_refused(
    make: Make, folder: Path, content: bytes, problem: str
) -> None:
    (folder / "bad.safetensors").write_bytes(content)

    message = refusal(make(), "bad")

    assert any(words in message for words in problem.split("|"))
    assert str(folder) not in message


def test_a_truncated_file_is_refused(make: Make, folder: Path) -> None:
    whole = (folder / "ink.safetensors").read_bytes()
    (folder / "ink.safetensors").write_bytes(whole[:-8])

    assert "truncated or damaged" in refusal(make(), "ink")


# What stays open ----------------------------------------------------------------------------------


def test_a_file_is_read_once(make: Make) -> None:
    shelf = make()

    first, second, third = take(shelf, "ink") + take(shelf, "ink", "ink.safetensors")

    assert first.lora.tensors is second.lora.tensors is third.lora.tensors


def test_a_changed_file_is_read_anew(make: Make, folder: Path) -> None:
    shelf = make()
    before = take(shelf, "ink")[0]

    write_lora(folder / "new.safetensors", 7.0).replace(folder / "ink.safetensors")

    after = take(shelf, "ink")[0]
    assert (down(before), down(after)) == (1.0, 7.0)
    assert before.lora.sha256 != after.lora.sha256


def test_only_the_last_few_stay_open(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(further_loras, "MOST_KEPT", 1)
    shelf = make()

    first = take(shelf, "ink")[0]
    take(shelf, "styles/wash.v2")

    assert take(shelf, "ink")[0].lora.tensors is not first.lora.tensors


def test_several_threads_take_the_same(make: Make) -> None:
    shelf, taken = make(), []
    threads = [
        threading.Thread(target=lambda: taken.extend(take(shelf, "ink", "styles/wash.v2")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(down(one) for one in taken) == [1.0] * 8 + [2.0] * 8


# Absolute paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc/passwd", "/nowhere/at/all", "~/x", "C:\\x", "\\\\host\\x"])
def test_without_the_setting_no_path_is_looked_at(make: Make, path: str) -> None:
    message = refusal(make(), path)

    assert "paths are not allowed here; put it into" in message
    assert "allow_lora_paths" in message


def test_with_the_setting_a_path_is_read_from_anywhere(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    shelf = make(allow_lora_paths=True)

    absolute, home = take(
        shelf, str(folder.parent / "outside.safetensors"), "~/outside.safetensors"
    )

    assert down(absolute) == down(home) == 3.0
    assert (absolute.name, absolute.origin) == ("outside.safetensors", "path")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/nowhere/at/all", "there is no such file"),
        ("/dev", "is a folder"),
        ("/dev/zero", "is no regular file"),
        ("/a\x00b", "there is no such file"),
        ("~nobody-of-this-name/x", "cannot be looked up"),
    ],
)
def test_with_the_setting_a_bad_path_is_told(make: Make, path: str, problem: str) -> None:
    assert problem in refusal(make(allow_lora_paths=True), path)


# Addresses ----------------------------------------------------------------------------------------


class Host:
    """A real server on 127.0.0.1 that speaks TLS as pictures.example and counts its requests."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.paths.append(self.path)
                status, headers, body = host.answers[self.path.partition("?")[0]]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://pictures.example:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host(folder: Path) -> Iterator[Host]:
    host = Host()
    host.answers["/loras/ink.safetensors"] = (200, {}, (folder / "ink.safetensors").read_bytes())
    yield host
    host.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "depthflux" / "loras"


@pytest.fixture
def reaching(make: Make, cache: Path) -> LoraShelf:
    """A shelf that may fetch, and for which every name leads to this machine."""
    settings = {"allow_lora_urls": True, "allow_private_addresses": True}
    downloads = LoraDownloads(
        EngineSettings(**settings),
        resolver=lambda name, port: ["127.0.0.1"],
        tls=ssl.create_default_context(cafile=str(CERTIFICATE)),
    )
    return make(downloads, **settings)


SECRET = "hunter2"


def test_a_file_behind_an_address_is_fetched_once_and_kept_by_its_hash(
    reaching: LoraShelf, host: Host, cache: Path
) -> None:
    url = f"{host.url}/loras/ink.safetensors?token={SECRET}"

    (taken,) = take(reaching, url)
    (again,) = take(reaching, f" {url}\n")

    assert down(taken) == 1.0
    assert (taken.name, taken.origin) == ("ink.safetensors", "url")
    assert again.lora.tensors is taken.lora.tensors
    assert host.paths == [f"/loras/ink.safetensors?token={SECRET}"]
    kept = [path for path in cache.iterdir() if path.suffix == ".safetensors"]
    assert [path.stem for path in kept] == [taken.lora.sha256]
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]
    assert not [path for path in cache.iterdir() if SECRET.encode() in path.read_bytes()]


def test_a_kept_file_that_was_taken_away_is_fetched_again(
    reaching: LoraShelf, host: Host, cache: Path
) -> None:
    url = f"{host.url}/loras/ink.safetensors"
    (taken,) = take(reaching, url)
    (cache / f"{taken.lora.sha256}.safetensors").unlink()

    assert down(take(reaching, url)[0]) == 1.0
    assert len(host.paths) == 2


def test_a_page_instead_of_a_file_is_refused_and_not_kept(
    reaching: LoraShelf, host: Host, cache: Path
) -> None:
    host.answers["/login"] = (200, {}, b"<html>please log in</html>")

    message = refusal(reaching, f"{host.url}/login?token={SECRET}")

    assert "what its address gives has 26 bytes and is no safetensors file" in message
    assert SECRET not in message
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ((404, {}, b""), "the server answered 404 Not Found"),
        ((200, {"Content-Length": str(3 * 2**30)}, b"x"), "more than 2048 MiB"),
        ((302, {"Location": "http://pictures.example/x"}, b""), "only https URLs are fetched"),
        ((302, {"Location": "https://127.0.0.1:1/"}, b""), "127.0.0.1 cannot be reached"),
    ],
    ids=["missing", "too large", "redirect to http", "redirect to nowhere"],
)
def test_a_fetch_that_fails_says_why_and_speaks_of_no_picture(
    reaching: LoraShelf, host: Host, cache: Path, answer: Any, problem: str
) -> None:
    host.answers["/x.safetensors"] = answer

    message = refusal(reaching, f"{host.url}/x.safetensors?token={SECRET}")

    assert message.startswith(f"loras[0].path='{host.url}/x.safetensors': ")
    assert problem in message
    assert "download it into" in message
    assert "picture " not in message
    assert SECRET not in message
    assert list(cache.iterdir()) == []


def test_private_addresses_are_refused(make: Make, cache: Path) -> None:
    shelf = make(allow_lora_urls=True)

    for url in ("https://127.0.0.1/x", "https://169.254.169.254/x", "https://[::1]/x"):
        assert "not public address" in refusal(shelf, url)


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_other_schemes_than_https_are_refused(make: Make, scheme: str) -> None:
    shelf = make(allow_lora_urls=True, allow_lora_paths=True, allow_private_addresses=True)

    assert f"has the scheme {scheme}; only https" in refusal(shelf, f"{scheme}://127.0.0.1/x")


def test_without_the_setting_nothing_is_fetched(make: Make, host: Host, cache: Path) -> None:
    shelf = make(allow_private_addresses=True)

    message = refusal(shelf, f"{host.url}/loras/ink.safetensors?token={SECRET}")

    assert "addresses are not allowed here; download it into" in message
    assert "allow_lora_urls" in message
    assert SECRET not in message
    assert host.paths == []


def test_nothing_is_fetched_while_another_lora_is_not_there(
    reaching: LoraShelf, host: Host
) -> None:
    refusal(reaching, f"{host.url}/loras/ink.safetensors", "inks")

    assert host.paths == []


def test_a_cache_folder_that_cannot_be_made_is_told(
    reaching: LoraShelf, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    assert "cannot be kept in" in refusal(reaching, f"{host.url}/loras/ink.safetensors")
