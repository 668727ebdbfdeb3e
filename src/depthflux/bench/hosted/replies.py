"""Answers of the hosted API → values that can be relied on, or one clear error.

Strict where a misreading would cost or mislead (ids, the outputs of what is completed), and
patient elsewhere: pictures that are paid for must not be lost over a word that nobody knows or a
number that is none. Knows nothing of how one asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from depthflux.bench.hosted.base_url import PREDICTION_ID
from depthflux.bench.hosted.errors import UnreadableAnswerError
from depthflux.errors import show, without_secrets
from depthflux.images.container import PictureProblemError
from depthflux.images.url import parse_url
from depthflux.logs import one_line

_Value = TypeVar("_Value")

#: What `data.status` may say. Source: the hosted documentation; the last three of `ENDED` are newer
#: words. Others may come: the official clients go on asking then.
GOING_ON = frozenset({"created", "processing"})
ENDED = frozenset({"completed", "failed", "cancelled", "timeout", "deleted"})
#: `code` of an answer in sync mode that came before its picture.
SYNC_EXPIRED = 5004

_SHOWN_CHARACTERS = 300
_MOST_STATUS_CHARACTERS = 60
#: The API makes 4 pictures at the most.
_MOST_OUTPUTS = 16
#: A day in milliseconds; what claims to have taken longer counts in another unit.
_MOST_MILLISECONDS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class HostedPrediction:
    """A prediction as the side tells of it.

    Attributes:
        id: its id.
        model: `data.model`; empty where it is not told.
        status: created, processing, completed, failed, cancelled, timeout or deleted; or a word
            that is not known, printable and short, of what may be going on.
        outputs: addresses, base64 or data URIs of the pictures, in order, as they came.
        flags: for each output whether it is called not safe for work; None where it is not told.
            As many as came, which need not be as many as outputs.
        error: why it failed, one line; empty where it did not.
        code: `data.code`, the side's own number of the error; None where it is not told.
        inference_s: seconds as reported, of use once it has ended; None where it is not told.
        unread: fields that hold something else than the API has, such as `data.timings.inference`;
            they count as not told.
    """

    id: str
    model: str
    status: str
    outputs: tuple[str, ...]
    flags: tuple[bool, ...] | None
    error: str
    code: int | None
    inference_s: float | None
    unread: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether its state is its last one."""
        return self.status in ENDED

    @property
    def is_known(self) -> bool:
        """Whether its state is one that the API has."""
        return self.status in GOING_ON | ENDED


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A permission to upload one picture.

    Attributes:
        url: where its bytes are put to; a secret.
        headers: that are sent along, and no others.
        download_url: the picture's address afterwards.
    """

    url: str
    headers: dict[str, str]
    download_url: str


def words_of(text: str) -> str:
    """A side's own words as a message repeats them: one line, short, without secrets."""
    line = one_line(without_secrets(text))
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"


