"""Words that nobody can guess, and the time: what rows and files are named and dated with.

Knows nothing of where they are used.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Callable

#: Bytes of randomness in names that nobody may guess: 192 bits.
SECRET_BYTES = 24

#: What a name in an address may be: a secret, for outputs a picture's index, an extension. No dot
#: or slash leads anywhere else.
FILE_NAME = re.compile(r"[A-Za-z0-9_]{32}(-[0-9])?\.(png|jpeg|webp)", re.ASCII)

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

#: What an Idempotency-Key may be; blanks at its ends are not part of a header's value.
KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?", re.ASCII)

#: The same as patterns of JSON schema, which are looked for anywhere unless they say otherwise.
ID_PATTERN, FILE_NAME_PATTERN = f"^{_ID.pattern}$", f"^{FILE_NAME.pattern}$"
KEY_PATTERN = f"^{KEY.pattern}$"
WORD_PATTERN = "^[A-Za-z0-9_]{32}$"


def new_id() -> str:
    """32 hexadecimal digits that no other prediction has.

    Never with 429 among them, see `_without_429`.
    """
    return _without_429(lambda: uuid.uuid4().hex)


def new_error_word() -> str:
    """8 hexadecimal digits by which an error is found in the log; never with 429 among them."""
    return _without_429(lambda: secrets.token_hex(4))


def _without_429(draw: Callable[[], str]) -> str:
    """A word drawn until it holds no 429.

    The hosted service's JavaScript clients look for that number anywhere in a failed task's id and
    error, and take it for a reason to run the task again.
    """
    while "429" in (word := draw()):
        continue
    return word


def new_secret() -> str:
    """A word that nobody can guess, of 32 letters, digits and underscores.

    Without a dash, which parts it from what follows in file names.
    """
    return secrets.token_urlsafe(SECRET_BYTES).replace("-", "_")


def is_id(text: str) -> bool:
    """Whether it could be a prediction's id."""
    return _ID.fullmatch(text) is not None


def is_file_name(name: str) -> bool:
    """Whether it could be the name of an output or an upload."""
    return FILE_NAME.fullmatch(name) is not None


def is_output_name(name: str) -> bool:
    """Whether the name of a file is an output's, which has a picture's index, and no upload's."""
    return "-" in name


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
