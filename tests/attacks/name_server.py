"""A name server on 127.0.0.1 whose answers change as a script says: what rebinding is done with.

It speaks DNS (RFC 1035) over UDP, with a time to live of 0, so that no honest resolver keeps an
answer; and it is a resolver that asks itself over a real socket. Knows nothing of HTTP.
"""

from __future__ import annotations

import secrets
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

_KINDS = {"A": 1, "CNAME": 5, "AAAA": 28}
_FAMILIES = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}
_INTERNET = 1
#: A response, recursion available.
_RESPONSE = 0x8180


class Record(NamedTuple):
    """A line of an answer.

    Attributes:
        kind: A, AAAA or CNAME.
        value: an address, or a name.
        name: whose it is; empty for the name that was asked for.
    """

    kind: str
    value: str
    name: str = ""


class NameServer:
    """A name server, listening.

    Attributes:
        asked: names and kinds that were asked for, in order.
        delay_s: how long it thinks before each answer.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.delay_s = 0.0
        self._closing = threading.Event()
        self._answers: dict[tuple[str, str], list[list[Record]]] = {}
        name_server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, listening = self.request
                if name_server._closing.wait(name_server.delay_s):
                    return
                listening.sendto(name_server._answer(question), self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def tell(self, name: str, kind: str, *answers: list[Record] | str) -> None:
        """Say what a name is, the first time, the second … and from then on as the last time.

        Args:
            name: the name.
            kind: A or AAAA, as it is asked for.
            answers: for each time the records, or one address for short.
        """
        self._answers[name, kind] = [
            [Record(kind, one)] if isinstance(one, str) else one for one in answers
        ]

    def resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a name, asked for over UDP as any program would; a `Resolver`."""
        del port
        return [address for kind in _FAMILIES for address in self._ask(host, kind)]

    def _ask(self, host: str, kind: str) -> Iterator[str]:
        number = secrets.randbits(16)
        head = struct.pack(">6H", number, 0x0100, 1, 0, 0, 0)
        question = head + _written(host) + struct.pack(">2H", _KINDS[kind], _INTERNET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(10)
            asking.connect(self._server.server_address)
            asking.send(question)
            reply = asking.recv(65535)
        count = struct.unpack_from(">6H", reply)[3]
        _, place = _read_name(reply, 12)
        place += 4
        for _ in range(count):
            _, place = _read_name(reply, place)
            found, _, _, size = struct.unpack_from(">2HIH", reply, place)
            place += 10
            if found == _KINDS[kind]:
                yield socket.inet_ntop(_FAMILIES[kind], reply[place : place + size])
            place += size

    def _answer(self, question: bytes) -> bytes:
        """The response to a question, with whatever the script has for it next."""
        number = struct.unpack_from(">H", question)[0]
        name, place = _read_name(question, 12)
        kinds: dict[int, str] = {code: kind for kind, code in _KINDS.items()}
        kind = kinds[struct.unpack_from(">H", question, place)[0]]
        self.asked.append((name, kind))
        script = self._answers.get((name, kind), [[]])
        records = script.pop(0) if len(script) > 1 else script[0]
        head = struct.pack(">6H", number, _RESPONSE, 1, len(records), 0, 0)
        lines = b"".join(_line(record, name) for record in records)
        return head + question[12 : place + 4] + lines


def _line(record: Record, asked: str) -> bytes:
    value: Any = (
        _written(record.value)
        if record.kind == "CNAME"
        else socket.inet_pton(_FAMILIES[record.kind], record.value)
    )
    head = struct.pack(">2HIH", _KINDS[record.kind], _INTERNET, 0, len(value))
    return _written(record.name or asked) + head + value


def _written(name: str) -> bytes:
    """A name as DNS writes it: each label with its length in front, an empty one at the end."""
    labels = name.rstrip(".").encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _read_name(message: bytes, place: int) -> tuple[str, int]:
    """The name at a place of a message, and the place behind it; nothing here compresses names."""
    labels = []
    while size := message[place]:
        labels.append(message[place + 1 : place + 1 + size].decode("ascii"))
        place += 1 + size
    return ".".join(labels), place + 1