def read_object(data: bytes) -> dict[str, Any]:
    """An answer's JSON object.

    Raises:
        UnreadableAnswerError: it is none.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UnreadableAnswerError(f"no JSON ({_begin_of(data)})") from None
    if not isinstance(value, dict):
        raise UnreadableAnswerError(f"no JSON object (got {show(value)})")
    return value


def message_of(data: bytes) -> tuple[str, int | None]:
    """What the body of a refusal says, and its code; empty and None where it says nothing."""
    try:
        document = read_object(data)
    except UnreadableAnswerError:
        return "", None
    told = [document.get(name) for name in ("message", "error")]
    texts = [words_of(text) for text in told if isinstance(text, str) and text.strip()]
    code = document.get("code")
    return (texts[0] if texts else ""), (code if _is_whole(code) else None)


def told_id(data: bytes) -> str:
    """The id that an answer tells, whatever else it says; empty where there is none."""
    try:
        inner = read_object(data).get("data")
    except UnreadableAnswerError:
        return ""
    id = inner.get("id") if isinstance(inner, dict) else None
    return id if isinstance(id, str) and PREDICTION_ID.fullmatch(id) else ""


def read_data(data: bytes, also: frozenset[int] = frozenset()) -> dict[str, Any]:
    """What an answer with HTTP status 200 holds: its `data`.

    Args:
        data: the body.
        also: values of `code` that mean success, too.

    Raises:
        UnreadableAnswerError: there is none, or `code` says that it was no success; then `code`
            of the error is that.
    """
    document = read_object(data)
    code = document.get("code", 200)
    if not _is_whole(code):
        raise UnreadableAnswerError(f"code={show(code)}, which is no whole number")
    if code != 200 and code not in also:
        message, _ = message_of(data)
        said = f" ({message})" if message else ""
        raise UnreadableAnswerError(f"HTTP status 200 but code={code}{said}", code=code)
    inner = document.get("data")
    if not isinstance(inner, dict):
        raise UnreadableAnswerError(f"data={show(inner)}, which is no object")
    return inner


def read_prediction(data: dict[str, Any]) -> HostedPrediction:
    """A prediction.

    Args:
        data: of the envelope.

    Raises:
        UnreadableAnswerError: it is none; the error has its id where that much could be read.
    """
    id = data.get("id")
    if not isinstance(id, str) or not PREDICTION_ID.fullmatch(id):
        raise UnreadableAnswerError(
            f"data.id={show(id)}, where 32 hexadecimal digits are expected (1 to 128 letters, "
            "digits, _ and - are read)"
        )
    unread: list[str] = []
    try:
        status = _status(data)
        return HostedPrediction(
            id=id,
            model=words_of(_patient(_text(data, "model"), "", unread)),
            status=status,
            outputs=_strict(_outputs(data)) if status == "completed" else (),
            flags=_patient(_flags(data), None, unread),
            error=words_of(_patient(_text(data, "error"), "", unread)),
            code=_patient(_code(data), None, unread),
            inference_s=_inference_s(data, unread),
            unread=tuple(unread),
        )
    except UnreadableAnswerError as error:
        error.prediction_id = id
        raise


def read_uploaded(data: dict[str, Any]) -> str:
    """The address of an uploaded picture.

    Raises:
        UnreadableAnswerError: there is none.
    """
    return _address(data, "download_url")


def read_ticket(data: dict[str, Any]) -> Ticket:
    """A ticket for an upload.

    Raises:
        UnreadableAnswerError: it is none that can be used.
    """
    upload = data.get("upload")
    if not isinstance(upload, dict):
        raise UnreadableAnswerError(f"data.upload={show(upload)}, which is no object")
    if upload.get("method", "PUT") != "PUT":
        raise UnreadableAnswerError(f"data.upload.method={show(upload['method'])}, not PUT")
    headers = upload.get("headers") or {}
    if not isinstance(headers, dict) or not all(map(_is_header, headers.items())):
        raise UnreadableAnswerError("data.upload.headers are no headers that a request can have")
    return Ticket(
        url=_address(upload, "url", "data.upload"),
        headers=dict(headers),
        download_url=_address(data, "download_url"),
    )


#: Headers that say where a message goes or ends; another's word on them would split our requests.
_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})


def _is_header(item: tuple[str, object]) -> bool:
    name, value = item
    return (
        PREDICTION_ID.fullmatch(name) is not None
        and name.lower() not in _FRAMING
        and isinstance(value, str)
        and value.isascii()
        and value.isprintable()
    )


def _address(data: dict[str, Any], name: str, where: str = "data") -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise UnreadableAnswerError(f"{where}.{name}={show(value)}, which is no address")
    try:
        parse_url(value)
    except PictureProblemError as problem:
        raise UnreadableAnswerError(f"{where}.{name}={show(value)}: {problem}") from None
    return value


@dataclass(frozen=True)
class _Unread:
    """A field that cannot be read: its name, and what is wrong with it."""

    name: str
    why: str


def _strict(read: _Value | _Unread) -> _Value:
    """What was read, or the error about the field."""
    if isinstance(read, _Unread):
        raise UnreadableAnswerError(read.why)
    return read


def _patient(read: _Value | _Unread, instead: _Value, unread: list[str]) -> _Value:
    """What was read, or `instead`, and the field's name among the `unread`."""
    if isinstance(read, _Unread):
        unread.append(read.name)
        return instead
    return read


def _text(data: dict[str, Any], name: str) -> str | _Unread:
    value = data.get(name)
    if not isinstance(value, str | None):
        return _Unread(f"data.{name}", f"data.{name}={show(value)}, which is no text")
    return value or ""


def _status(data: dict[str, Any]) -> str:
    value = data.get("status")
    if not isinstance(value, str) or not value.strip():
        known = ", ".join(sorted(GOING_ON | ENDED))
        raise UnreadableAnswerError(f"data.status={show(value)}, where known are {known}")
    return words_of(value)[:_MOST_STATUS_CHARACTERS]


def _outputs(data: dict[str, Any]) -> tuple[str, ...] | _Unread:
    return _list(data, "outputs", str, "texts")


def _flags(data: dict[str, Any]) -> tuple[bool, ...] | _Unread | None:
    return _list(data, "has_nsfw_contents", bool, "booleans") or None


def _list(
    data: dict[str, Any], name: str, kind: type[_Value], words: str
) -> tuple[_Value, ...] | _Unread:
    value = data.get(name)
    if value is None:
        return ()
    where = f"data.{name}"
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        return _Unread(where, f"{where}={show(value)}, which is no list of {words}")
    if len(value) > _MOST_OUTPUTS:
        return _Unread(where, f"{where} has {len(value)} entries, over {_MOST_OUTPUTS}")
    return tuple(value)


def _code(data: dict[str, Any]) -> int | _Unread | None:
    value = data.get("code")
    if value is not None and not _is_whole(value):
        return _Unread("data.code", f"data.code={show(value)}, which is no whole number")
    return value


def _inference_s(data: dict[str, Any], unread: list[str]) -> float | None:
    timings = data.get("timings")
    if not isinstance(timings, dict | None):
        unread.append("data.timings")
        timings = None
    told = (
        (
            (timings or {}).get("inference"),
            "data.timings.inference",
        ),
        (data.get("executionTime"), "data.executionTime"),
    )
    of_timings, of_task = (
        _patient(_milliseconds(value, name), None, unread) for value, name in told
    )
    found = of_task if of_timings is None else of_timings
    return None if found is None else found / 1000


def _milliseconds(value: object, name: str) -> float | _Unread | None:
    if value is None:
        return None
    # Compared before it is converted: integers may be too large for floats.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MOST_MILLISECONDS:  # type: ignore[operator]
        return _Unread(name, f"{name}={show(value)}, which are no milliseconds")
    return float(value)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_constant(name: str) -> Callable[[], None]:
    raise ValueError(f"{name} is no JSON")


def _begin_of(data: bytes) -> str:
    return show(data[:200].decode("utf-8", "replace")) if data else "an empty body"
