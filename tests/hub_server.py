"""A small Hugging Face Hub on this machine: the part of its protocol that pulling uses.

Repositories with commits, large files kept by sha256 on a second server (as the Hub keeps them),
gated repositories, tokens, ranges, answers that break off.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

#: From this size on a file is kept by its sha256, elsewhere.
LARGE_BYTES = 1000
FIRST, SECOND = "a" * 40, "b" * 40


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]


@dataclasses.dataclass
class Repository:
    """Files by commit; `main` is the commit that is asked for without one."""

    commits: dict[str, dict[str, bytes]]
    main: str = FIRST
    #: The token that is let in; None where no one is asked.
    token: str | None = None
    #: Names that the list of files has besides the files.
    listed: tuple[str, ...] = ()
    #: The commit that every list claims to be of; None for the one that was asked for.
    claimed_commit: str | None = None
    #: What is answered instead of the list: a status and the Hub's code for it.
    refuses: tuple[int, str] | None = None
    #: What the list says of a file instead of the truth.
    claims: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict)


class Hub:
    """Two servers on 127.0.0.1: `url` answers as the Hub, the other keeps the large files."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.elsewhere: list[Request] = []
        #: Large files' answers end after as many bytes, once for each number.
        self.break_off_after: list[int] = []
        #: Set where large files are to be waited for, until the test ends.
        self.is_slow = False
        self.is_waited_for, self._ended = threading.Event(), threading.Event()
        self._servers = [_start(self._answer), _start(self._answer_elsewhere)]
        self.url, self.files_url = (
            f"http://{host}:{server.server_port}"
            for host, server in zip(("127.0.0.1", "localhost"), self._servers, strict=True)
        )

    def close(self) -> None:
        self._ended.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], **options: object) -> Repository:
        """A repository with one commit."""
        commit = str(options.pop("commit", FIRST))
        self.repositories[name] = Repository({commit: files}, main=commit, **options)
        return self.repositories[name]

    def fetched(self) -> list[str]:
        """The paths of the files whose bytes were asked for, in turn; large ones by sha256."""
        asked = [request for request in self.requests if "/resolve/" in request.path]
        return [r.path.split("/resolve/")[1][41:] for r in asked if r.method == "GET"]

    def _answer(self, handler: _Handler) -> None:
        self.requests.append(handler.as_request())
        path = unquote(urlsplit(handler.path).path)
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._answer_about(handler, name, revision)
        elif "/resolve/" in path:
            name, _, rest = path.lstrip("/").partition("/resolve/")
            self._answer_file(handler, name, *rest.split("/", 1))
        else:  # huggingface_hub asks for more than this Hub knows
            handler.refuse(404, "EntryNotFound")

    def _answer_about(self, handler: _Handler, name: str, revision: str) -> None:
        repository = self.repositories.get(name)
        if repository is None:
            return handler.refuse(404, "RepoNotFound")
        if repository.refuses is not None:
            return handler.refuse(*repository.refuses)
        commit = revision or repository.main
        if commit not in repository.commits:
            return handler.refuse(404, "RevisionNotFound")
        files, claims = repository.commits[commit], repository.claims
        siblings = [_listed(path, data) | claims.get(path, {}) for path, data in files.items()]
        siblings += [{"rfilename": path, "size": 1, "blobId": "0"} for path in repository.listed]
        body = json.dumps(
            {"id": name, "sha": repository.claimed_commit or commit, "siblings": siblings}
        ).encode()
        return handler.reply(200, body, {"Content-Type": "application/json"})

    def _answer_file(self, handler: _Handler, name: str, commit: str, path: str) -> None:
        repository = self.repositories[name]
        token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository.token not in (None, token):
            return handler.refuse(403 if token else 401, "GatedRepo")
        data = repository.commits[commit].get(path)
        if data is None:
            return handler.refuse(404, "EntryNotFound")
        if len(data) < LARGE_BYTES:
            return handler.reply(200, data, {"X-Repo-Commit": commit, "ETag": f'"{blob_id(data)}"'})
        headers = {
            "Location": f"{self.files_url}/{name}/{commit}/{path}",
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256(data)}"',
            "X-Linked-Size": str(len(data)),
        }
        return handler.reply(302, b"", headers)

    def _answer_elsewhere(self, handler: _Handler) -> None:
        self.elsewhere.append(handler.as_request())
        if self.is_slow:
            self.is_waited_for.set()
            self._ended.wait()
        owner, name, commit, path = unquote(handler.path).lstrip("/").split("/", 3)
        data = self.repositories[f"{owner}/{name}"].commits[commit][path]
        start, headers = 0, {}
        if asked := handler.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        cut = self.break_off_after.pop(0) if self.break_off_after else None
        handler.reply(206 if start else 200, data[start:], headers, cut=cut)


@contextmanager
def running_hub(patch: pytest.MonkeyPatch, home: object) -> Iterator[Hub]:
    """A Hub that huggingface_hub takes for the real one, and no token but those a test sets."""
    from huggingface_hub import constants

    hub = Hub()
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_TOKEN_PATH", f"{home}/token")
    patch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small answers would wait for each other otherwise.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.answer(self)

    do_HEAD = do_GET  # noqa: N815 - the server's own name for it

    def as_request(self) -> Request:
        return Request(self.command, self.path, dict(self.headers))

    def reply(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, b"", {"X-Error-Code": code, "X-Error-Message": "refused"})

    def log_message(self, *_words: object) -> None:
        pass


def _start(answer: object) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.answer = answer
    # The default asks twice a second whether to stop.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob_id(data: bytes) -> str:
    return hashlib.sha1(  # noqa: S324 - git's own
        b"blob %d\0" % len(data) + data
    ).hexdigest()


def _listed(path: str, data: bytes) -> dict[str, object]:
    if len(data) < LARGE_BYTES:
        return {"rfilename": path, "size": len(data), "blobId": blob_id(data)}
    large = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
    return {"rfilename": path, "size": len(data), "blobId": "f" * 40, "lfs": large}
