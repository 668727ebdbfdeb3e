"""Attack 12: words that are commands elsewhere. Here they are words, in, through and out again."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import source_code

from stand_in.running import PICTURE, SUBMIT, StandInServer

HOSTILE = {
    "shell": "x; touch /tmp/x & `touch /tmp/x` $(touch /tmp/x) | cat > /tmp/x",
    "format": "{0.__class__.__mro__} {self} %s %n %(password)s {request.key!r}",
    "template": "{{ 7*7 }} ${7*7} #{7*7} <%= 7*7 %> {% raw %}",
    "sql": "' OR '1'='1'; DROP TABLE predictions; -- \" \\' ) UNION SELECT 1,2,3 /*",
    "like": "%_%",
    "terminal": "\x1b[2J\x1b]0;owned\x07\x1b[31m\x9b5m\x08\x08",
    "lines": "x\r\nerror: forged\r\nSet-Cookie: a=b\r\n\r\n<html>\nerror: again\u2028\u2029\x85",
    "direction": "\u202ednuora daer\u202c \u2066\u2069 \u200b\ufeff",
    "nul": "x\x00y",
    "markup": "</script><script>alert(1)</script><!-- ]]> &lt;",
    "python": "__import__('os').system('touch /tmp/x')",
    "json": '"},"status":"completed","error":"',
    "not-a-character": "\ufffe\uffff\U0010ffff",
}
WORDS = pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE)
#: How each line of the log begins: a level, or the bar of a traceback.
LOG_LINE = re.compile(r"(debug|info|warning|error|critical): |  \| ")
#: What runs a text as a program.
RUNNING = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.execv",
    "os.execvp",
    "os.spawnv",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "code.interact",
    "asyncio.create_subprocess_shell",
    "builtins.eval",
    "builtins.exec",
}


def raw(server: StandInServer, request: bytes) -> bytes:
    """The whole answer to bytes that no HTTP library would send."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def log_of(server: StandInServer) -> list[str]:
    return server.log.read_text(encoding="utf-8").split("\n")


@WORDS
def test_a_prompt_is_the_same_words_in_the_answer(words: str, server: StandInServer) -> None:
    done = server.submit(f"paint {words}")
    over = server.wait(done["id"])
    shown = server.client.get(f"/api/v3/predictions/{done['id']}")

    assert over["status"] == "completed"
    assert shown.headers["content-type"] == "application/json"
    listed = server.client.get("/api/v3/predictions?page_size=100").json()["data"]["items"]
    (mine,) = [one for one in listed if one["id"] == done["id"]]
    assert mine["input"]["prompt"] == f"paint {words}"


@WORDS
def test_an_error_that_quotes_a_prompt_is_one_line_of_the_log(
    words: str, server: StandInServer
) -> None:
    over = server.wait(server.submit(f"quote {words}")["id"])

    assert over["status"] == "failed"
    odd = [line for line in log_of(server) if line and not LOG_LINE.match(line)]
    assert odd == []
    assert [line for line in log_of(server) if not line.isprintable()] == []


@WORDS
def test_a_name_of_an_upload_is_repeated_and_used_for_nothing(
    words: str, server: StandInServer
) -> None:
    name = words.encode("utf-8", "replace")
    for sign, escaped in ((b"\r", b"%0D"), (b"\n", b"%0A"), (b'"', b"%22")):
        name = name.replace(sign, escaped)
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n'
        b"Content-Type: image/png\r\n\r\n"
        + Path("examples/one-object.png").read_bytes()
        + b"\r\n--b--\r\n"
    )
    response = server.client.post(
        "/api/v3/media/upload/binary",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )

    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert re.fullmatch(r"/media/\w{32}\.png", httpx.URL(response.json()["data"]["url"]).path)


@pytest.mark.parametrize("words", [HOSTILE["sql"], HOSTILE["like"], HOSTILE["json"]])
def test_a_filter_finds_what_is_called_so_and_nothing_else(
    words: str, server: StandInServer
) -> None:
    server.wait(server.submit()["id"])

    by_model = server.client.get("/api/v3/predictions", params={"model": words}).json()["data"]
    by_status = server.client.get("/api/v3/predictions", params={"status": words})
    by_page = server.client.get("/api/v3/predictions", params={"page": words})
    by_id = server.client.get("/api/v3/predictions/" + "' OR '1'='1")

    assert by_model["total"] == 0
    assert (by_status.status_code, by_page.status_code, by_id.status_code) == (400, 400, 404)


