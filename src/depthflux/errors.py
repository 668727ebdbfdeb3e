"""Every error depthflux raises on purpose, in one tree.

    DepthFluxError
    ├─ RequestError              the caller can fix it            exit 2
    │  ├─ InvalidParameterError     a field is out of its range      HTTP 400, code 1401
    │  ├─ MissingParameterError     a required field is absent       HTTP 400, code 1400
    │  ├─ UnreadableImageError      the image is no usable picture   HTTP 400, code 1402
    │  ├─ ImageFetchError           the image's URL gave no image    HTTP 400, code 1402
    │  └─ OutputError               the results cannot be written    HTTP 500, code 5000
    ├─ SetupError                the operator can fix it          exit 3, HTTP 503, code 5003
    │  ├─ SettingsError             a setting or a combination is refused
    │  ├─ WeightsMissingError       files are not where they should be
    │  ├─ WeightsCorruptError       files are there but not what they should be
    │  ├─ LicenceError              the weights' licence was not accepted
    │  ├─ LoraMismatchError         a LoRA does not fit the model
    │  └─ DeviceError               the asked device or dtype cannot be had
    ├─ GenerationError           this run failed                  exit 1, HTTP 500, code 1403
    │  ├─ OutOfMemoryError          the device's memory ran out
    │  └─ NonFiniteError            the model produced NaN or infinity
    ├─ CancelledError            it was asked to stop             exit 130
    └─ BusyError                 too much is waiting already      exit 1, HTTP 429

The intended use is

    try:
        prediction = engine.generate(prompt="…", control_image="room.jpg")
    except depthflux.RequestError as error:
        print(error.field, error.allowed)     # what the caller can correct
    except depthflux.SetupError as error:
        print(error.fix)                      # the command that helps

A message is one line: what is wrong, the value got, what is allowed, what to do. Errors of
other libraries are translated where they are called; this module knows none of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import ClassVar

#: How much of a value an error message repeats; a data URI of 5 MB must not fill the screen.
MAX_SHOWN_CHARACTERS = 60
#: Beyond these no message shows anything.
_MOST_READ = 4096
#: What stands between an address's slashes and its host, and behind its path. Source: RFC 3986, 3.
#: The text is a stranger's: the first ends where it could begin anew, the second also takes a path
#: that no query follows. Else each slash were a new begin, and the time grew with the square.
_USER = re.compile(r"//[^/?#\s]*@")
_QUERY = re.compile(r"(//[^\s?#'\"]*)([?#][^\s'\"]*)?")
#: What may be a user and a password, where reading stops before their end.
_BEGUN_USER = re.compile(r"//[^/?#\s]*\Z")


def show(value: object) -> str:
    """A value as an error message repeats it: its `repr`, cut after 60 characters.

    Of an address neither user, password nor query is repeated: messages are stored and logged.
    Arrays and images are named by type only, since their repr says nothing a caller can use.
    """
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if not isinstance(value, str | int | float | bool | list | tuple | dict | type(None)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 10**MAX_SHOWN_CHARACTERS:
        # Python refuses to write out integers of several thousand digits.
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    text = without_secrets(repr(value))
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


def without_secrets(text: str) -> str:
    """The start of a text, in which no address has a user, a password or a query any more."""
    read = _USER.sub("//…@", text[:_MOST_READ])
    if len(text) > _MOST_READ:
        read = _BEGUN_USER.sub("//…", read)
    return _QUERY.sub(lambda found: found[1] + ("?…" if found[2] else ""), read)


def first_line(error: BaseException) -> str:
    """The first line of another library's message without its full stop, for a message of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def shown_name(name: str) -> str:
    """A name from elsewhere as messages repeat it: quoted where a terminal might act on it."""
    return name if re.fullmatch(r"[\w.-]{1,120}", name, re.ASCII) else show(name)


def unknown_name_problem(name: str, known: Sequence[str], *, kind: str = "field") -> str:
    """One line about an unknown name, with the nearest known one where there is one.

    Args:
        name: what was given; quoted where it holds anything that a terminal might act on.
        known: the names there are.
        kind: what the name is of, such as `field` or `command`.
    """
    near = difflib.get_close_matches(name[:MAX_SHOWN_CHARACTERS], known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}."
    return f"{shown_name(name)}: there is no such {kind}{hint}"


class DepthFluxError(Exception):
    """Base of all errors that depthflux raises on purpose.

    Attributes:
        exit_code: what the command line exits with.
        http_status: what the server answers with when a request is refused for it.
        hosted_code: `data.code` of a task that failed for it, as the hosted endpoint numbers them.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    hosted_code: ClassVar[int] = 5000


class RequestError(DepthFluxError):
    """The caller can fix it.

    Attributes:
        field: the request field at fault.
        value: what was given for it.
        allowed: what may be given instead, in words.
    """

    exit_code = 2
    http_status = 400
    hosted_code = 1401

    def __init__(
        self, message: str, *, field: str = "", value: object = None, allowed: str = ""
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.allowed = allowed


class InvalidParameterError(RequestError):
    """A field's value is outside what is allowed, such as `num_inference_steps=51`.

    Attributes:
        problems: one line for every field at fault; the message is all of them.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        value: object = None,
        allowed: str = "",
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, field=field, value=value, allowed=allowed)
        self.problems = problems or (message,)


class MissingParameterError(InvalidParameterError):
    """A required field is absent or empty, such as a request without a prompt."""

    hosted_code = 1400


class UnreadableImageError(RequestError):
    """The bytes are no PNG, JPEG or WebP picture within the caps, such as a text file."""

    hosted_code = 1402


class ImageFetchError(RequestError):
    """The URL of an image was refused or gave no picture, such as one to a private address."""

    hosted_code = 1402


class OutputError(RequestError):
    """The results cannot be written where they were asked for, such as a read-only folder."""

    http_status = 500
    hosted_code = 5000


class SetupError(DepthFluxError):
    """The operator can fix it.

    Attributes:
        fix: a command or an action that helps, in words; already part of the message.
    """

    exit_code = 3
    http_status = 503
    hosted_code = 5003

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(f"{message} {fix}".strip())
        self.fix = fix


class SettingsError(SetupError):
    """A setting is unknown, out of range or contradicts another; said before weights are read."""


class WeightsMissingError(SetupError):
    """Weight files are not where they should be; the message lists all that are missing."""


class WeightsCorruptError(SetupError):
    """Weight files are truncated, of wrong shapes or not safetensors; the message lists all."""


class LicenceError(SetupError):
    """The licence of the weights has to be accepted before they are used."""


class LoraMismatchError(SetupError):
    """A LoRA's tensors do not fit the model they are added to."""


class DeviceError(SetupError):
    """The asked device, dtype or attention kernel cannot be had on this machine."""


class GenerationError(DepthFluxError):
    """This run failed; the same request may succeed later or with smaller values."""

    hosted_code = 1403


class OutOfMemoryError(GenerationError):
    """The device's or the computer's memory ran out; the message says what to lower."""


class NonFiniteError(GenerationError):
    """The model produced NaN or infinity, which a picture would show as black.

    Attributes:
        step: the first denoising step (from 1) at fault, 0 where decoding was.
    """

    def __init__(self, message: str, *, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class CancelledError(DepthFluxError):
    """The run was asked to stop and did, between two steps; nothing was written."""

    exit_code = 130


class BusyError(DepthFluxError):
    """Too much is waiting already.

    Attributes:
        retry_after_s: when to ask again, in seconds.
    """

    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