def test_an_idempotency_key_is_that_key_and_no_pattern(server: StandInServer) -> None:
    keys = [words for words in HOSTILE.values() if words.isascii() and words.isprintable()]
    fields = {"prompt": "paint", "control_image": PICTURE, "size": "512*512"}

    answers = [
        server.client.post(SUBMIT, json=fields, headers={"Idempotency-Key": key})
        for key in [*keys, *keys]
    ]
    ids = {answer.json()["data"]["id"] for answer in answers}

    assert len(ids) == len(keys)


@pytest.mark.parametrize(
    "field", ["loras", "control_image", "webhook_url", "size", "output_format"]
)
@WORDS
def test_a_field_that_is_refused_is_repeated_in_one_printable_line(
    field: str, words: str, server: StandInServer
) -> None:
    value = [{"path": words}] if field == "loras" else words
    fields = {"prompt": "paint", "control_image": PICTURE, field: value}

    response = server.client.post(SUBMIT, json=fields)

    assert response.status_code == 400
    assert response.json()["message"].isprintable()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /x%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /media/%0d%0aX-Injected:1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /api/v3/predictions/%1b%5b2J%0a HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Connection: close\r\n\r\n",
        b"GET /api/v3/balance HTTP/1.1\r\nHost: a\x0bSet-Cookie:a=b\r\nConnection: close\r\n\r\n",
        b"POST /api/v3/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: a\x1b[2J/b\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"GET\x1b /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["path", "picture", "id", "host", "content-type", "method"],
)
def test_no_header_and_no_line_can_be_put_into_an_answer_or_the_log(
    request_: bytes, server: StandInServer
) -> None:
    head, _, body = raw(server, request_).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 4")
    assert not re.search(rb"(?im)^(set-cookie|x-injected)", head)
    assert b"\x1b" not in body
    assert [line for line in log_of(server) if not line.isprintable()] == []


@pytest.mark.parametrize("option", ["--size", "--profile", "--output-format", "--\x1b[2J"])
def test_a_terminal_is_shown_no_escape_sequence(option: str) -> None:
    given = ["paint", "--control-image", "examples/one-object.png", option, "\x1b[2J\u202e"]

    ran = subprocess.run(
        [sys.executable, "-m", "depthflux", "generate", *given], capture_output=True, text=True
    )

    assert ran.returncode in (2, 3)
    assert ran.stderr.startswith("error: ")
    assert [line for line in ran.stderr.splitlines() if not line.isprintable()] == []


def test_nothing_in_the_source_runs_a_text() -> None:
    running = [f"{place} {name}" for place, name, _ in source_code.calls() if name in RUNNING]
    shells = [
        place
        for place, _, call in source_code.calls()
        for given in call.keywords
        if given.arg == "shell"
    ]

    assert running + shells == []


def test_nothing_in_the_source_of_the_server_builds_a_statement_out_of_text() -> None:
    built = [
        place
        for place, name, call in source_code.calls()
        if place.startswith("server/")
        and name in ("text", "sqlalchemy.text", "literal_column")
        and not (call.args and isinstance(call.args[0], ast.Constant))
    ]
    # The one other way to the database: a cursor of its own, for settings that take no parameters.
    direct = [
        ast.unparse(call.args[0])
        for place, name, call in source_code.calls()
        if place.startswith("server/") and name == "cursor.execute"
    ]

    assert built == []
    assert [one for one in direct if "PRAGMA" not in one] == []


def _is_own_markup(value: ast.expr) -> bool:
    """Whether it is `Markup` of our own words, which escapes what is put into it."""
    return (
        isinstance(value, ast.Call)
        and ast.unparse(value.func) == "Markup"
        and all(isinstance(argument, ast.Constant) for argument in value.args)
    )


def test_nothing_in_the_source_uses_a_text_from_elsewhere_as_a_format() -> None:
    formats = [
        place
        for place, tree in source_code.trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("format", "format_map")
        and not isinstance(node.func.value, ast.Constant | ast.Name)
        and not _is_own_markup(node.func.value)
    ]
    logged = [
        place
        for place, name, call in source_code.calls()
        if re.fullmatch(r"logger\.(debug|info|warning|error|exception|critical)", name)
        and not isinstance(call.args[0], ast.Constant)
    ]

    assert formats + logged == []
